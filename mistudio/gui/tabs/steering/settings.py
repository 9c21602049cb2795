"""The generation settings of the Steering tab as a form."""

from __future__ import annotations

from typing import Any

from mistudio.core.configs import SteerConfig
from mistudio.core.settings import SettingsFile
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import TextEditor

SETTINGS = (
    "temperature",
    "max_tokens",
    "top_p",
    "top_k",
    "repetition_penalty",
    "seed",
    "samples",
    "stop",
    "time_limit",
    "presence_penalty",
    "frequency_penalty",
)
_MARKS = (("\\n", "\n"), ("\\t", "\t"))


class StopEditor(TextEditor):
    """Strings separated by commas; \\n stands for a line's end and \\t for a tab."""

    def __init__(self) -> None:
        super().__init__("\\n, THE END")

    def value(self) -> list[str]:  # type: ignore[override]
        found = [part.strip() for part in self.line.text().split(",") if part.strip()]
        return [_replaced(part, _MARKS) for part in found]

    def set_value(self, value: Any) -> None:
        back = [(mark, written) for written, mark in _MARKS]
        self.line.setText(", ".join(_replaced(str(part), back) for part in value or ()))


def _replaced(text: str, marks: Any) -> str:
    for old, new in marks:
        text = text.replace(old, new)
    return text


def generation_form(settings: SettingsFile) -> ConfigForm[SteerConfig]:
    """The form; what it does not show is given by the tab."""
    return ConfigForm(
        SteerConfig,
        SETTINGS,
        editors={"stop": StopEditor()},
        columns=4,
        settings=settings,
        remember="steering.form",
    )
