"""The architecture viewer: a model's sizes, modules, hook points, facts and raw configuration."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import Qt
from PySide6.QtWidgets import (
    QGridLayout,
    QHeaderView,
    QPlainTextEdit,
    QScrollArea,
    QSplitter,
    QTabWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH, format_count, format_short
from mistudio.gui.dialog import Dialog
from mistudio.gui.style import mono_font
from mistudio.gui.tabs.models.layer_grid import HOOK_TEXTS
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, MetricTile, button, label, row
from mistudio.jobs.model_pages import Architecture, Module
from mistudio.store.records import ModelRow

_HEADINGS = ("#", "Module", "Shape", "Type", "Parameters")
_NAME, _FIGURES = 1, (2, 3, 4)
_TOP = ("embedding", "block", "norm", "unembedding")  # kinds that the name says already

_RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class ArchitectureViewer(Dialog):
    """What a model is made of, from its row; nothing is loaded."""

    def __init__(
        self, model: ModelRow, found: Architecture, path: Path, parent: QWidget | None = None
    ) -> None:
        super().__init__(model.name, parent, width=896, height_share=0.8, scroll=False)
        self.box.setSpacing(appearance().px(12))
        heads = format_count(found.heads)
        if found.kv_heads and found.kv_heads != found.heads:
            heads += f" / {found.kv_heads:,}"
        self.tiles = (
            MetricTile("Layers", format_count(found.layers), "emerald"),
            MetricTile("Hidden size", format_count(found.hidden_dim), "purple"),
            MetricTile("Heads / key-value heads", heads, "blue"),
            MetricTile("Parameters", format_short(found.params), "yellow"),
        )
        self.box.addLayout(row(*self.tiles, spacing=12))
        if found.why_not:
            card = Card("info", padding=12)
            card.box.addWidget(
                label(f"This model can only be looked at: {found.why_not}", "warning", wrap=True)
            )
            self.box.addWidget(card)
        self.tree = module_tree(found.modules)
        self.raw = QPlainTextEdit(json.dumps(dict(found.config), indent=2, ensure_ascii=False))
        self.raw.setReadOnly(True)
        self.raw.setFont(mono_font())
        self.raw.setAccessibleName("Configuration as JSON")
        pages = QTabWidget()
        pages.addTab(self._parts_page(found), "Modules")
        pages.addTab(hook_page(found), "Hook points")
        pages.addTab(self.raw, "Configuration as JSON")
        self.box.addWidget(pages, 1)
        place = label(str(path), "small", wrap=True, selectable=True)
        place.setAccessibleName("Where the files are")
        self.box.addWidget(place)
        self.add_close()

    def _parts_page(self, found: Architecture) -> QWidget:
        """The tree, and the panel of facts beside it."""
        self.expand_button = button(
            "Expand all", self._expand, variant="ghost", tip="Open every block and module"
        )
        self.collapse_button = button(
            "Collapse all", self._collapse, variant="ghost", tip="Show the blocks alone"
        )
        left = QWidget()
        box = QVBoxLayout(left)
        box.setContentsMargins(0, appearance().px(8), 0, 0)
        box.setSpacing(appearance().px(4))
        box.addWidget(self.tree, 1)
        box.addLayout(row(self.expand_button, self.collapse_button, None))
        page = QSplitter(Qt.Orientation.Horizontal)
        page.addWidget(left)
        page.addWidget(facts_panel(found))
        page.setStretchFactor(0, 1)
        page.setStretchFactor(1, 0)
        page.setChildrenCollapsible(False)
        page.setSizes([appearance().px(660), appearance().px(200)])
        return page

    def _expand(self) -> None:
        self.tree.expandAll()

    def _collapse(self) -> None:
        self.tree.collapseAll()


def module_tree(modules: Sequence[Module]) -> QTreeWidget:
    """Embedding, blocks (opened to their modules and hook points), norms, output."""
    tree = QTreeWidget()
    tree.setAccessibleName("Modules")
    tree.setHeaderLabels(list(_HEADINGS))
    tree.setAlternatingRowColors(True)
    tree.setUniformRowHeights(True)
    font = tree.font()
    font.setPixelSize(appearance().px(14))
    tree.setFont(font)
    tree.setIndentation(appearance().px(12))
    tree.addTopLevelItems([_item(module) for module in modules])
    header = tree.header()
    header.setStretchLastSection(False)
    tree.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    for column in _FIGURES:
        header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
    header.resizeSection(0, appearance().px(66))
    header.setSectionResizeMode(_NAME, QHeaderView.ResizeMode.Stretch)
    tree.headerItem().setTextAlignment(_FIGURES[-1], _RIGHT)
    return tree


def _item(module: Module) -> QTreeWidgetItem:
    shape = " × ".join(f"{side:,}" for side in module.shape) if module.shape else EM_DASH
    kind = "" if module.kind in _TOP else module.kind
    whole = " · ".join(part for part in (module.name, kind, module.note) if part)
    heads, mlp, widths = module.note.partition("MLP ")
    # the tile above has the key-value heads, the shape's column the MLP: so all of it is in view
    short = heads.partition(" (")[0].rstrip(", ")
    words = " · ".join(part for part in (module.name, kind, short) if part)
    if not module.shape and mlp:
        shape = widths
    texts = [str(module.index), words, shape, module.dtype or EM_DASH, format_count(module.params)]
    item = QTreeWidgetItem(texts)
    item.setToolTip(_NAME, whole)
    item.setToolTip(_FIGURES[0], shape if module.shape else whole)
    for column in _FIGURES:
        item.setFont(column, mono_font(13))
    item.setTextAlignment(_FIGURES[-1], _RIGHT)
    item.addChildren([_item(child) for child in module.children])
    item.addChildren([_hook_item(hook, path) for hook, path in module.hooks])
    return item


def _hook_item(hook: str, path: str) -> QTreeWidgetItem:
    name, meaning = HOOK_TEXTS.get(hook, (hook, ""))
    item = QTreeWidgetItem(["", f"{hook} · hook point, {name}", EM_DASH, EM_DASH, EM_DASH])
    item.setToolTip(_NAME, f"{path}: {meaning}" if path else meaning)
    item.setTextAlignment(_FIGURES[-1], _RIGHT)
    return item


def facts_panel(found: Architecture) -> QWidget:
    """Type, context, vocabulary and so on, one above the other."""
    panel = QWidget()
    panel.setObjectName("column")
    grid = QGridLayout(panel)
    px = appearance().px
    grid.setContentsMargins(px(12), px(12), 0, px(8))
    grid.setHorizontalSpacing(px(12))
    grid.setVerticalSpacing(px(6))
    line = 0
    for name, value in found.facts:
        grid.addWidget(label(name, "muted"), line, 0)
        grid.addWidget(label(value, "mono", selectable=True), line, 1)
        line += 1
    lens = "ready" if not found.lens_why else f"not available: {found.lens_why}"
    if not found.why_not:
        grid.addWidget(label("Logit lens", "muted"), line, 0, Qt.AlignmentFlag.AlignTop)
        grid.addWidget(label(lens, "label", wrap=True), line, 1)
        line += 1
    grid.setRowStretch(line, 1)
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(panel)
    bar = area.verticalScrollBar().sizeHint().width()
    area.setMinimumWidth(min(px(260), panel.minimumSizeHint().width() + bar))
    return area


def hook_page(found: Architecture) -> QWidget:
    """Each hook of the last block with the path of its module."""
    page = QWidget()
    outer = QVBoxLayout(page)
    grid = QGridLayout()
    grid.setHorizontalSpacing(appearance().px(24))
    grid.setVerticalSpacing(appearance().px(8))
    grid.setColumnStretch(3, 1)
    where = f"The blocks are {found.blocks_path or EM_DASH}; the paths are those of the last one."
    if not found.hooks:
        where = "No hook points are known: the layers of this model were not found."
    grid.addWidget(label(where, "muted", wrap=True), 0, 0, 1, 4)
    for line, (hook, path) in enumerate(found.hooks, start=1):
        grid.addWidget(label(hook, "mono", selectable=True), line, 0)
        grid.addWidget(label(path, "mono", selectable=True), line, 1)
        grid.addWidget(label(HOOK_TEXTS.get(hook, ("", ""))[1], "muted", wrap=True), line, 2, 1, 2)
    outer.addLayout(grid)
    outer.addStretch(1)
    return page
