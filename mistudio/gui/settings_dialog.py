"""The settings: look, device, threads, questions asked."""

from __future__ import annotations

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QFormLayout, QWidget

from mistudio.core.errors import StudioError
from mistudio.core.settings import text_of
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.banner import BannerArea
from mistudio.gui.widgets.cards import button, label, row
from mistudio.gui.widgets.editors import (
    CheckEditor,
    ChoiceEditor,
    Editor,
    NumberEditor,
    TextEditor,
)
from mistudio.jobs import hub_choice, hub_pages
from mistudio.jobs.hub_pages import TokenState

CHOICES = {
    "theme": (("dark", "Dark"), ("light", "Light"), ("system", "As the desktop")),
    "device": (("auto", "Automatic"), ("cuda", "GPU"), ("cpu", "Processor")),
    "device_profile": (
        ("auto", "Automatic"),
        ("small", "Small: 8 GB in all"),
        ("standard", "Standard"),
    ),
    "model_format": (
        ("auto", "Automatic"),
        ("fp32", "FP32"),
        ("bf16", "BF16"),
        ("fp16", "FP16"),
        ("int8", "INT8"),
        ("nf4", "NF4"),
        ("fp4", "FP4"),
    ),
    "remote_display": (("auto", "Automatic"), ("on", "Always"), ("off", "Never")),
    "log_level": (("info", "Normal"), ("debug", "Detailed"), ("warning", "Only warnings")),
}
NUMBERS = {"font_px": (11, 24), "threads": (0, 256), "pause_at_c": (0, 110)}


class SettingsDialog(Dialog):
    """Every change takes effect and is saved at once."""

    theme_changed = Signal()

    def __init__(self, services: Services, parent: QWidget) -> None:
        super().__init__("Settings", parent, width=640, height_share=0.7)
        self._services = services
        self._banners = BannerArea()
        self.box.addWidget(label("Settings", "title"))
        self.box.addWidget(self._banners)
        form = QFormLayout()
        form.setVerticalSpacing(appearance().px(12))
        form.setHorizontalSpacing(appearance().px(24))
        self.box.addLayout(form)
        self.editors: dict[str, Editor] = {}
        for name, choices in CHOICES.items():
            self._add(form, name, ChoiceEditor(choices))
        for name, (low, high) in NUMBERS.items():
            self._add(form, name, NumberEditor(whole=True, minimum=low, maximum=high))
        self._add(form, "hub_address", TextEditor("https://huggingface.co"))
        self._add(form, "proxy", TextEditor("http://host:port"))
        self._add(form, "offline", CheckEditor(text_of("offline").label))
        self._add_token(form)
        for name in ("confirm_close", "job_notices"):
            self._add(form, name, CheckEditor(text_of(name).label))
        place = label(str(services.studio.paths.home), "mono", wrap=True, selectable=True)
        form.addRow(label("Data folder", "label"), place)
        self.problem = label("", "error", wrap=True)
        self.box.addWidget(self.problem)
        self.box.addStretch(1)
        self.add_close()

    def _add(self, form: QFormLayout, name: str, editor: Editor) -> None:
        text = text_of(name)
        editor.set_value(getattr(self._services.settings.values, name))
        editor.control.setAccessibleName(text.label)
        editor.control.setAccessibleDescription(text.help)
        editor.setToolTip(text.help)
        editor.setProperty("setting", name)
        editor.changed.connect(self._on_changed)
        self.editors[name] = editor
        caption = label("" if isinstance(editor, CheckEditor) else text.label, "label")
        caption.setToolTip(text.help)
        caption.setMinimumHeight(editor.sizeHint().height())  # in one line with the editor's text
        form.addRow(caption, editor)

    def _add_token(self, form: QFormLayout) -> None:
        """Whether the Hugging Face token store holds a token, and the way to take it out."""
        self.token_state = label("…", "muted", wrap=True)
        self.forget_button = button(
            "Forget it",
            self.forget_token,
            tip="Removes the token from your Hugging Face token store. Private and gated "
            "repositories then ask for one again; other programs lose it too.",
        )
        self.forget_button.hide()
        form.addRow(label("Access token", "label"), row(self.token_state, self.forget_button, None))
        self._services.network.ask(_token_state, self._on_token_state)

    def _on_token_state(self, state: TokenState) -> None:
        self.token_state.setText(
            "One is in your Hugging Face token store." if state.has_stored else "None is stored."
        )
        self.forget_button.setVisible(state.has_stored)

    @Slot()
    def forget_token(self) -> None:
        """Take the token out of the token store."""
        self._services.network.ask(
            _forget_token, self._on_token_state, on_error=self._on_not_forgotten
        )

    def _on_not_forgotten(self, sentence: str, _details: str) -> None:
        self._banners.show_banner(sentence, level="error")

    def _on_changed(self) -> None:
        """Take over what is valid; name what is not."""
        values, problems, before = self._services.settings.values, [], _look(self._services)
        for name, editor in self.editors.items():
            given = editor.value()
            if name in NUMBERS:
                low, high = NUMBERS[name]
                if not given.isdigit() or not low <= int(given) <= high:
                    problems.append(f"{text_of(name).label} must lie between {low} and {high}.")
                    continue
                given = int(given)
            setattr(values, name, given)
        hub_choice.configure(values)
        held = self._services.studio.models
        held.device, held.threads = values.device, values.threads
        self.problem.setText(" ".join(problems))
        self._save()
        if _look(self._services) != before:
            self.theme_changed.emit()

    def _save(self) -> None:
        try:
            self._services.settings.save()
        except StudioError as error:
            self._banners.show_banner(error.sentence, level="error")


def _token_state(_db: object) -> TokenState:
    return hub_pages.token_state()


def _forget_token(_db: object) -> TokenState:
    hub_pages.forget_token()
    return hub_pages.token_state()


def _look(services: Services) -> tuple[str, int, str]:
    values = services.settings.values
    return values.theme, values.font_px, values.remote_display
