"""The field for an access token: masked, never remembered by this program, gone once used."""

from __future__ import annotations

import re

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QCheckBox, QGridLayout, QLineEdit, QWidget

from mistudio.gui.services import Services
from mistudio.gui.style import mono_font, set_property
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label

_SHAPE = re.compile(r"^hf_[A-Za-z0-9]{20,}$")
SENTENCE = "An access token begins with hf_ and at least 20 letters or digits follow."
_HELP = (
    "For private or gated repositories. It is held in memory for this download only; empty uses "
    "the one in the Hugging Face token store."
)


class AccessTokenField(QWidget):
    """A masked line and the tick that puts the token into the user's Hugging Face token store."""

    changed = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.line = QLineEdit()
        self.line.setEchoMode(QLineEdit.EchoMode.Password)
        self.line.setFont(mono_font())
        self.line.setPlaceholderText("empty uses the stored one")
        self.line.setAccessibleName("Access token")
        self.line.setAccessibleDescription(_HELP)
        self.line.textChanged.connect(self._on_changed)
        self.keep = QCheckBox("Remember in the Hugging Face token store")
        self.caption = label("Access token", "label")
        self.caption.setBuddy(self.line)
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        grid = QGridLayout(self)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setVerticalSpacing(appearance().px(4))
        grid.setHorizontalSpacing(appearance().px(16))
        grid.addWidget(self.caption, 0, 0)
        grid.addWidget(self.line, 1, 0)
        grid.addWidget(self.keep, 1, 1)
        grid.addWidget(self.problem, 2, 0, 1, 2)
        grid.setColumnStretch(0, 1)
        grid.setColumnStretch(1, 1)
        self.setToolTip(_HELP)

    def token(self) -> str:
        """What is written, "" for the stored one."""
        return self.line.text().strip()

    def is_valid(self) -> bool:
        """Whether the field is empty or holds something of a token's shape; says so if not."""
        fine = not self.token() or _SHAPE.match(self.token()) is not None
        self._say("" if fine else SENTENCE)
        if not fine:
            self.line.setFocus()
        return fine

    def hand_over(self, repo: str) -> bool:
        """Give the token to the jobs on `repo`, and to the token store if ticked.

        False if what is written is no token; the caller then stops.
        """
        if not self.is_valid():
            return False
        token = self.token()
        if token:
            self._services.studio.tokens.keep(repo, token)
            if self.keep.isChecked():
                self._remember(token)
        return True

    def clear(self) -> None:
        """Forget what was written."""
        self.line.clear()
        self.line.setModified(False)
        self.keep.setChecked(False)
        self._say("")

    def _remember(self, token: str) -> None:
        def store(_: object) -> str:
            from mistudio.jobs import hub_pages

            return hub_pages.remember_token(token)

        self._services.network.ask(store, self._on_kept, on_error=self._on_not_kept)

    def _on_kept(self, user: str) -> None:
        self._services.banner(f"The access token of {user} is in your Hugging Face token store.")

    def _on_not_kept(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="warning")

    def _on_changed(self, text: str) -> None:
        if self.problem.isVisible() and (not self.token() or _SHAPE.match(self.token())):
            self._say("")
        self.changed.emit()

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))
        set_property(self.line, "invalid", bool(sentence))
