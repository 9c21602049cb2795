"""A script of plain torch and transformers that steers as described and prints the greedy text.

The script holds its directions and, for operators that need a feature's own activation, what of
the encoder they need: written into it where they are small, else in a safetensors file beside it.
It imports nothing of this program.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import InvalidInput, Unsupported, from_os_error
from mistudio.core.steering_operators import OPERATORS, Reads, Value
from mistudio.core.steering_positions import Range
from mistudio.core.units import format_bytes
from mistudio.ml.formats.tensors import save_tensors
from mistudio.ml.hooks import INPUT
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.operators import Channel, Gate, Site
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.snippet_script import FORMULAS, script_with
from mistudio.ml.steering.sources import Place

INLINE_BYTES = 1 << 16  # up to which tensors are written into the script
_WIDTH = 88  # characters of a line of tensors
_OPENING = '"""Steers a language model and prints the text'
_CHOSEN = {
    "all": "position >= 0",
    "prompt": "position < self.prompt_length",
    "generated": "position >= self.prompt_length",
    "last": "position == self.prompt_length - 1",
}
Columns = dict[tuple[str, int], int]  # by SAE and feature
Places = Mapping[Place, tuple[int, Columns]]  # number of the hook, and its columns


class SnippetHook(NamedTuple):
    """What is done at one module of the Hugging Face model, such as "model.layers.3"."""

    path: str
    site: Site


@dataclass(frozen=True)
class SnippetSpec:
    """A model (folder or repository), what is done to it, and the text it continues.

    `variant` is the row of the sites' tensors that is written. `loading` are arguments of
    `from_pretrained`, `dtype` is torch's name of the weights' type, `quantised` the arguments of
    a `BitsAndBytesConfig`. `rule` is one of all, prompt, generated and last; else `ranges` are
    steered, `about` says what they are. `skip_ids` are tokens that are never steered, `end_ids`
    those that end a text. `norm` and `cap` are the rules of a specification. With `is_chat` the
    prompt is put into the chat template.
    """

    model: str
    hooks: tuple[SnippetHook, ...]
    prompt: str
    variant: int = 0
    max_tokens: int = 100
    dtype: str = "float32"
    loading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    quantised: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_prequantised: bool = False
    rule: str = "all"
    ranges: tuple[Range, ...] = ()
    about: str = ""
    steers_sinks: bool = False
    skip_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    norm: str = ""
    cap: float = 1.0
    is_chat: bool = False
    is_cached: bool = True
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()


class Snippet(NamedTuple):
    """A script; `tensors` go into the file `tensors_file` beside it, {} if it holds them."""

    script: str
    tensors: dict[str, torch.Tensor]
    tensors_file: str


def make_snippet(spec: SnippetSpec, tensors_file: str = "") -> Snippet:
    """The script of a specification; with a name for their file, large tensors stay out of it.

    Raises `InvalidInput` for a specification that changes nothing, and `Unsupported`, naming the
    part, for what a script cannot do.
    """
    tensors: dict[str, torch.Tensor] = {}
    places = {h.site.place: (n, _columns(h.site)) for n, h in enumerate(spec.hooks)}
    hooks = [_hook(n, spec, hook, places, tensors) for n, hook in enumerate(spec.hooks)]
    edits = [edit for told in hooks for edit in told["edits"]]
    if not edits:
        raise InvalidInput("Nothing is steered; add a feature or a vector and give it a strength.")
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    size = sum(value.numel() * value.element_size() for value in tensors.values())
    inline = size <= INLINE_BYTES
    if not inline and not tensors_file:
        raise Unsupported(
            f"The vectors and encoders that this steering needs take {format_bytes(size)}, too "
            "much for the text of a script; save it as a file, and they are written beside it."
        )
    text = script_with(_parts(spec, hooks, edits, inline=inline))
    values = {
        "MODEL": spec.model,
        "LOADING": dict(spec.loading),
        "DTYPE": spec.dtype,
        "QUANTISED": dict(spec.quantised),
        "PROMPT": spec.prompt,
        "IS_CHAT": spec.is_chat,
        "MAX_TOKENS": spec.max_tokens,
        "REPETITION_PENALTY": spec.repetition_penalty,
        "PRESENCE_PENALTY": spec.presence_penalty,
        "FREQUENCY_PENALTY": spec.frequency_penalty,
        "STOP": list(spec.stop),
        "END_IDS": sorted(spec.end_ids),
        "SKIP_IDS": sorted(spec.skip_ids),
        "TENSORS_FILE": tensors_file,
    }
    filled = {f"{name} = ...": f"{name} = {value!r}" for name, value in values.items()}
    filled["HOOKS = ..."] = _hooks_text(hooks)
    used = sorted({edit["operator"] for edit in edits})
    changes = [f'    "{name}": lambda own, value, high: {FORMULAS[name]},' for name in used]
    filled["    CHANGES = ..."] = "\n".join(changes)
    filled["        chosen = ..."] = _chosen(spec)
    if inline:
        written = base64.b64encode(save(tensors)).decode("ascii")
        lines = [f'        "{line}"' for line in textwrap.wrap(written, _WIDTH)]
        filled["        TENSORS = ..."] = "\n".join(lines)
    # line by line, so that what a prompt holds is never taken for a place to fill
    script = "\n".join(filled.get(line, line) for line in text.splitlines()) + "\n"
    return Snippet(script, {} if inline else tensors, "" if inline else tensors_file)


def write_snippet(path: Path, spec: SnippetSpec) -> list[Path]:
    """Write the script and, where its tensors are large, their file beside it; what was written.

    A script of this kind is replaced. Raises as `make_snippet`, `InvalidInput` if the file for the
    tensors would replace another, and what the disk says.
    """
    beside = path.with_suffix(".safetensors")
    made = make_snippet(spec, beside.name)
    if made.tensors and beside.exists() and not _is_ours(path):
        raise InvalidInput(f"{beside} is there already. Give the script another name.")
    try:
        if made.tensors:
            with atomic_file(beside) as temporary:
                save_tensors(temporary, made.tensors)
        with atomic_file(path) as temporary:
            temporary.write_text(made.script, encoding="utf-8")
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return [path, beside] if made.tensors else [path]


def _is_ours(path: Path) -> bool:
    try:
        return path.read_text(encoding="utf-8").startswith(_OPENING)
    except (OSError, UnicodeDecodeError):
        return False


def _parts(
    spec: SnippetSpec, hooks: Sequence[Any], edits: Sequence[Any], *, inline: bool
) -> set[str]:
    """The parts of the script that are needed."""
    wanted = {
        "inline": inline,
        "file": not inline,
        "quantised": bool(spec.quantised),
        "prequantised": spec.is_prequantised,
        "plain": not spec.quantised and not spec.is_prequantised,
        "repetition": spec.repetition_penalty != 1.0,
        "counted": bool(spec.presence_penalty or spec.frequency_penalty),
        "stop": bool(spec.stop),
        "cached": spec.is_cached,
        "uncached": not spec.is_cached,
        "inputs": any(told.get("input") for told in hooks),
        "features": any(told["features"] for told in hooks),
        "pursuit": any(r["pursuit"] for told in hooks for r in told.get("readers", ())),
        "coordinates": any("coordinate" in edit for edit in edits),
        "conditions": any("only_where" in edit for edit in edits),
        "keep": spec.norm == "keep",
        "bound": spec.norm == "cap",
    }
    return {name for name, needed in wanted.items() if needed}


def _chosen(spec: SnippetSpec) -> str:
    """The line that says which positions are steered."""
    indent = " " * 8
    if spec.rule in _CHOSEN:
        return f"{indent}chosen = {_CHOSEN[spec.rule]}"
    parts = [
        f"(position >= {low})" if high is None else f"((position >= {low}) & (position < {high}))"
        for low, high in spec.ranges
    ]
    note = f"{indent}# the tokens of {spec.about!r} in this prompt\n" if spec.about else ""
    return note + f"{indent}chosen = " + (" | ".join(parts) or "position < 0")


def _hooks_text(hooks: Sequence[Mapping[str, Any]]) -> str:
    """The hooks as Python, an edit per line."""
    lines = ["HOOKS = ["]
    for told in hooks:
        lines.append("    {")
        for name, value in told.items():
            if name == "edits":
                lines += ['        "edits": [', *(f"            {edit!r}," for edit in value)]
                lines.append("        ],")
            else:
                lines.append(f'        "{name}": {value!r},')
        lines.append("    },")
    return "\n".join([*lines, "]"])


def _hook(
    number: int,
    spec: SnippetSpec,
    hook: SnippetHook,
    places: Places,
    tensors: dict[str, torch.Tensor],
) -> dict[str, Any]:
    """What the script is told of a hook; its tensors are added under names that start with it."""
    site, n = hook.site, spec.variant
    if any(bool(mine_N[n]) for _, mine_N in site.replacements):
        raise Unsupported(
            "A script cannot put an SAE's reconstruction in place of the activations (replace); "
            "leave that out."
        )
    if site.place.hook == "resid_mid":
        raise Unsupported(
            f"What is added at {site.place.words}, between attention and MLP, cannot be written as "
            "a script: no module reads that alone."
        )
    columns = _columns(site)
    channels = [c for c in site.channels if bool(c.active_N[n]) and _counts(c, n)]
    reads = any(c.operator.reads is Reads.FEATURE for c in channels) or bool(site.watched)
    if reads and any(reader.reads_elsewhere for reader in site.readers.values()):
        raise Unsupported(
            f"The features at {hook.path} are of a transcoder, which reads one place and writes "
            "another; as a script they can only be added."
        )
    told: dict[str, Any] = {
        "module": hook.path.removesuffix(INPUT),
        "norm_limit": None if spec.steers_sinks else _finite(site.norm_limit),
        "edits": [],
        "features": len(columns) if reads else 0,
        "norm": spec.norm,
    }
    if any(other.path.endswith(INPUT) for other in spec.hooks):
        told["input"] = hook.path.endswith(INPUT)
    if spec.norm == "cap":
        told["cap"] = spec.cap
    if reads:
        told["readers"] = [
            _reader(f"{number}.{part}", reader, tensors)
            for part, reader in enumerate(_used(site).values())
        ]
    for row, channel in enumerate(channels):
        told["edits"].append(_edit(n, channel, columns, places))
        if channel.target_D is not None:
            tensors[f"{number}.target.{row}"] = channel.target_D
    if channels:
        tensors[f"{number}.directions"] = torch.stack([c.direction_D for c in channels])
    for chosen, inverse_KK, mine_N in site.bases:
        if bool(mine_N[n]) and chosen:
            tensors[f"{number}.inverse"] = inverse_KK
    return told


def _counts(channel: Channel, n: int) -> bool:
    """Whether the script needs the edit; a neutral direction still counts beside others."""
    neutral = float(channel.value_N[n]) == channel.operator.neutral
    return not neutral or channel.operator.reads is Reads.COORDINATE


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


def _used(site: Site) -> dict[str, Reader]:
    """The readers that know the activations of some feature, by SAE."""
    return {name: reader for name, reader in site.readers.items() if reader.column}


def _columns(site: Site) -> Columns:
    """Where the script finds a feature's activation among all that are read at a hook."""
    found: Columns = {}
    for name, reader in _used(site).items():
        base = len(found)
        found |= {(name, feature): base + column for feature, column in reader.column.items()}
    return found


def _edit(
    n: int,
    channel: Channel,
    columns: Columns,
    places: Places,
) -> dict[str, Any]:
    rule = channel.operator
    name = next(key for key, known in OPERATORS.items() if known is rule)
    feature = channel.feature
    told: dict[str, Any] = {
        "operator": name,
        "of": f"feature {feature.index}" if feature is not None else "vector",
        "value": float(channel.value_N[n]),
    }
    if rule.value is Value.RANGE:
        told["high"] = float(channel.high_N[n])
    if rule.reads is Reads.FEATURE:
        assert feature is not None
        told["feature"] = columns[feature.sae, feature.index]
    elif rule.reads is not Reads.NOTHING:
        told[rule.reads.value] = True
    if channel.target_D is not None:
        told["target"] = True
    gate = channel.gates_N[n]
    if gate is not None:
        told["only_where"] = _where(gate, places)
    return told


def _where(gate: Gate, places: Places) -> tuple[int, int, float]:
    """Hook and column that know the activation of a condition, and the level it must be above."""
    hook, columns = places[gate.place]
    return hook, columns[gate.sae, gate.feature], float(gate.above)


def _reader(stem: str, reader: Reader, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What the script is told of an SAE whose features are read."""
    sae = reader.sae
    if sae.token_norm:
        raise Unsupported(
            "The script cannot read the features of an SAE that scales each token by itself; "
            "leave out what depends on their activations."
        )
    if sae.compares:  # which latents it keeps depends on all of them
        tensors[f"{stem}.W_enc"], tensors[f"{stem}.b_enc"] = sae.W_enc_DF, sae.b_enc_F
    else:
        tensors[f"{stem}.W_enc"], tensors[f"{stem}.b_enc"] = reader.W_enc_DK, reader.b_enc_K
    if sae.apply_b_dec_to_input:
        tensors[f"{stem}.b_dec"] = sae.b_dec_O
    if sae.threshold_F is not None and sae.architecture == "jumprelu":
        tensors[f"{stem}.threshold"] = sae.threshold_F[reader.features_K]
    return {
        "top_k": sae.k if sae.architecture == "topk" else None,
        "groups": sae.k if sae.architecture == "groupmax" else None,
        "pursuit": _pursuit(sae),
        "columns": reader.features_K.tolist() if sae.compares else None,
    }


def _pursuit(sae: SparseAutoencoder) -> tuple[float, int, bool] | None:
    """When a matching pursuit is done, as the script's own function takes it."""
    if sae.pursuit is None:
        return None
    rule = sae.pursuit
    return rule.residual_threshold, rule.steps(sae.d_in), rule.stop_on_duplicate_support
