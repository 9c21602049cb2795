"""Two lists of prompts side by side, one prompt on a line: with a thing, and without it."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QPlainTextEdit, QVBoxLayout, QWidget

from mistudio.core.settings import SettingsFile
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label

HINTS = {
    "positive": "One prompt per line",
    "negative": "One per line; pairs share their number",
}


class PromptLists(QWidget):
    """Positive and negative prompts; `settings` keeps them under names that begin with `prefix`."""

    def __init__(
        self, settings: SettingsFile, prefix: str, tip: str, parent: QWidget | None = None
    ) -> None:
        """`tip` tells what the lists are for."""
        super().__init__(parent)
        self._settings, self._prefix = settings, prefix
        self.positive = self._area("positive", tip)
        self.negative = self._area("negative", tip)
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(12))
        for title, area in (("Positive", self.positive), ("Negative", self.negative)):
            part = QVBoxLayout()
            part.addWidget(label(title, "label"))
            part.addWidget(area)
            box.addLayout(part)

    def _area(self, side: str, tip: str) -> QPlainTextEdit:
        name = f"{side.capitalize()} prompts"
        made = QPlainTextEdit(str(self._settings.recall(f"{self._prefix}.{name}", "")))
        made.setAccessibleName(name)
        made.setPlaceholderText(HINTS[side])
        made.setToolTip(f"{HINTS[side]}; {tip}")
        made.setTabChangesFocus(True)
        made.setMinimumHeight(appearance().px(64))
        return made

    def lists(self) -> dict[str, tuple[str, ...]]:
        """Both lists without blank lines, by "positive" and "negative"."""
        return {
            name: tuple(line.strip() for line in area.toPlainText().splitlines() if line.strip())
            for name, area in (("positive", self.positive), ("negative", self.negative))
        }

    def remember(self) -> None:
        """Keep what is written for the next time."""
        for area in (self.positive, self.negative):
            key = f"{self._prefix}.{area.accessibleName()}"
            self._settings.remember(key, area.toPlainText())
