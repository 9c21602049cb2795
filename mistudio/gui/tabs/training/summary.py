"""Plain sentences about a training that is not started yet; all figures are formulas."""

from __future__ import annotations

from mistudio.core.training_configs import TrainConfig
from mistudio.core.units import format_bytes, format_count
from mistudio.store.records import ModelRow


def steps(config: TrainConfig) -> int:
    """Steps of the run: tokens / batch, rounded up as the job does."""
    return -(-config.tokens // max(1, config.batch))


def sae_bytes(config: TrainConfig, d_model: int) -> int:
    """Bytes of the SAE in float32: encoder, decoder, both biases, one threshold per latent, and
    the skip connection of a skip transcoder."""
    skip = d_model * d_model if config.encoder == "skip_transcoder" else 0
    return 4 * (2 * config.width * d_model + 2 * config.width + d_model + skip)


def summary(config: TrainConfig, model: ModelRow | None) -> str:
    """One line: steps, expansion, size of the SAE."""
    parts = [
        f"{format_count(steps(config))} steps of {format_count(config.batch)} tokens",
    ]
    if model is not None and model.hidden_dim:
        times = config.width / model.hidden_dim
        size = format_bytes(sae_bytes(config, model.hidden_dim))
        parts.append(f"{times:.3g}× the model's width of {format_count(model.hidden_dim)}")
        parts.append(f"estimated SAE size {size}")
    return " · ".join(parts)


def depth_hint(layer: int, num_layers: int | None) -> str:
    """How deep a block lies, such as "block 9 of 30 (0–29), 33 % deep"."""
    if not num_layers:
        return "Choose a model to see its layers."
    if not 0 <= layer < num_layers:
        return f"This model has layers 0 to {num_layers - 1}."
    return f"0–{num_layers - 1} · {100 * (layer + 1) / num_layers:.0f} % of the depth"
