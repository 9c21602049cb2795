"""What pages about models show: memory per format, and the parts of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.core import memory
from mistudio.jobs.runner import Studio
from mistudio.jobs.warm_up import TORCH, warm_up
from mistudio.store.records import ModelRow


@dataclass(frozen=True)
class DeviceMemory:
    """Memory of the device that models are loaded on; what the held model takes counts as free."""

    device: str
    """ "cpu" or "cuda" """
    free: int
    total: int


@dataclass(frozen=True)
class FormatChoice:
    """A format with the memory that it needs."""

    format: str
    bytes: int
    level: str
    """ "green", "yellow" or "red" against the device's free memory"""
    recommended: bool
    """the most exact green one"""
    note: str
    """a sentence, "" if there is nothing to say"""


@dataclass(frozen=True)
class Module:
    """A row of the architecture viewer; a block has the modules inside it as `children`."""

    index: int
    name: str
    kind: str
    """embedding, block, norm, unembedding; inside blocks the class name"""
    note: str
    """such as "9 heads × 64, MLP 576 → 1,536 → 576" """
    shape: tuple[int, ...] | None
    dtype: str | None
    params: int
    """parameters of its own: a tied output matrix has none"""
    children: tuple[Module, ...] = ()
    hooks: tuple[tuple[str, str], ...] = ()
    """hook points of a block as (hook, path of the module)"""


@dataclass(frozen=True)
class Architecture:
    """All that the architecture viewer shows of a model, from its row alone."""

    layers: int | None
    hidden_dim: int | None
    heads: int | None
    kv_heads: int | None
    params: int | None
    modules: tuple[Module, ...]
    facts: tuple[tuple[str, str], ...]
    """(name, value) for the panel: type, context, vocabulary, MLP ratio, …"""
    blocks_path: str
    hooks: tuple[tuple[str, str], ...]
    """(hook, path) of the last block"""
    config: Mapping[str, Any]
    why_not: str
    """why the model can only be looked at, "" if it can be used"""
    lens_why: str
    """why there is no logit lens, "" if there is one"""


def device_memory(studio: Studio) -> DeviceMemory:
    """Free and total memory where models are loaded. Imports torch: not for the window's thread."""
    warm_up(TORCH)
    from mistudio.ml.device import choose_device, memory_of

    device = choose_device(studio.models.device)
    free, total = memory_of(device)
    if device.type == "cpu":
        free = min(total, free + studio.models.held_bytes)
    return DeviceMemory(device.type, free, total)


def format_choices(
    studio: Studio, linear: int, others: int, formats: tuple[str, ...] = memory.FORMATS
) -> list[FormatChoice]:
    """Every format with its estimate; `linear` and `others` count weights as `model_page` does."""
    room = device_memory(studio)
    best = memory.recommended(linear, others, room.free, formats)
    choices: list[FormatChoice] = []
    for form in formats:
        needed = memory.estimate_bytes(linear, others, form)
        choices.append(
            FormatChoice(
                form,
                needed,
                memory.level(needed, room.free),
                form == best,
                _note(form, room.device),
            )
        )
    return choices


def choices_of(studio: Studio, row: ModelRow) -> list[FormatChoice]:
    """The formats for a model of the library, by the weights counted when it was checked."""
    counted = (row.layer_map or {}).get("weights", {})
    others = int(counted.get("others", 0))
    linear = int(counted.get("linear", (row.params_count or 0) - others))
    return format_choices(studio, linear, others)


def _note(form: str, device: str) -> str:
    if device == "cpu" and form == "fp16":
        return "Slow on a CPU."
    if form in memory.QUANTISED:
        return "Quantised while loading; the files stay as they are."
    return ""


def architecture(studio: Studio, row: ModelRow) -> Architecture:
    """The viewer's data, from the row; nothing is loaded."""
    known = row.layer_map or {}
    config = row.architecture_config or {}
    return Architecture(
        layers=row.num_layers,
        hidden_dim=row.hidden_dim,
        heads=row.num_heads,
        kv_heads=row.num_kv_heads,
        params=row.params_count,
        modules=tuple(_module(part) for part in known.get("tree", [])),
        facts=_facts(row, config),
        blocks_path=str(known.get("blocks", "")),
        hooks=tuple((str(hook), str(path)) for hook, path in known.get("hooks", {}).items()),
        config=config,
        why_not=(row.error_message or "") if row.status == "incompatible" else "",
        lens_why=str(known.get("lens_why", "")),
    )


def _module(part: Mapping[str, Any]) -> Module:
    shape = part.get("shape")
    named: Any = part.get("hooks") or {}
    # rows of earlier versions name the hooks alone
    hooks: dict[str, str] = dict(named) if hasattr(named, "items") else dict.fromkeys(named, "")
    return Module(
        index=int(part["index"]),
        name=str(part["name"]),
        kind=str(part["kind"]),
        note=str(part.get("note", "")),
        shape=tuple(shape) if shape else None,
        dtype=part.get("dtype"),
        params=int(part["params"]),
        children=tuple(_module(child) for child in part.get("children", [])),
        hooks=tuple(hooks.items()),
    )


# What a configuration calls the things worth reading first; families differ in their names.
_FACTS = (
    ("Type", ("model_type",)),
    ("Context", ("max_position_embeddings", "n_positions", "max_seq_len")),
    ("Vocabulary", ("vocab_size",)),
    ("MLP width", ("intermediate_size", "n_inner", "ffn_dim")),
    ("Experts", ("num_local_experts", "num_experts", "n_routed_experts")),
    ("Experts per token", ("num_experts_per_tok",)),
    ("Head size", ("head_dim",)),
    ("Activation", ("hidden_activation", "hidden_act", "activation_function")),
    ("Norm epsilon", ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")),
    ("RoPE", ("rope_type",)),
    ("RoPE base", ("rope_theta",)),
    ("Sliding window", ("sliding_window",)),
    ("Tied embeddings", ("tie_word_embeddings",)),
)


def _facts(row: ModelRow, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    text: dict[str, Any] = dict(config.get("text_config") or config)
    rope: dict[str, Any] = text.get("rope_parameters") or {}
    if not any(isinstance(value, dict) for value in rope.values()):  # one per kind of layer
        text = {**text, **rope}
    facts: list[tuple[str, str]] = []
    for name, keys in _FACTS:
        value: Any = next((text[key] for key in keys if text.get(key) is not None), None)
        if value is None:
            continue
        facts.append((name, _written(value)))
        if name == "MLP width" and row.hidden_dim:
            facts.append(("MLP ratio", f"{value / row.hidden_dim:.2f}"))
    return tuple(facts)


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
