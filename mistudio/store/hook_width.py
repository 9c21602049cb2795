"""How wide a model's activations are at a hook, from its row."""

from __future__ import annotations

from typing import Any

from mistudio.store.records import ModelRow


def hook_width(model: ModelRow, hook: str | None) -> int | None:
    """Numbers per token at a hook of a model, None where that is not known.

    Measured when the model was added; of models added by a version that did not measure it, the
    heads' width is that of the configuration.
    """
    measured: dict[str, Any] = (model.layer_map or {}).get("widths") or {}
    if hook in measured:
        return int(measured[hook])
    if hook != "attn_z":
        return model.hidden_dim
    config: dict[str, Any] = model.architecture_config or {}
    config = config.get("text_config") or config
    heads, hidden = model.num_heads, model.hidden_dim
    size = config.get("v_head_dim") or config.get("head_dim")
    if not size:
        return hidden
    return size * heads if heads else None
