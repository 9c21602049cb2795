"""Help ▸ Doctor: the checks of the machine, run off the window's thread."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtCore import Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.gui.dialog import Dialog
from mistudio.gui.problem_report import report
from mistudio.gui.services import Services
from mistudio.gui.widgets.cards import Card, IconLabel, button, label
from mistudio.system import desktop
from mistudio.system.bundle import own_command
from mistudio.system.doctor import Check, checks, written

LOOK = {True: ("check_circle", "emerald"), False: ("x_circle", "red"), None: ("info", "blue")}


class DoctorDialog(Dialog):
    """Lists every check with its advice."""

    def __init__(
        self, services: Services, parent: QWidget, for_report: tuple[Path | None, str] = (None, "")
    ) -> None:
        """`for_report`: log and device, as `problem_report.report` takes them."""
        super().__init__("Doctor", parent)
        self._for_report = for_report
        self._found: list[Check] = []
        self._wait = label("Looking at this machine…", "muted")
        self.box.addWidget(label("Doctor", "title"))
        self.box.addWidget(self._wait)
        self.box.addStretch(1)
        self.copy_button = button(
            "Copy report",
            self.copy,
            icon="copy",
            tip="Copy the checks with versions and device, without private paths",
        )
        self.copy_button.setEnabled(False)
        self.buttons.addWidget(self.copy_button)
        self.menu_button = button("Add to the menu", self.add_to_menu, icon="plus")
        self.menu_button.setToolTip("Put miStudio into the desktop's menu, for this user")
        self.menu_button.hide()
        self.buttons.addWidget(self.menu_button)
        self.add_close()
        self._services = services
        self._cards: list[Card] = []
        self._ask()

    def _ask(self) -> None:
        home = self._services.studio.paths.home
        self._services.query.ask(lambda _db: checks(home), self._on_checks)

    @Slot(object)
    def _on_checks(self, found: list[Check]) -> None:
        self._found = found
        self._wait.hide()
        for card in self._cards:
            card.deleteLater()
        width = max((self._wait.fontMetrics().horizontalAdvance(c.name) for c in found), default=0)
        self._cards = [_card(check, width) for check in found]
        for card in self._cards:
            self.box.insertWidget(self.box.count() - 1, card)
        self.copy_button.setEnabled(True)
        self.menu_button.setEnabled(True)
        self.menu_button.setVisible(any(c.name == "Menu" and not c.ok for c in found))

    @Slot()
    def add_to_menu(self) -> None:
        """Write the entry that starts this very program, then look again."""
        self.menu_button.setEnabled(False)
        self._services.query.ask(
            lambda _db: desktop.install(own_command(), desktop.data_home()),
            self._on_added,
            on_error=self._on_refused,
        )

    @Slot(object)
    def _on_added(self, _made: object) -> None:
        self._ask()

    def _on_refused(self, sentence: str, details: str) -> None:
        self.menu_button.setEnabled(True)
        self._services.banner(sentence, level="error", details=details)

    def copy(self) -> None:
        text = "\n".join(line for check in self._found for line in written(check))
        QGuiApplication.clipboard().setText(report(text, *self._for_report))


def _card(check: Check, width: int) -> Card:
    """`width` of the longest name, so that the sentences begin below each other."""
    card = Card("settings", horizontal=True, padding=10)
    card.box.addWidget(IconLabel(*LOOK[check.ok]))
    name = label(check.name, "label")
    name.setMinimumWidth(width)
    card.box.addWidget(name)
    text = " ".join(part for part in (check.sentence, check.advice) if part)
    card.box.addWidget(label(text, wrap=True, selectable=True), 1)
    return card
