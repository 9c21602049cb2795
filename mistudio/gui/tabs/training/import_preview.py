"""What the SAE files of this machine are, told before the import, and what they leave open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PySide6.QtCore import QTimer, Signal, Slot
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.config import Config, Violation
from mistudio.core.units import format_bytes
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.fields import hooks_text, kind_text
from mistudio.gui.widgets.cards import label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.jobs import sae_preview
from mistudio.jobs.sae_preview import SaePreview

_WAIT_MS = 300
_LACKING = {
    "model": "No model of the library is named in the files; choose the one that it reads.",
    "layer": "The files do not name the layer.",
    "hook": "The files do not name the hook that it reads.",
    "hook_out": "The files do not name what the transcoder gives.",
}


class PlacedForm(ConfigForm[Any]):
    """A form that asks for what an SAE's files leave open, until it is named or `waived`."""

    waived = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lacking: dict[str, str] = {}
        super().__init__(*args, **kwargs)

    def ask_for(self, lacking: Mapping[str, str]) -> None:
        """Name settings that are needed, each with its sentence."""
        self._lacking = dict(lacking)
        self._on_edited()

    def lacks(self) -> bool:
        """Whether something is asked for and not named yet."""
        return bool(self._open(super()._read()[0]))

    def _open(self, config: Config) -> list[Violation]:
        return [
            Violation(name, sentence)
            for name, sentence in self._lacking.items()
            if getattr(config, name) == self.fields[name].setting.default
        ]

    def _read(self) -> tuple[Any, list[Violation]]:
        config, problems = super()._read()
        return config, problems if self.waived else [*problems, *self._open(config)]

    def _is_blank(self, name: str) -> bool:
        return name not in self._lacking and super()._is_blank(name)


class PreviewLines(QWidget):
    """Reads what a path holds, off the window's thread; `told` follows with the preview or None."""

    told = Signal(object)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._path = ""
        self.is_reading = False
        """whether the answer about the present path is still to come"""
        self.facts = label("", "label", wrap=True)
        self.place = label("", "muted", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        for part in (self.facts, self.place, self.problem):
            box.addWidget(part)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self._ask)
        self._show()

    def look_at(self, path: str) -> None:
        """Tell what is at a path, once it has stopped changing."""
        if path == self._path:
            return
        self._path = path
        self.is_reading = bool(path)
        self._show()
        self.told.emit(None)
        if path:
            self._soon.start()
        else:
            self._soon.stop()

    def stop(self) -> None:
        """Ask no more."""
        self._soon.stop()
        self._path, self.is_reading = "", False

    @Slot()
    def _ask(self) -> None:
        studio, path = self._services.studio, self._path
        self._show("Reading the files…")
        self._services.network.ask(
            lambda _: (path, sae_preview.preview_sae(studio, path)),
            self._on_preview,
            on_error=self._on_problem,
            key="sae preview",
        )

    @Slot(object)
    def _on_preview(self, answer: tuple[str, SaePreview]) -> None:
        path, found = answer
        if path == self._path:
            self.is_reading = False
            self._show(what_it_is(found), where_it_reads(found), said_of(found))
            self.told.emit(found)

    def _on_problem(self, sentence: str, details: str) -> None:
        if self._path and not self._soon.isActive():
            self.is_reading = False
            self._show(problem=sentence)
            self.told.emit(None)

    def _show(self, facts: str = "", place: str = "", problem: str = "") -> None:
        shown = ((self.facts, facts), (self.place, place), (self.problem, problem))
        for part, text in shown:
            part.setText(text)
            part.setVisible(bool(text))
        self.setVisible(any(text for _, text in shown))


def lacking(found: SaePreview | None) -> dict[str, str]:
    """What is to be asked for, each setting with its sentence."""
    return {name: _LACKING[name] for name in found.missing} if found else {}


def what_it_is(found: SaePreview) -> str:
    """Format, architecture, sizes, numbers and bytes in one line."""
    size = format_bytes(found.size_bytes)
    if not found.is_read:
        parts = [found.format, found.dtype, size, "read only when it is imported, for its size"]
    else:
        kind = kind_text(found.architecture, found.encoder)
        width = f"{found.d_in:,}" + (f" → {found.d_out:,}" if found.d_out != found.d_in else "")
        kept = f"k {found.k:,}" if found.k else ""
        sizes = f"width {width} × {found.n_latents:,} latents"
        parts = [found.format, kind, sizes, kept, found.dtype, size]
    return " · ".join(part for part in parts if part)


def said_of(found: SaePreview) -> str:
    """What is doubted, and what is used as something else than it is."""
    return " ".join(part for part in (found.doubt, found.read_as) if part)


def where_it_reads(found: SaePreview) -> str:
    """Layer, hooks and model as far as the files name them."""
    if not found.is_read:
        return ""
    layer = "" if found.layer is None else f"layer {found.layer}"
    hooks = hooks_text(found.hook, found.hook_out) if found.hook else ""
    known = " ".join(part for part in (layer, hooks) if part)
    lacks = "" if found.doubt else ", which the library lacks"
    here = f", in the library as {found.model}" if found.model else lacks
    if not found.model_name:
        return f"Reads {known}." if known else "The files do not say where it reads."
    named = f"{found.model_name}{here}."
    return f"Reads {known} of {named}" if known else f"Reads an unnamed layer of {named}"
