"""Controls of the training form that depend on what is in the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtWidgets import QSpinBox, QWidget

from mistudio.core.configs import HOOKS
from mistudio.core.units import EM_DASH
from mistudio.gui.tabs.training.choices import Pairs
from mistudio.gui.tabs.training.summary import depth_hint
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import Editor
from mistudio.gui.widgets.layout import guard_wheel

MOST_LAYERS = 512
HOOK_TEXTS = {
    "resid_post": "residual stream (resid_post)",
    "mlp_out": "MLP output (mlp_out)",
    "attn_out": "attention output (attn_out)",
    "mlp_in": "MLP input (mlp_in)",
}
ENCODER_TEXTS = {
    "sae": "Sparse autoencoder",
    "transcoder": "Transcoder",
    "skip_transcoder": "Skip transcoder",
}
ARCHITECTURE_TEXTS = {
    "batch_topk": "BatchTopK",
    "matryoshka_batch_topk": "Matryoshka BatchTopK",
    "topk": "TopK",
    "standard": "Standard (ReLU, L1)",
    "gated": "Gated",
    "jumprelu": "JumpReLU",
}


def hook_pairs(hooks: Sequence[str] = HOOKS) -> Pairs:
    """(value, text) of hooks."""
    return [(hook, HOOK_TEXTS.get(hook, hook)) for hook in hooks]


def architecture_pairs(names: Sequence[str]) -> Pairs:
    """(value, text) of architectures."""
    return [(name, ARCHITECTURE_TEXTS[name]) for name in names]


def kind_text(architecture: str, encoder: str) -> str:
    """What is or was trained, such as "BatchTopK" or "BatchTopK skip transcoder"."""
    name = ARCHITECTURE_TEXTS.get(architecture, architecture)
    if encoder == "sae":
        return name
    return f"{name} {ENCODER_TEXTS.get(encoder, encoder).lower()}"


def hooks_text(hook_in: str | None, hook_out: str | None) -> str:
    """The hook of an SAE, or both of a transcoder, such as "mlp_in → mlp_out"."""
    read = hook_in or EM_DASH
    return read if hook_out in (None, hook_in) else f"{read} → {hook_out}"


class LayerEditor(Editor):
    """A block of the chosen model, with its depth beside it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spin = QSpinBox()
        self.hint = label("", "small")
        self._layers: int | None = None
        guard_wheel(self.spin)
        self.spin.valueChanged.connect(self._on_changed)
        self._hold(self.spin, self.hint)
        self.set_layers(None)

    def set_layers(self, count: int | None) -> None:
        """Allow the blocks of a model with `count` of them; None: no model is chosen."""
        self._layers = count
        self.spin.setRange(0, (count or MOST_LAYERS) - 1)
        self._tell()

    def value(self) -> int:
        return self.spin.value()

    def set_value(self, value: Any) -> None:
        self.spin.setValue(int(value))

    def _on_changed(self) -> None:
        self._tell()
        self.changed.emit()

    def _tell(self) -> None:
        self.hint.setText(depth_hint(self.spin.value(), self._layers))
