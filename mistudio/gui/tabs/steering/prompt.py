"""The prompt with its tokens counted, and the chat template where the model has one."""

from __future__ import annotations

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QCheckBox, QPlainTextEdit, QVBoxLayout, QWidget

from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label, row
from mistudio.jobs.steering_prompt import MOST_TOKENS, PromptFacts, prompt_facts

PROMPT = "steering.prompt"
_WAIT_MS = 250


class PromptBox(QWidget):
    """Edits prompt and chat setting; `changed` follows every edit."""

    changed = Signal()

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._model = ""
        self.text = QPlainTextEdit(str(services.settings.recall(PROMPT, "")))
        self.text.setAccessibleName("Prompt")
        self.text.setTabChangesFocus(True)
        lines = self.text.fontMetrics().lineSpacing()
        self.text.setFixedHeight(4 * lines + appearance().px(24))
        self.chat = QCheckBox("Chat template")
        self.chat.setToolTip(
            "Ask as the user of a chat; off, the model continues the text as it is"
        )
        self.chat.hide()
        self.count = label("", "small")
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self._ask)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.setSpacing(appearance().px(4))
        box.addWidget(self.text)
        box.addLayout(row(self.chat, None, self.count))
        self.text.textChanged.connect(self._on_text)
        self.chat.toggled.connect(self._tell)
        self.set_lines(False)

    def prompt(self) -> str:
        return self.text.toPlainText()

    def prompts(self) -> list[str]:
        """Every line that is not empty, as a batch reads them."""
        return [line for line in self.prompt().splitlines() if line.strip()]

    def set_lines(self, lines: bool) -> None:
        """Whether every line is a prompt of its own."""
        hint = "One prompt per line" if lines else "The text that the model continues"
        self.text.setPlaceholderText(hint)
        self.text.setToolTip(hint)

    def set_model(self, model_id: str) -> None:
        """Count with the tokenizer of another model."""
        if model_id != self._model:
            self._model = model_id
            self._ask()

    def is_chat(self) -> bool:
        """Whether the template is used; never of a model that is known to have none."""
        return self.chat.isChecked() and not self.chat.isHidden()

    def _on_text(self) -> None:
        self._services.settings.remember(PROMPT, self.prompt())
        self._soon.start()
        self._tell()

    def _ask(self) -> None:
        studio, model, text = self._services.studio, self._model, self.prompt()
        if model:
            self._services.query.ask(
                lambda _: prompt_facts(studio, model, text), self._on_facts, key="prompt"
            )

    def _on_facts(self, facts: PromptFacts) -> None:
        self.chat.setVisible(facts.has_template is not False)
        if facts.tokens is None or not self.prompt():
            self.count.setText("")
            return
        over = f"; at most {MOST_TOKENS:,} are sensible" if facts.tokens > MOST_TOKENS else ""
        self.count.setText(f"{facts.tokens:,} token{'' if facts.tokens == 1 else 's'}{over}")

    def _tell(self) -> None:
        self.changed.emit()
