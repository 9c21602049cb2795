"""A script of plain torch and transformers that steers as described and prints the greedy text.

The script stands beside a small safetensors file with the directions and, for operators that need
a feature's own activation, what of the encoder they need. It imports nothing of this program.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mistudio.core.atomic import atomic_directory
from mistudio.core.errors import InvalidInput, Unsupported, from_os_error
from mistudio.ml.formats.tensors import save_tensors
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.snippet_script import SCRIPT

OPERATORS = ("add", "clamp", "multiply", "ablate", "directional_ablate")
READS_FEATURE = ("clamp", "multiply", "ablate")
RULES = ("all", "prompt", "generated", "last", "first", "range")
TENSORS, FILE = "steering.safetensors", "steer.py"


@dataclass(frozen=True)
class SnippetFeature:
    """One edit by a feature: `value` is alpha, c or m in the SAE's own units."""

    feature: int
    operator: str = "add"
    value: float = 0.0


@dataclass(frozen=True)
class SnippetHook:
    """The edits at one module of the Hugging Face model, such as "model.layers.3".

    All read what the module gives before any edit; their changes are summed. `vector_D` is added
    as it is, in units of the stream. A token whose norm exceeds `norm_limit` is left alone.
    """

    path: str
    vector_D: torch.Tensor | None = None
    sae: SparseAutoencoder | None = None
    features: tuple[SnippetFeature, ...] = ()
    norm_limit: float | None = None


class Positions(NamedTuple):
    """Tokens that are steered, by absolute position; `first` and `last` (without it) are numbers
    of tokens for the rules "first" and "range"."""

    rule: str = "all"
    first: int = 0
    last: int = 0


EVERYWHERE = Positions()


@dataclass(frozen=True)
class SnippetSpec:
    """A model (folder or repository), what is done to it, and the text it continues.

    `dtype` is torch's name of the weights' type. `skip_ids` are tokens that are never steered,
    `end_ids` those that end a text. With `is_chat` the prompt is put into the chat template.
    """

    model: str
    hooks: tuple[SnippetHook, ...]
    prompt: str
    max_tokens: int = 100
    dtype: str = "float32"
    positions: Positions = EVERYWHERE
    skip_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    is_chat: bool = False
    revision: str = ""


def write_snippet(folder: Path, spec: SnippetSpec) -> Path:
    """Write the script and its tensors into a new folder; returns the script.

    Raises `InvalidInput` for a spec that says nothing or contradicts itself, `Unsupported` for
    what a script cannot do, and what the disk says.
    """
    tensors: dict[str, torch.Tensor] = {}
    hooks = [_hook(number, hook, tensors) for number, hook in enumerate(spec.hooks)]
    if not hooks or not tensors:
        raise InvalidInput("Nothing is steered; add a feature or a vector.")
    if spec.positions.rule not in RULES:
        raise InvalidInput(f"There is no position rule {spec.positions.rule!r}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already. Name a folder that is not.")
    script = _filled(
        MODEL=spec.model,
        REVISION=spec.revision or None,
        DTYPE=spec.dtype,
        PROMPT=spec.prompt,
        IS_CHAT=spec.is_chat,
        MAX_TOKENS=spec.max_tokens,
        POSITIONS=tuple(spec.positions),
        SKIP_IDS=sorted(spec.skip_ids),
        END_IDS=sorted(spec.end_ids),
        HOOKS=hooks,
    )
    try:
        with atomic_directory(folder) as temporary:
            save_tensors(temporary / TENSORS, tensors)
            (temporary / FILE).write_text(script, encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, "write the snippet") from error
    return folder / FILE


def _filled(**values: Any) -> str:
    """The script with these values as Python literals, each in its own marked place."""
    text = SCRIPT
    for name, value in values.items():
        marker = f"{name} = ...\n"
        assert marker in text
        text = text.replace(marker, f"{name} = {_literal(value)}\n", 1)
    return text


def _literal(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return "[\n" + "".join(f"    {item!r},\n" for item in value) + "]"
    return repr(value)


def _hook(number: int, hook: SnippetHook, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the script is told of a hook; its tensors are added under names that start with it."""
    stem = f"hook{number}"
    told: dict[str, Any] = {"module": hook.path, "norm_limit": hook.norm_limit, "features": []}
    if hook.vector_D is not None:
        tensors[f"{stem}.vector"] = hook.vector_D.float()
    if hook.features:
        if hook.sae is None:
            raise InvalidInput(f"The features at {hook.path} have no SAE.")
        told |= _features(stem, hook.path, hook.sae, hook.features, tensors)
    return told


def _features(
    stem: str,
    path: str,
    sae: SparseAutoencoder,
    features: Sequence[SnippetFeature],
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    ordered = sorted(features, key=lambda one: one.feature)
    ids = [one.feature for one in ordered]
    if len(set(ids)) != len(ids):
        raise InvalidInput(f"A feature at {path} is named twice; give it one edit.")
    for one in ordered:
        if one.operator not in OPERATORS:
            raise Unsupported(f"The operator {one.operator!r} cannot be written as a script yet.")
        if not 0 <= one.feature < sae.n_latents:
            raise InvalidInput(
                f"Feature {one.feature:,} does not exist; the SAE has {sae.n_latents:,} latents."
            )
    tensors[f"{stem}.directions"] = sae.W_dec_FO[ids].float()
    told: dict[str, Any] = {
        "features": [(one.feature, one.operator, float(one.value)) for one in ordered]
    }
    if not any(one.operator in READS_FEATURE for one in ordered):
        return told
    if sae.is_transcoder:
        raise Unsupported(
            "These features read one place and write another; as a script they can only be added."
        )
    # Which latents a TopK keeps depends on all of them; others can be computed alone.
    whole = sae.architecture == "topk"
    columns = list(range(sae.n_latents)) if whole else ids
    tensors[f"{stem}.W_enc"] = sae.W_enc_DF[:, columns]
    tensors[f"{stem}.b_enc"] = sae.b_enc_F[columns]
    if sae.apply_b_dec_to_input:
        tensors[f"{stem}.b_dec"] = sae.b_dec_O
    if sae.threshold_F is not None and sae.architecture == "jumprelu":
        tensors[f"{stem}.threshold"] = sae.threshold_F[columns]
    return told | {"top_k": sae.k if whole else None, "columns": ids if whole else None}
