"""The architecture viewer: a model's sizes, modules, hook points and raw configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QGridLayout,
    QHeaderView,
    QPlainTextEdit,
    QTabWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH, format_count, format_short
from mistudio.gui.dialog import Dialog
from mistudio.gui.style import mono_font
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import MetricTile, label, row
from mistudio.store.records import ModelRow

_HOOK_MEANING = {
    "resid_post": "the block's output",
    "mlp_out": "what the MLP adds to the stream",
    "attn_out": "what attention adds to the stream",
}
# What a configuration calls the things worth reading first; families differ in their names.
_FACTS = (
    ("Type", ("model_type",)),
    ("Context", ("max_position_embeddings", "n_positions")),
    ("Vocabulary", ("vocab_size",)),
    ("MLP width", ("intermediate_size", "n_inner", "ffn_dim")),
    ("Head size", ("head_dim",)),
    ("Activation", ("hidden_act", "activation_function", "hidden_activation")),
    ("Norm epsilon", ("rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps")),
    ("RoPE base", ("rope_theta",)),
    ("Tied embeddings", ("tie_word_embeddings",)),
)


class ArchitectureViewer(Dialog):
    """What a model is made of, from its row; nothing is loaded."""

    def __init__(self, model: ModelRow, path: Path, parent: QWidget | None = None) -> None:
        super().__init__(model.name, parent, width=896, height_share=0.8, scroll=False)
        heads = format_count(model.num_heads)
        if model.num_kv_heads and model.num_kv_heads != model.num_heads:
            heads += f" / {model.num_kv_heads:,}"
        tiles = row(
            MetricTile("Layers", format_count(model.num_layers), "emerald"),
            MetricTile("Hidden size", format_count(model.hidden_dim), "purple"),
            MetricTile("Heads / key-value heads", heads, "blue"),
            MetricTile("Parameters", format_short(model.params_count), "yellow"),
            spacing=12,
        )
        self.box.addLayout(tiles)
        place = label(str(path), "mono", wrap=True, selectable=True)
        place.setAccessibleName("Where the files are")
        self.box.addWidget(place)
        pages = QTabWidget()
        layer_map = model.layer_map or {}
        self.tree = module_tree(layer_map.get("tree", []))
        pages.addTab(self.tree, "Modules")
        pages.addTab(_hook_page(layer_map), "Hook points")
        pages.addTab(_facts_page(model.architecture_config or {}), "Facts")
        self.raw = QPlainTextEdit(
            json.dumps(model.architecture_config or {}, indent=2, ensure_ascii=False)
        )
        self.raw.setReadOnly(True)
        self.raw.setFont(mono_font())
        self.raw.setAccessibleName("Configuration as JSON")
        pages.addTab(self.raw, "Configuration")
        self.box.addWidget(pages, 1)
        self.add_close()


def module_tree(rows: list[dict[str, Any]]) -> QTreeWidget:
    """Embedding, blocks (opened to their modules), norms and output with shapes and sizes."""
    tree = QTreeWidget()
    tree.setAccessibleName("Modules")
    tree.setHeaderLabels(["Module", "Kind", "Shape", "Type", "Parameters"])
    tree.setAlternatingRowColors(True)
    tree.setUniformRowHeights(True)
    for described in rows:
        item = _item(described)
        for child in described.get("children", []):
            item.addChild(_item(child))
        tree.addTopLevelItem(item)
    header = tree.header()
    header.setStretchLastSection(False)
    header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
    for column in range(1, 5):
        header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
    return tree


def _item(described: Mapping[str, Any]) -> QTreeWidgetItem:
    shape = described.get("shape")
    item = QTreeWidgetItem(
        [
            str(described.get("name", "")),
            str(described.get("kind", "")),
            " × ".join(f"{side:,}" for side in shape) if shape else EM_DASH,
            str(described.get("dtype") or EM_DASH),
            format_count(described.get("params")),
        ]
    )
    for column in (2, 3, 4):
        item.setFont(column, mono_font())
    item.setTextAlignment(4, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
    return item


def _hook_page(layer_map: Mapping[str, Any]) -> QWidget:
    """Each hook of the last block with the path of its module."""
    blocks = str(layer_map.get("blocks") or EM_DASH)
    page, grid = _grid()
    grid.addWidget(
        label(f"The blocks are {blocks}; the paths are those of the last one.", "muted", wrap=True),
        0,
        0,
        1,
        3,
    )
    for line, (hook, path) in enumerate(layer_map.get("hooks", {}).items(), start=1):
        grid.addWidget(label(hook, "mono", selectable=True), line, 0)
        grid.addWidget(label(str(path), "mono", selectable=True), line, 1)
        grid.addWidget(label(_HOOK_MEANING.get(hook, ""), "muted", wrap=True), line, 2)
    return page


def _facts_page(config: Mapping[str, Any]) -> QWidget:
    """What the configuration says, under the names that people use."""
    page, grid = _grid()
    text = config.get("text_config") or config
    text = {**text, **(text.get("rope_parameters") or {})}
    found = [(name, next((text[k] for k in keys if k in text), None)) for name, keys in _FACTS]
    for line, (name, value) in enumerate(found):
        grid.addWidget(label(name, "label"), line, 0)
        shown = EM_DASH if value is None else format_fact(value)
        grid.addWidget(label(shown, "mono", selectable=True), line, 1)
    return page


def format_fact(value: Any) -> str:
    """A configuration value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _grid() -> tuple[QWidget, QGridLayout]:
    page = QWidget()
    outer = QVBoxLayout(page)
    grid = QGridLayout()
    grid.setHorizontalSpacing(appearance().px(24))
    grid.setVerticalSpacing(appearance().px(8))
    grid.setColumnStretch(grid.columnCount() + 1, 1)
    outer.addLayout(grid)
    outer.addStretch(1)
    return page, grid
