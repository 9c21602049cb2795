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
        self.add_close()
        home = services.studio.paths.home
        services.query.ask(lambda _db: checks(home), self._on_checks)

    @Slot(object)
    def _on_checks(self, found: list[Check]) -> None:
        self._found = found
        self._wait.hide()
        for check in found:
            self.box.insertWidget(self.box.count() - 1, _card(check))
        self.copy_button.setEnabled(True)

    def copy(self) -> None:
        text = "\n".join(line for check in self._found for line in written(check))
        QGuiApplication.clipboard().setText(report(text, *self._for_report))


def _card(check: Check) -> Card:
    card = Card("settings", horizontal=True, padding=10)
    card.box.addWidget(IconLabel(*LOOK[check.ok]))
    card.box.addWidget(label(check.name, "label"))
    text = " ".join(part for part in (check.sentence, check.advice) if part)
    card.box.addWidget(label(text, wrap=True, selectable=True), 1)
    return card
