"""Plain sentences about a training that is not started yet; all figures are formulas."""

from __future__ import annotations

from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import format_bytes, format_count
from mistudio.store.hook_width import hook_width
from mistudio.store.records import ModelRow

MOST_LAYERS = 512


def steps(config: TrainConfig) -> int:
    """Steps of the run: tokens / batch, rounded up as the job does."""
    return -(-config.tokens // max(1, config.batch))


def sae_bytes(config: TrainConfig, d_model: int) -> int:
    """Bytes of the SAE in float32: encoder, decoder, both biases, one threshold per latent, and
    the skip connection of a skip transcoder."""
    skip = d_model * d_model if config.encoder == "skip_transcoder" else 0
    return 4 * (2 * config.width * d_model + 2 * config.width + d_model + skip)


def summary(config: TrainConfig, model: ModelRow | None) -> str:
    """One line: how many SAEs, steps, expansion, size of the SAEs.

    Raises `InvalidInput` for a sweep whose members cannot be told.
    """
    members = [config]
    if isinstance(config, SweepConfig):
        members = config.members((model.num_layers if model else None) or MOST_LAYERS)
    parts = [f"{len(members):,} SAEs from one pass"] if len(members) > 1 else []
    parts.append(f"{_range([steps(member) for member in members])} steps" if config.tokens else "")
    batches = _range([member.batch for member in members])
    parts[-1] = f"{parts[-1] or 'one pass over the data in steps'} of {batches} tokens"
    if model is not None and model.hidden_dim:
        wide = [hook_width(model, member.hook_read) or model.hidden_dim for member in members]
        times = [member.width / width for member, width in zip(members, wide, strict=True)]
        few = f"{min(times):.3g}–{max(times):.3g}" if min(times) < max(times) else f"{times[0]:.3g}"
        sizes = (sae_bytes(member, width) for member, width in zip(members, wide, strict=True))
        size = format_bytes(sum(sizes))
        own = set(wide) == {model.hidden_dim}
        whose = "the model's width" if own else "the hook's width"
        parts.append(f"{few}× {whose} of {_range(wide)}")
        parts.append(f"estimated SAE size {size}" + (" in all" if len(members) > 1 else ""))
    return " · ".join(parts)


def _range(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return format_count(low) if low == high else f"{format_count(low)}–{format_count(high)}"


def depth_hint(layer: int, num_layers: int | None) -> str:
    """How deep a block lies, such as "block 9 of 30 (0–29), 33 % deep"."""
    if not num_layers:
        return "Choose a model to see its layers."
    if not 0 <= layer < num_layers:
        return f"This model has layers 0 to {num_layers - 1}."
    return f"0–{num_layers - 1} · {100 * (layer + 1) / num_layers:.0f} % of the depth"
