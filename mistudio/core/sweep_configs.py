"""Several trainings from one pass: layers, hooks and every combination of varied settings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mistudio.core.config import Violation, option, settings_of, violations
from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import InvalidInput
from mistudio.core.model_configs import chosen_layers, layers_are_readable
from mistudio.core.training_checks import doubts
from mistudio.core.training_configs import TrainConfig

MOST = 64  # SAEs of one pass
MANY_LAYERS = 4  # more are warned of
# What all members share: the pass over the data, the layer and hook (which have fields of their
# own), and what belongs to the whole.
SHARED = frozenset(
    {
        "model",
        "dataset",
        "more_datasets",
        "dataset_weight",
        "activations",
        "encoder",
        "layer",
        "hook",
        "hook_in",
        "hook_out",
        "name",
        "context",
        "mask_special",
        "skip_positions",
        "norm_cut",
        "window",
        "data_seed",
        "shuffle",
        "eval_every",
        "eval_tokens",
        "held_out_share",
    }
)


def _is_sae(config: TrainConfig) -> bool:
    return config.encoder == "sae"


@dataclass(frozen=True)
class SweepConfig(TrainConfig):
    """Train an SAE for every layer, hook and combination of settings, all from one pass."""

    layers: str = option(
        "", "Layers", "Blocks such as 0,6,11 or 0-3 or all; empty takes the layer."
    )
    hooks: tuple[str, ...] = option(
        (),
        "Hooks",
        "Hooks to learn; none takes the hook. Repeat for several.",
        choices=SAE_HOOKS,
        applies=_is_sae,
    )
    vary: tuple[str, ...] = option(
        (),
        "Vary",
        "A setting with its values, as k=16,32,64; every combination is trained. Repeat for "
        "several settings.",
    )

    def members(self, layer_count: int) -> list[TrainConfig]:
        """The settings of each training; raises `InvalidInput` for what cannot be read.

        All draw their tokens in the same order, so that one pass serves them.
        """
        layers = chosen_layers(self.layers, layer_count) if self.layers else [self.layer]
        if not layers:
            raise InvalidInput(
                f"There is no such layer; the model has blocks 0 to {layer_count - 1}."
            )
        grid = [_values(text) for text in self.vary]
        if len({name for name, _ in grid}) < len(grid):
            raise InvalidInput("A setting is varied twice; give all its values at once.")
        shared: dict[str, Any] = {s.name: getattr(self, s.name) for s in settings_of(TrainConfig)}
        base = dataclasses.replace(TrainConfig(**shared), data_seed=self.order_seed)
        found: list[TrainConfig] = []
        hooks = self.hooks if self.hooks and _is_sae(self) else (self.hook,)
        for layer, hook in itertools.product(layers, hooks):
            for values in itertools.product(*(values for _, values in grid)):
                varied = {name: value for (name, _), value in zip(grid, values, strict=True)}
                told = [f"{name} {value}" for name, value in varied.items()]
                place = dataclasses.replace(base, layer=layer, hook=hook).place
                name = " ".join([self.name, f"L{layer} {place}", *told]) if self.name else ""
                member: dict[str, Any] = {**varied, "layer": layer, "hook": hook, "name": name}
                found.append(dataclasses.replace(base, **member))
        if len(found) > MOST:
            raise InvalidInput(f"That makes {len(found)} SAEs; {MOST} is the most for one pass.")
        return found

    @property
    def varied(self) -> list[str]:
        """Names of the settings that are varied."""
        return [text.partition("=")[0].strip() for text in self.vary]

    def warnings(self) -> list[str]:
        """What is probably not meant of the whole or of a member, each sentence once."""
        try:
            alike = dataclasses.replace(self, layers="", hooks=()).members(1)
        except InvalidInput:  # told by `check`
            alike = [self]
        told = [sentence for member in alike for sentence in doubts(member)]
        return [*dict.fromkeys(told), *self.own_warnings()]

    def own_warnings(self) -> list[str]:
        """What is probably not meant of the whole, beside what its members tell."""
        found: list[str] = []
        layers = chosen_layers(self.layers, 4096) if layers_are_readable(self.layers) else []
        if len(layers) > MANY_LAYERS:
            found.append(
                f"{len(layers):,} layers are learnt at once: memory and the time of a step grow "
                "with each."
            )
        return found

    def check(self) -> Iterable[Violation]:
        yield from super().check()
        if self.layers and not layers_are_readable(self.layers):
            yield Violation("layers", "Write layers as 0,6,11 or 0-3 or all.")
            return
        for hook in self.hooks:
            if hook not in SAE_HOOKS:
                yield Violation("hooks", f"Hooks must be of {', '.join(SAE_HOOKS)}.")
        try:
            members = self.members(4096)
        except InvalidInput as error:
            yield Violation("vary", error.sentence)
            return
        for member in members:
            for violation in violations(member):
                yield Violation("vary", violation.sentence)
                return


def _values(text: str) -> tuple[str, list[Any]]:
    """Name and values of "k=16,32"; raises `InvalidInput`."""
    name, equals, listed = (part.strip() for part in text.partition("="))
    known = {s.name: s for s in settings_of(TrainConfig) if s.name not in SHARED}
    if not equals or name not in known:
        raise InvalidInput(
            f"{text!r} cannot be varied. Write a setting and its values, as k=16,32; settings are "
            f"{', '.join(sorted(known))}."
        )
    kind = known[name].type
    try:
        values = [_value(kind, part.strip()) for part in listed.split(",")]
    except ValueError:
        raise InvalidInput(f"{text!r} holds a value that {name} cannot have.") from None
    if len(set(values)) < len(values):
        raise InvalidInput(f"{text!r} holds a value twice.")
    return name, values


def _value(kind: type, text: str) -> Any:
    if kind is bool:
        if text.lower() not in ("on", "off", "true", "false"):
            raise ValueError(text)
        return text.lower() in ("on", "true")
    if not text:
        raise ValueError(text)
    return kind(text)
