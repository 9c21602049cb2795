"""The Training tab: two views, the runs and the SAE library."""

from __future__ import annotations

from typing import Any

from PySide6.QtWidgets import QButtonGroup, QStackedWidget, QVBoxLayout, QWidget

from mistudio.gui.services import Services, Tab
from mistudio.gui.tabs.training.library_view import LibraryView
from mistudio.gui.tabs.training.runs_view import RunsView
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, row

RUNS, LIBRARY = range(2)
VIEWS = {
    "Runs": "Start a training, and follow those there are",
    "SAE library": "Every SAE, trained here or imported: measure, compare, export",
}


class TrainingTab(Tab):
    """Remembers which of its views was shown."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(services, parent)
        # each has its parent from the start: a later one makes Qt style all it holds anew
        self.pages = QStackedWidget(self)
        self.runs = RunsView(services, self.pages)
        self.library = LibraryView(services, self.pages)
        self.pages.addWidget(self.runs)
        self.pages.addWidget(self.library)
        self.views = QButtonGroup(self)
        for place, (name, tip) in enumerate(VIEWS.items()):
            self.views.addButton(button(name, variant="toggle", tip=tip), place)
        self.views.idClicked.connect(self.show_view)
        px = appearance().px
        box = QVBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(0)
        switch = row(None, *self.views.buttons(), None)
        box.addLayout(switch)
        box.addWidget(self.pages, 1)
        self.show_view(LIBRARY if services.settings.recall("training.view") == LIBRARY else RUNS)

    def show_view(self, place: int) -> None:
        """Show the runs or the library."""
        self.pages.setCurrentIndex(place)
        self.views.button(place).setChecked(True)
        self.services.settings.remember("training.view", place)

    def select(self, **selection: Any) -> None:
        """`run=id` shows a run, `sae=id` an SAE, `activations=id` the form with that set."""
        if run := selection.get("run") or selection.get("training"):
            self.show_view(RUNS)
            self.runs.select(str(run))
        elif sae := selection.get("sae"):
            self.show_view(LIBRARY)
            self.library.select(str(sae))
        elif stored := selection.get("activations"):
            self.show_view(RUNS)
            self.runs.train_on(str(stored))

    def focus_search(self) -> None:
        if self.pages.currentIndex() == LIBRARY:
            self.library.search.setFocus()
        else:
            self.runs.list.search.setFocus()

    def run_primary(self) -> None:
        """Start the training that the form describes."""
        self.show_view(RUNS)
        self.runs.form.section.set_open(True)
        self.runs.form.start()

    def pause_resume(self) -> None:
        self.runs.pause_resume()
