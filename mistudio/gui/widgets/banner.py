"""Banners: a sentence with an icon, one action and a close button; they never block."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, IconLabel, button, label

LEVELS = {"info": ("info", "blue"), "warning": ("alert", "yellow"), "error": ("x_circle", "red")}


class Banner(Card):
    """One message; level info, warning or error."""

    def __init__(
        self,
        sentence: str,
        level: str = "info",
        *,
        action: str = "",
        clicked: Callable[[], object] | None = None,
        details: str = "",
        parent: QWidget | None = None,
    ) -> None:
        super().__init__("info", parent, horizontal=True, padding=10)
        self.level, self.sentence, self.details = level, sentence, details
        icon, role = LEVELS[level]
        self.box.addWidget(IconLabel(icon, role))
        self.box.addWidget(label(sentence, wrap=True, selectable=True), 1)
        if details:
            self.box.addWidget(button("Copy report", self._copy, variant="ghost", icon="copy"))
        if action:
            self.action_button = button(action, clicked)
            self.action_button.clicked.connect(self.dismiss)
            self.box.addWidget(self.action_button)
        self.close_button = button("", self.dismiss, variant="ghost", icon="close", tip="Close")
        self.box.addWidget(self.close_button)
        self.setAccessibleName(f"{level}: {sentence}")

    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(f"{self.sentence}\n\n{self.details}")

    def dismiss(self) -> None:
        """Take it away."""
        self.hide()
        self.setParent(None)
        self.deleteLater()


class BannerArea(QWidget):
    """The newest banners, at most three; a repeated sentence is shown once."""

    LIMIT = 3

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self._box = QVBoxLayout(self)
        self._box.setContentsMargins(px(16), px(8), px(16), 0)
        self._box.setSpacing(px(8))
        self.hide()

    def banners(self) -> list[Banner]:
        return self.findChildren(Banner)

    def show_banner(
        self,
        sentence: str,
        *,
        level: str = "info",
        action: str = "",
        clicked: Callable[[], object] | None = None,
        details: str = "",
    ) -> None:
        """Add a banner; the oldest goes if there are too many, and one news replaces another."""
        for old in self.banners():
            if old.sentence == sentence or level == old.level == "info":
                old.dismiss()
        while len(self.banners()) >= self.LIMIT:
            self.banners()[0].dismiss()
        made = Banner(sentence, level, action=action, clicked=clicked, details=details)
        made.destroyed.connect(self._on_gone)
        self._box.addWidget(made)
        self.show()

    def _on_gone(self) -> None:
        self.setVisible(bool(self.banners()))
