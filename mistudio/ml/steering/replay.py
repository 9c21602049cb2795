"""Reads one text as the unsteered model and as any number of steered ones, each layer once.

What lies before the first steered place is the same for all of them and is run once; the rest is
run for a batch of variants, with the same hooks that steer generation. So an edit acts on the
later layers' keys and values of every position, exactly as in a pass of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch

from mistudio.core.errors import InvalidInput, StudioError, Unsupported
from mistudio.core.steering_spec import Spec
from mistudio.ml.evaluation.language_model_loss import rows_per_pass
from mistudio.ml.features.rerun import Clean, Rerun
from mistudio.ml.hooks import Place as ModelPlace
from mistudio.ml.hooks import hook_place, listen
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.hook import Pass
from mistudio.ml.steering.operators import Site
from mistudio.ml.steering.positions import Allowed, ranges_of
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Library, Place
from mistudio.ml.steering.steered_model import SteeredModel


@dataclass(frozen=True)
class Told:
    """One variant's predictions on the text.

    `logits_TV` are those of the last T tokens asked for, the baseline's beside them. `ratio_S`:
    |Δ| / |x| per token of the text, at the place where it is largest, 0 where nothing was changed;
    `delta_norm`: mean over the tokens that were changed of their largest |Δ|, None of none.
    """

    base_TV: torch.Tensor
    logits_TV: torch.Tensor
    ratio_S: torch.Tensor
    delta_norm: float | None

    @property
    def acted(self) -> int:
        """How many tokens were changed."""
        return int((self.ratio_S != 0).sum())


class Replay:
    """A text (a prompt and what follows it) that can be read again under any specification.

        replay = Replay(loaded, prompt, baseline_ids)
        for name, told in replay.read({"a": spec, "b": other}, library): ...

    Clean passes are kept per first steered block, so that another strength costs only the blocks
    behind it. No hook may be on the model when `read` is called, and none is left.
    """

    def __init__(
        self, loaded: LoadedModel, prompt: Prompt, following_ids: Collection[int] = ()
    ) -> None:
        """Raises `InvalidInput` if there is no token, or more than the model reads."""
        self.loaded, self.prompt = loaded, prompt
        self.ids = [*prompt.ids, *following_ids]
        limit = loaded.facts.max_positions
        if not self.ids or (limit and len(self.ids) > limit):
            raise InvalidInput(f"The text has {len(self.ids):,} tokens; between 1 and {limit} fit.")
        self._ids_1S = torch.tensor([self.ids], device=loaded.device)
        self._reruns: dict[int, Rerun | None] = {}
        self._clean: dict[int, Clean] = {}
        self._base_SV: torch.Tensor | None = None

    @property
    def base_SV(self) -> torch.Tensor:
        """Logits of the unsteered model, in its own type."""
        found = self._base_SV
        if found is None:
            with torch.inference_mode():
                output = self.loaded.model(input_ids=self._ids_1S, use_cache=False)
            found = self._base_SV = output.logits[0]
        return found

    def follow(self, other: Replay) -> Replay:
        """Itself, with the probed model of another text, whose probing is then not repeated."""
        if other.loaded is self.loaded and len(self.ids) <= max(len(other.ids), 64):
            self._reruns = dict(other._reruns)
        return self

    def first_acted(self, specs: Collection[Spec]) -> int:
        """The first position that any of these may change; the text's length if there is none."""
        model = SteeredModel(self.loaded, {}, Library())
        may_RS = self._allowed(model, list(specs))
        return min((int(m.nonzero()[0]) for m in may_RS if m.any()), default=len(self.ids))

    @torch.inference_mode()
    def read(
        self,
        variants: Mapping[str, Spec],
        library: Library,
        *,
        last: int = 0,
        norms: Mapping[Place, float] | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[tuple[str, Told]]:
        """Each variant's predictions, in order; of the `last` tokens only, or of all (0).

        `check` is called between passes and may raise. Raises as `SteeredModel`, and `StudioError`
        if a hook did not fire or logits are no numbers.
        """
        model = SteeredModel(self.loaded, variants, library, norms=norms)
        names = list(variants)
        count = last or len(self.ids)
        if not model.hooks:
            base_TV, none_S = self.base_SV[-count:], torch.zeros(len(self.ids))
            for name in names:
                yield name, Told(base_TV, base_TV, none_S, None)
            return
        block = _first_block(model.prepared.sites)
        rerun = self._rerun(block)
        clean = self._clean_pass(block, rerun)
        base_TV = self.base_SV[-count:]
        specs = [variants[name] for name in names]
        may_RS = self._allowed(model, specs)
        step = rows_per_pass(count, self.base_SV.shape[1]) * 2
        for start in range(0, len(names), step):
            check()
            part = slice(start, start + step)
            logits_RTV, ratio_RS, size_RS = self._pass(
                model, rerun, clean, names[part], specs[part], may_RS[part], last
            )
            for row, name in enumerate(names[part]):
                logits_TV = logits_RTV[row, -count:]
                if not torch.isfinite(logits_TV).all():
                    raise StudioError(
                        "The model's output is no number any more; use a smaller strength.",
                        code="not_finite",
                    )
                sizes_S = size_RS[row][ratio_RS[row] != 0]
                changed = bool(len(sizes_S))
                yield (
                    name,
                    Told(
                        base_TV,
                        logits_TV if changed else base_TV,  # bit for bit where nothing changed
                        ratio_RS[row].cpu(),
                        float(sizes_S.mean()) if len(sizes_S) else None,
                    ),
                )

    def _pass(
        self,
        model: SteeredModel,
        rerun: Rerun | None,
        clean: Clean | None,
        names: list[str],
        specs: list[Spec],
        may_RS: torch.Tensor,
        last: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits [R, at least `last`, V] and, per token [R, S], |Δ| / |x| and |Δ|."""
        device = self.loaded.device
        acting = may_RS.any(0).nonzero()
        first = int(acting[0]) if len(acting) else 0
        first = min(first, len(self.ids) - 1)
        start = first if rerun is not None and rerun.resumes else 0
        announced = Pass(
            may_RS[:, start:],
            torch.tensor([model.index(name) for name in names], device=device),
            torch.tensor([spec.positions.sinks for spec in specs], device=device),
        )
        rows_R = torch.zeros(len(names), dtype=torch.int64, device=device)
        shape = may_RS.shape
        norms_HRS = [torch.zeros(shape, device=device) for _ in model.hooks]
        with ExitStack() as stack:
            for hook, norm_RS in zip(model.hooks, norms_HRS, strict=True):
                # put before the steering hook, so that it sees what that one changes
                place = hook_place(self.loaded, *hook.site.place)
                stack.enter_context(_listening(place, norm_RS[:, start:]))
            stack.enter_context(model)
            model.expect(announced)
            if rerun is None or clean is None:
                ids_RS = self._ids_1S.expand(len(names), -1)
                logits_RTV = self.loaded.model(input_ids=ids_RS, use_cache=False).logits
            else:
                logits_RTV = rerun.again(clean, rows_R, None, start, last=last)
            model.confirm(announced)
        ratio_RS, size_RS = torch.zeros(2, *shape, device=device)
        for hook, norm_RS in zip(model.hooks, norms_HRS, strict=True):
            if hook.ratio_BS is not None:
                here_RS = torch.zeros(shape, device=device)
                here_RS[:, start:] = hook.ratio_BS
                size_RS = torch.maximum(size_RS, here_RS * norm_RS)
                ratio_RS = torch.maximum(ratio_RS, here_RS)
        missing = (last or len(self.ids)) - logits_RTV.shape[1]
        if missing > 0:  # what comes before the first steered token is as it was
            before_TV = self.base_SV[start - missing : start]
            logits_RTV = torch.cat([before_TV.expand(len(names), -1, -1), logits_RTV], 1)
        return logits_RTV, ratio_RS, size_RS

    def _allowed(self, model: SteeredModel, specs: list[Spec]) -> torch.Tensor:
        """Which tokens each specification may change, bool [R, S]."""
        ranges = [() if s.is_empty else ranges_of(s.positions, self.prompt) for s in specs]
        special = [s.positions.special for s in specs]
        allowed = Allowed(ranges, special, model.special, self.loaded.device)
        ids_RS = self._ids_1S.expand(len(specs), -1)
        place_RS = torch.arange(len(self.ids), device=self.loaded.device).expand_as(ids_RS)
        return allowed(ids_RS, place_RS)

    def _rerun(self, block: int) -> Rerun | None:
        """What runs the blocks behind `block` alone; None if whole passes are needed."""
        if block not in self._reruns:
            found = None
            if block >= 0:
                size = max(len(self.ids), 64)
                try:
                    found = Rerun(self.loaded, block, "resid_post", most_tokens=size)
                except Unsupported:
                    found = None
            self._reruns[block] = found
        return self._reruns[block]

    def _clean_pass(self, block: int, rerun: Rerun | None) -> Clean | None:
        if rerun is not None and block not in self._clean:
            self._clean = {block: rerun.clean(self._ids_1S)}  # one is enough for one position
            self._base_SV = self._clean[block].logits_BSV[0]
        return self._clean.get(block)


def _first_block(sites: Collection[Site]) -> int:
    """The last block that no site changes or reads inside of; -1 if there is none."""
    return min(
        site.place.layer - (site.place.hook != "resid_post" or bool(site.hook_in)) for site in sites
    )


@contextmanager
def _listening(place: ModelPlace, norm_RS: torch.Tensor) -> Iterator[None]:
    """While active, lengths of what is at a place go into `norm_RS`."""

    def keep(x: torch.Tensor) -> None:
        norm_RS.copy_(x.float().norm(dim=-1).view_as(norm_RS))

    handle = listen(place, keep)
    try:
        yield
    finally:
        handle.remove()
