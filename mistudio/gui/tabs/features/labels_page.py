"""The Labels page of a feature: every label with method, model, score and n; another is chosen."""

from __future__ import annotations

import json
from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QTableWidgetItem, QVBoxLayout, QWidget

from mistudio.core.label_methods import (
    MARKS,
    METHODS,
    SOURCES,
    output_cell,
    output_lines,
    score_lines,
)
from mistudio.core.steering_study_configs import ClaimConfig
from mistudio.core.units import EM_DASH, format_count, format_percent
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.store.labels import Label, labels_of

TITLES = ("", "Label", "Source", "Method", "Model", "Score", "n", "Steering", "Made")
TEST_TIP = (
    "Steer this feature to a KL of 0.5 on a neutral text and see whether the tokens that its label "
    "names become more probable, more so than with 19 random features of like density."
)
_SHORT = {
    "token": "tokens",
    "say": "next tokens",
    "after": "previous tokens",
    "class": "class of tokens",
    "words": "telling words",
    "lens": "logit lens",
    "set": "promoted class",
    "cluster": "neighbours' words",
    "examples": "40 examples",
}


class LabelsPage(QWidget):
    """Lists the labels of a `FeaturePage`; the chosen one is first and marked."""

    chosen = Signal(int, str)  # feature, label id
    regenerate = Signal(int)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._index, self._sae_id = -1, ""
        self.labels: list[Label] = []
        self.note = label(
            "The score is measured on text that the label was not made from; rest the mouse on a "
            "line for what is behind it. What you write or choose is never replaced.",
            "muted",
            wrap=True,
        )
        self.table = FactsTable(TITLES, "Labels of this feature", most=9, stretch=1)
        self.table.itemSelectionChanged.connect(self._on_selected)
        self.table.itemDoubleClicked.connect(self._on_use)
        self.use_button = button(
            "Use this label",
            self._on_use,
            icon="check",
            tip="Make the selected label the one that is shown",
        )
        self.prompt_button = button(
            "Show the prompt",
            self._on_prompt,
            icon="text",
            tip="What a language model was asked for this label",
        )
        self.regenerate_button = button(
            "Regenerate…",
            self._on_regenerate,
            icon="bolt",
            tip="Let a language model on this machine read examples and name this feature",
        )
        self.test_button = button("Test by steering", self.test, icon="sliders", tip=TEST_TIP)
        self.job = OneJob(services, self.test_button, self, failure="The test failed.")
        self.job.done.connect(self._on_tested)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, appearance().px(8), 0, 0)
        box.setSpacing(appearance().px(8))
        box.addWidget(self.note)
        box.addWidget(self.table)
        tools = row(self.use_button, self.prompt_button, self.regenerate_button, self.test_button)
        tools.addWidget(self.job.cancel_button)
        tools.addWidget(self.job.state, 1)
        box.addLayout(tools)
        box.addWidget(self.job.problem)
        box.addStretch(1)
        self._on_selected()

    def show_page(self, page: Any) -> None:
        """Read and show the labels of a feature."""
        self._index, self._sae_id = page.row.index, page.sae_id
        self._read()

    def test(self) -> None:
        """Steer the feature and see what becomes of the tokens that its label names."""
        config = ClaimConfig(
            sae=self._sae_id, features=str(self._index), control_texts=False, means=False
        )
        self.job.submit("steer_claims", config)

    @Slot(object)
    def _on_tested(self, result: Any) -> None:
        if not any(entry["feature"] == self._index for entry in result["features"]):
            return
        self._read()

    def _read(self) -> None:
        sae_id, index = self._sae_id, self._index
        self._services.query.ask(
            lambda db: labels_of(db, sae_id, index), self._show, key="labels_of"
        )

    @Slot(object)
    def _show(self, found: list[Label]) -> None:
        self.labels = [one for one in found if one.index == self._index]
        self.table.set_rows(
            [cells(one) for one in self.labels], ["\n".join(tip_lines(one)) for one in self.labels]
        )
        for place, one in enumerate(self.labels):
            score = self.table.item(place, 5)
            if one.chosen and isinstance(score, QTableWidgetItem):
                font = score.font()
                font.setBold(True)
                for column in range(len(TITLES)):
                    item = self.table.item(place, column)
                    if item is not None:
                        item.setFont(font)
        self.table.setVisible(bool(self.labels))
        if self.labels and self.table.currentRow() < 0:
            self.table.selectRow(0)
        self._on_selected()

    def _current(self) -> Label | None:
        place = self.table.currentRow()
        return self.labels[place] if 0 <= place < len(self.labels) else None

    @Slot()
    def _on_selected(self) -> None:
        one = self._current()
        self.use_button.setEnabled(one is not None and not one.chosen)
        self.prompt_button.setVisible(one is not None and one.prompt is not None)
        self.test_button.setVisible(any(label_.chosen for label_ in self.labels))

    @Slot()
    def _on_use(self) -> None:
        one = self._current()
        if one is not None and not one.chosen:
            self.chosen.emit(one.index, one.id)

    @Slot()
    def _on_prompt(self) -> None:
        one = self._current()
        if one is None or one.prompt is None:
            return
        dialog = Dialog("What the model was asked", self.window(), width=900)
        text = one.prompt if isinstance(one.prompt, str) else json.dumps(one.prompt, indent=1)
        dialog.box.addWidget(label(text, "mono", wrap=True, selectable=True))
        dialog.add_close()
        dialog.show()

    @Slot()
    def _on_regenerate(self) -> None:
        self.regenerate.emit(self._index)


def cells(one: Label) -> list[str]:
    """A label as a row of texts."""
    return [
        "●" if one.chosen else "",
        f"{MARKS.get(one.source, '')} {one.text}".strip(),
        SOURCES.get(one.source, one.source),
        _SHORT.get(one.method or "", one.method or EM_DASH),
        one.model or one.author or EM_DASH,
        format_percent(one.score),
        format_count(one.score_n) if one.score is not None else EM_DASH,
        output_cell(one.scores),
        one.made_at[:16].replace("T", " "),
    ]


def tip_lines(one: Label) -> list[str]:
    """What is behind a label, a line each."""
    told = METHODS.get(one.method or "", "")
    if one.source == "user":
        return [one.text, "Written by you", *output_lines(one.scores)]
    if one.source == "imported":
        return [one.text, told or "Imported", *output_lines(one.scores)]
    return [one.text, *score_lines(one.method, one.scores, one.score, one.score_n)]
