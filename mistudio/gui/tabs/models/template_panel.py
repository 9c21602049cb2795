"""The templates of a form: save the settings under a name, load, star, delete."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QLineEdit, QVBoxLayout, QWidget

from mistudio.core.config import Config
from mistudio.core.errors import StudioError
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.deleting import delete_undoably
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label, row, set_icon
from mistudio.gui.widgets.layout import Collapsible
from mistudio.jobs import templates
from mistudio.jobs.set_aside import set_aside
from mistudio.jobs.templates import Loaded
from mistudio.store.records import TemplateRow


class TemplatePanel(Collapsible):
    """A list with its count, closed at first. `loaded(Loaded)` follows Load, `save_asked` Save.

    The owner answers `save_asked` with `save(config)`.
    """

    loaded = Signal(object)
    save_asked = Signal()
    problem = Signal(str)

    def __init__(self, services: Services, kind: str, parent: QWidget | None = None) -> None:
        super().__init__("Templates", parent)
        self.heading.setToolTip("Settings that were saved, and saving these")
        self._services, self._kind = services, kind
        self.lines: list[TemplateLine] = []
        self._list = QVBoxLayout()
        self._list.setSpacing(appearance().px(4))
        self.box.addLayout(self._list)
        self.name = QLineEdit()
        self.name.setPlaceholderText("Name (made from the settings)")
        self.name.setAccessibleName("Name of the template")
        self.name.setToolTip("Empty makes a name from the settings")
        self.name.setMaxLength(255)
        self.description = QLineEdit()
        self.description.setPlaceholderText("Description")
        self.description.setAccessibleName("Description of the template")
        self.description.setToolTip("What the settings are for")
        self.description.setMaxLength(500)
        self.save_button = button(
            "Save settings", icon="save", tip="Keep these settings as a template"
        )
        self.save_button.clicked.connect(self.save_asked)
        line = row(self.name, self.description, self.save_button)
        line.setStretch(0, 1)
        line.setStretch(1, 1)
        self.box.addLayout(line)
        self.read()

    def read(self) -> None:
        """Read the list again."""
        studio, kind = self._services.studio, self._kind
        self._services.query.ask(
            lambda _: templates.templates(studio, kind), self._on_rows, key="templates"
        )

    def save(self, config: Config) -> None:
        """Keep these settings under the name in the field."""
        studio, kind = self._services.studio, self._kind
        name, description = self.name.text(), self.description.text()
        self._services.query.ask(
            lambda _: templates.save(studio, kind, config, name, description),
            self._on_saved,
            on_error=self._on_error,
        )

    def _on_saved(self, saved: TemplateRow) -> None:
        self.name.clear()
        self.description.clear()
        self.read()

    def _on_error(self, sentence: str, details: str) -> None:
        self.problem.emit(sentence)

    def _on_rows(self, rows: Sequence[TemplateRow]) -> None:
        starred = next((line.row.id for line in self.lines if line.star.hasFocus()), "")
        for line in self.lines:
            self._list.removeWidget(line)
            line.hide()
            line.deleteLater()
        self.lines = []
        for row_ in rows:
            line = TemplateLine(row_, self)
            line.asked.connect(self._act)
            self._list.addWidget(line)
            self.lines.append(line)
            if row_.id == starred:
                line.star.setFocus()
        self.set_title(f"Templates ({len(rows):,})")

    def _act(self, row_: TemplateRow, what: str) -> None:
        studio = self._services.studio
        try:
            if what == "load":
                found: Loaded = templates.load(studio, row_.id)
                self.loaded.emit(found)
                return
            if what == "star":
                templates.star(studio, row_.id, not row_.is_favorite)
            elif confirm(self, f"Delete template “{row_.name}”?", "Its settings are lost."):
                delete_undoably(
                    self._services,
                    lambda: [set_aside(studio, "templates", row_.id)],
                    f"The template “{row_.name}” is deleted.",
                    "templates",
                    self.read,
                )
                return
        except StudioError as error:
            self.problem.emit(error.sentence)
        self.read()


class TemplateLine(QWidget):
    """One template: star, name, description, load, delete."""

    asked = Signal(object, str)

    def __init__(self, row_: TemplateRow, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.row = row_
        self.star = button("", self._ask_star, variant="ghost", icon="star")
        set_icon(self.star, "star_on" if row_.is_favorite else "star")
        self.star.setToolTip("Take the star away" if row_.is_favorite else "Star: comes first")
        self.star.setAccessibleName(f"{self.star.toolTip()}: {row_.name}")
        self.load = button("Load", self._ask_load, icon="upload", tip="Take over its settings")
        self.load.setAccessibleName(f"Load {row_.name}")
        self.delete = button("", self._ask_delete, variant="ghost", icon="trash", tip="Delete")
        self.delete.setAccessibleName(f"Delete {row_.name}")
        text = label(row_.description or ("Shipped" if row_.is_builtin else ""), "muted", wrap=True)
        line = row(self.star, label(row_.name, "label"), text, self.load, self.delete)
        line.setStretch(2, 1)
        self.setLayout(line)
        self.delete.setVisible(not row_.is_builtin)

    def _ask_star(self) -> None:
        self.asked.emit(self.row, "star")

    def _ask_load(self) -> None:
        self.asked.emit(self.row, "load")

    def _ask_delete(self) -> None:
        self.asked.emit(self.row, "delete")
