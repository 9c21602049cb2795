"""Banners: a sentence with an icon, one action and a close button; they never block."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QTimer
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
        seconds: float = 0.0,
        ended: Callable[[], object] | None = None,
        parent: QWidget | None = None,
    ) -> None:
        """After `seconds`, if any, it goes by itself; `ended` is called once when it goes."""
        super().__init__("info", parent, horizontal=True, padding=10)
        self.level, self.sentence, self.details = level, sentence, details
        self._ended = ended
        self.stays = seconds > 0  # for its time, whatever other news there is
        if self.stays:
            timer = QTimer(self)
            timer.setSingleShot(True)
            timer.timeout.connect(self.dismiss)
            timer.start(round(1000 * seconds))
        icon, role = LEVELS[level]
        self.box.addWidget(IconLabel(icon, role))
        self.box.addWidget(label(sentence, wrap=True, selectable=True), 1)
        if details:
            tip = "Copy this with versions, without tokens and private paths"
            self.box.addWidget(
                button("Copy report", self._copy, variant="ghost", icon="copy", tip=tip)
            )
        if action:
            self.action_button = button(action, clicked)
            self.action_button.clicked.connect(self.dismiss)
            self.box.addWidget(self.action_button)
        self.close_button = button("", self.dismiss, variant="ghost", icon="close", tip="Close")
        self.box.addWidget(self.close_button)
        self.setAccessibleName(f"{level}: {sentence}")

    def _copy(self) -> None:
        from mistudio.gui.problem_report import report

        QGuiApplication.clipboard().setText(report(f"{self.sentence}\n\n{self.details}"))

    def dismiss(self) -> None:
        """Take it away."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()
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
        seconds: float = 0.0,
        ended: Callable[[], object] | None = None,
    ) -> None:
        """Add a banner; the oldest goes if there are too many, and one news replaces another.

        With `seconds` it goes by itself, and no other news replaces it; `ended` tells that it went.
        """
        for old in self.banners():
            replaced = level == old.level == "info" and not old.stays
            if old.sentence == sentence or replaced:
                old.dismiss()
        while len(self.banners()) >= self.LIMIT:
            self.banners()[0].dismiss()
        made = Banner(
            sentence,
            level,
            action=action,
            clicked=clicked,
            details=details,
            seconds=seconds,
            ended=ended,
        )
        made.destroyed.connect(self._on_gone)
        self._box.addWidget(made)
        self.show()

    def _on_gone(self) -> None:
        self.setVisible(bool(self.banners()))
