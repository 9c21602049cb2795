"""The whole sample that an example was cut from, its token marked."""

from __future__ import annotations

from PySide6.QtGui import QColor, QTextCursor
from PySide6.QtWidgets import QPlainTextEdit, QTextEdit, QWidget

from mistudio.core.units import format_count
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.jobs.feature_samples import ExampleSample

MARK = 0.5  # of the ground of the token


class SampleDialog(Dialog):
    """Shows an `ExampleSample`; the dataset itself is a click away."""

    def __init__(
        self, services: Services, found: ExampleSample, parent: QWidget | None = None
    ) -> None:
        super().__init__(
            f"Sample {found.number + 1:,} of {found.dataset}",
            parent,
            width=900,
            height_share=0.8,
            scroll=False,
        )
        self._services, self.found = services, found
        facts = [found.dataset, found.split, f"{format_count(found.length)} characters"]
        if len(found.text) < found.length:
            facts.append(f"the {len(found.text):,} around the token are shown")
        self.facts = label(" · ".join(fact for fact in facts if fact), "muted", wrap=True)
        self.text = QPlainTextEdit()
        self.text.setReadOnly(True)
        self.text.setAccessibleName("Text of the sample")
        self.text.setPlainText(found.text)
        self.box.addWidget(self.facts)
        self.box.addWidget(self.text, 1)
        self.buttons.insertWidget(
            0, button("Open the dataset", self.open_dataset, icon="database", tip="All its samples")
        )
        self.add_close()
        self._mark()

    def _mark(self) -> None:
        cursor = QTextCursor(self.text.document())
        cursor.setPosition(_place(self.found.text, self.found.low))
        here = QTextCursor(cursor)
        cursor.setPosition(
            _place(self.found.text, self.found.high), QTextCursor.MoveMode.KeepAnchor
        )
        marked = QTextEdit.ExtraSelection()
        fill = QColor(appearance().colors.highlight)
        fill.setAlphaF(MARK)
        marked.cursor = cursor  # type: ignore[assignment]
        marked.format.setBackground(fill)  # type: ignore[attr-defined]
        self.text.setExtraSelections([marked])
        self.text.setTextCursor(here)

    def showEvent(self, event: object) -> None:
        super().showEvent(event)  # type: ignore[arg-type]
        self.text.centerCursor()

    def open_dataset(self) -> None:
        """Go to the dataset in its tab."""
        self._services.open_tab("Datasets", dataset=self.found.dataset_id)
        self.close()


def _place(text: str, at: int) -> int:
    """The place of a character in a Qt document, which counts UTF-16 units and one per line end."""
    before = text[:at].replace("\r\n", "\n")
    return len(before) + sum(ord(character) > 0xFFFF for character in before)
