"""Presets of steering: save the settings under a name, load, star, rename, delete."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLineEdit, QWidget

from mistudio.core.config import to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import StudioError
from mistudio.core.steering_shown import edits_of
from mistudio.gui import ask
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.library.deleting import delete_undoably
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row, set_icon
from mistudio.gui.widgets.elided import Elided
from mistudio.gui.widgets.layout import Collapsible
from mistudio.jobs import steering_presets, templates
from mistudio.jobs.set_aside import set_aside
from mistudio.jobs.steering_presets import Preset


class Presets(Collapsible):
    """The list with its count, closed at first; `loaded(Preset)` follows Load.

    `config` gives the settings of the tab; it raises `StudioError` for what cannot be read.
    """

    loaded = Signal(object)
    problem = Signal(str)

    def __init__(
        self, services: Services, config: Callable[[], SteerConfig], parent: QWidget | None = None
    ) -> None:
        super().__init__("Presets", parent)
        self.heading.setToolTip("Features and settings that were saved, and saving these")
        self._services, self._config = services, config
        self.lines: list[PresetLine] = []
        self._area, self._list = scrolling(spacing=4)
        self.empty = label("Saved features and settings appear here.", "muted")
        self.name = QLineEdit()
        self.name.setPlaceholderText("Name (made from the settings)")
        self.name.setAccessibleName("Name of the preset")
        self.name.setToolTip("Empty makes a name of the number of features, layers and time")
        self.name.setMaxLength(255)
        self.description = QLineEdit()
        self.description.setPlaceholderText("Description")
        self.description.setAccessibleName("Description of the preset")
        self.description.setToolTip("What it is for")
        self.description.setMaxLength(500)
        self.save_button = button(
            "Save preset", self.save, icon="save", tip="Keep features, positions and generation"
        )
        line = row(self.name, self.description, self.save_button)
        line.setStretch(0, 1)
        line.setStretch(1, 1)
        self.box.setSpacing(appearance().px(6))
        self.box.addWidget(self.empty)
        self.box.addWidget(self._area)
        self.box.addLayout(line)

    def read(self) -> None:
        """Read the list again."""
        studio = self._services.studio
        self._services.query.ask(
            lambda _: steering_presets.presets(studio), self._on_rows, key="presets"
        )

    def save(self) -> None:
        """Keep the settings of the tab under the name in the field."""
        studio = self._services.studio
        try:
            config = self._config()
        except StudioError as error:
            self.problem.emit(error.sentence)
            return
        name, about = self.name.text(), self.description.text()
        self._services.query.ask(
            lambda _: steering_presets.save(studio, config, name, about),
            self._on_saved,
            on_error=self._on_error,
        )

    def _on_saved(self, saved: object) -> None:
        self.name.clear()
        self.description.clear()
        self.set_open(True)
        self.read()

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.emit(sentence)

    def _on_rows(self, found: Sequence[Preset]) -> None:
        for line in self.lines:
            self._list.removeWidget(line)
            line.hide()
            line.deleteLater()
        self.lines = []
        for preset in found:
            line = PresetLine(preset, self)
            line.asked.connect(self._act)
            self._list.insertWidget(len(self.lines), line)
            self.lines.append(line)
        px = appearance().px
        tall = sum(line.sizeHint().height() + px(4) for line in self.lines)
        self._area.setFixedHeight(min(px(150), tall))
        self._area.setVisible(bool(found))
        self.empty.setVisible(not found)
        self.set_title(f"Presets ({len(found):,})")

    def _act(self, preset: Preset, what: str) -> None:
        studio, row_ = self._services.studio, preset.row
        try:
            if what == "load":
                self.loaded.emit(preset)
                return
            if what == "star":
                templates.star(studio, row_.id, not row_.is_favorite)
            elif what == "rename":
                name, given = ask.text(self, "Rename preset", "New name", row_.name)
                if not given:
                    return
                templates.rename(studio, row_.id, name)
            elif confirm(self, f"Delete preset “{row_.name}”?", "Its settings are lost."):
                delete_undoably(
                    self._services,
                    lambda: [set_aside(studio, "templates", row_.id)],
                    f"The preset “{row_.name}” is deleted.",
                    "templates",
                    self.read,
                )
                return
        except StudioError as error:
            self.problem.emit(error.sentence)
        self.read()


class PresetLine(QWidget):
    """One preset: star, name, description, SAE, count, layers, temperature, what can be done."""

    asked = Signal(object, str)

    def __init__(self, preset: Preset, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.preset = preset
        kept, config = preset.row, preset.config
        self.star = button("", self._on_star, variant="ghost", icon="star")
        set_icon(self.star, "star_on" if kept.is_favorite else "star")
        self.star.setToolTip("Take the star away" if kept.is_favorite else "Star: comes first")
        self.star.setAccessibleName(f"{self.star.toolTip()}: {kept.name}")
        self.load = button("Load", self._on_load, icon="upload", tip="Take over its settings")
        self.load.setAccessibleName(f"Load {kept.name}")
        self.load.setEnabled(preset.is_available)
        rename = button("", self._on_rename, variant="ghost", icon="edit", tip="Rename")
        rename.setAccessibleName(f"Rename {kept.name}")
        delete = button("", self._on_delete, variant="ghost", icon="trash", tip="Delete")
        delete.setAccessibleName(f"Delete {kept.name}")
        name = Elided("label")
        name.set_text(kept.name)
        about = Elided("muted")
        what = "vector" if all(name.startswith("@") for name in preset.missing) else "SAE"
        gone = f"Unavailable: its {what} is not in the library. " if preset.missing else ""
        saes = ", ".join([*(s.name for s in preset.saes), *(f"@{v.name}" for v in preset.vectors)])
        about.set_text(gone + " · ".join(part for part in (kept.description or "", saes) if part))
        count = len(edits_of(to_dict(config)))
        facts = [label(f"{count} feature{'' if count == 1 else 's'}", "text-emerald")]
        if preset.layers:
            layers = ", ".join(map(str, preset.layers))
            facts.append(label(f"layer {layers}", "text-purple"))
        facts.append(label(f"T {config.temperature:g}", "text-blue"))
        line = row(self.star, name, about, *facts, self.load, rename, delete)
        line.setStretch(1, 1)
        line.setStretch(2, 1)
        self.setLayout(line)

    def _on_star(self) -> None:
        self.asked.emit(self.preset, "star")

    def _on_load(self) -> None:
        self.asked.emit(self.preset, "load")

    def _on_rename(self) -> None:
        self.asked.emit(self.preset, "rename")

    def _on_delete(self) -> None:
        self.asked.emit(self.preset, "delete")
