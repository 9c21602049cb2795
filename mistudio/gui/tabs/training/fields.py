"""Controls of the training form that depend on what is in the library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.model_configs import chosen_layers, layers_are_readable
from mistudio.core.units import EM_DASH
from mistudio.gui.tabs.models.layer_grid import LayerGrid
from mistudio.gui.tabs.training.choices import Pairs
from mistudio.gui.tabs.training.summary import MOST_LAYERS, depth_hint
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.editors import Editor

_COLUMNS = 8
HOOK_TEXTS = {
    "resid_post": "residual stream (resid_post)",
    "mlp_out": "MLP output (mlp_out)",
    "attn_out": "attention output (attn_out)",
    "attn_z": "attention heads (attn_z)",
    "resid_pre": "block input (resid_pre)",
    "resid_mid": "between attention and MLP (resid_mid)",
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
    "groupmax": "GroupMax",
    "matching_pursuit": "Matching pursuit",
    "temporal": "Temporal",
    "standard": "Standard (ReLU, L1)",
    "gated": "Gated",
    "jumprelu": "JumpReLU",
}


def hook_pairs(hooks: Sequence[str]) -> Pairs:
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


class LayersEditor(Editor):
    """Blocks of the chosen model to learn, as "0,6,11"; one of them has its depth told."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.grid = LayerGrid(columns=_COLUMNS)
        self.hint = label("", "small")
        self._wanted = "0"  # also while no model, or one with fewer blocks, is chosen
        self._offered: tuple[int, list[int] | None] | None = None
        self._quiet = False
        self._layers: int | None = None
        holder = QWidget()
        box = QVBoxLayout(holder)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self.grid)
        box.addWidget(self.hint)
        self.grid.changed.connect(self._on_changed)
        self._hold(holder)
        self.set_layers(None)

    def set_layers(self, count: int | None, only: list[int] | None = None) -> None:
        """Offer the blocks of a model with `count` of them, or `only` some; None: no model."""
        if self._offered == (count or 0, only):
            return
        before, self._offered, self._layers = self.value(), (count or 0, only), count
        self._quiet = True
        self.grid.set_layers(count or 0, only)
        self._quiet = False
        self._choose(self._wanted)
        if self.value() != before:
            self.changed.emit()

    def value(self) -> str:
        return ",".join(map(str, self.grid.chosen())) if self.grid.toggles else self._wanted

    def set_value(self, value: Any) -> None:
        """Choose "0,6,11"; blocks that are not offered are left out, but one is always chosen."""
        before = self.value()
        text = str(value)
        self._wanted = text if layers_are_readable(text) else "0"
        self._choose(self._wanted)
        if self.value() != before:
            self.changed.emit()

    def _choose(self, text: str) -> None:
        self._quiet = True
        self.grid.set_value(text)
        count, only = self._offered or (0, None)
        offered = only or list(range(count))
        if offered and text and not self.grid.chosen():
            first = chosen_layers(text, MOST_LAYERS)[0]
            self.grid.set_value(str(min(offered, key=lambda layer: abs(layer - first))))
        self._quiet = False
        self._tell()

    def _on_changed(self) -> None:
        if not self._quiet:
            self._wanted = self.value()
            self._tell()
            self.changed.emit()

    def _tell(self) -> None:
        chosen = self.grid.chosen()
        for link in (self.grid.all_button, self.grid.none_button):
            link.setVisible(bool(self.grid.toggles))
        one = depth_hint(chosen[0], self._layers) if len(chosen) == 1 else ""
        self.hint.setText(one if self.grid.toggles else depth_hint(0, None))
        self.hint.setVisible(bool(self.hint.text()))
