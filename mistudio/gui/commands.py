"""What the actions of the menu and the palette do; one method per entry of `actions.ACTIONS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, QUrl, Slot
from PySide6.QtGui import QDesktopServices, QGuiApplication
from PySide6.QtWidgets import QApplication

from mistudio.core.errors import StudioError
from mistudio.gui.actions import TAB_NAMES
from mistudio.gui.dialog import Dialog, confirm
from mistudio.gui.theme import appearance

if TYPE_CHECKING:
    from mistudio.gui.main_window import MainWindow
    from mistudio.gui.tour import Tour
    from mistudio.store.connection import Db

TOURS_SEEN = "tours.seen"
TOUR_OFFERED = "tours.offered"


def _is_new(db: Db) -> bool:
    """Whether the data folder holds no text and no model."""
    rows = db.query("SELECT (SELECT COUNT(*) FROM datasets) + (SELECT COUNT(*) FROM models) AS n")
    return next(iter(rows))["n"] == 0


SAMPLE_KINDS = (
    "models",
    "datasets",
    "tokenizations",
    "activation_sets",
    "trainings",
    "saes",
    "feature_sets",
    "steering_runs",
    "steering_vectors",
    "templates",
)


class Commands(QObject):
    """Does each action for one window."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(window)
        self._window = window
        self._tour: Tour | None = None

    def work_of(self, name: str) -> Callable[[], object]:
        """The work of an action by its name."""
        found: Callable[[], object] = getattr(self, name)
        return found

    def _go(self, position: int) -> None:
        self._window.tabs.setCurrentIndex(position)
        self._window.tabs.currentWidget().setFocus()

    @Slot()
    def tab_datasets(self) -> None:
        self._go(TAB_NAMES.index("Datasets"))

    @Slot()
    def tab_models(self) -> None:
        self._go(TAB_NAMES.index("Models"))

    @Slot()
    def tab_training(self) -> None:
        self._go(TAB_NAMES.index("Training"))

    @Slot()
    def tab_features(self) -> None:
        self._go(TAB_NAMES.index("Features"))

    @Slot()
    def tab_steering(self) -> None:
        self._go(TAB_NAMES.index("Steering"))

    @Slot()
    def import_dataset(self) -> None:
        self._window.tabs.show_tab("Datasets", import_file=True)

    @Slot()
    def import_model(self) -> None:
        self._window.tabs.show_tab("Models", import_model=True)

    @Slot()
    def open_data_folder(self) -> None:
        home = self._window.services.studio.paths.home
        QDesktopServices.openUrl(QUrl.fromLocalFile(str(home)))

    @Slot()
    def show_settings(self) -> None:
        from mistudio.gui.settings_dialog import SettingsDialog

        dialog = SettingsDialog(self._window.services, self._window)
        dialog.theme_changed.connect(self._window.apply_theme)
        dialog.show()

    @Slot()
    def close(self) -> None:
        self._window.close()

    @Slot()
    def find_in_tab(self) -> None:
        if (tab := self._window.tabs.current()) is not None:
            tab.focus_search()

    @Slot()
    def toggle_jobs(self) -> None:
        panel = self._window.jobs_panel
        panel.setVisible(not panel.isVisible())

    @Slot()
    def show_system(self) -> None:
        """Open the System window, or bring it forward."""
        from mistudio.gui.system_dialog import SystemDialog

        self._show_once(SystemDialog, lambda: SystemDialog(self._window.monitor, self._window))

    @Slot()
    def show_storage(self) -> None:
        """Open the storage window, or bring it forward."""
        from mistudio.gui.storage_dialog import StorageDialog

        self._show_once(StorageDialog, lambda: StorageDialog(self._window.services, self._window))

    def _show_once(self, kind: type[Dialog], make: Callable[[], Dialog]) -> None:
        found = self._window.findChild(kind)
        dialog = found if found is not None and found.isVisible() else make()
        dialog.show()
        dialog.raise_()
        dialog.activateWindow()

    @Slot()
    def show_palette(self) -> None:
        from mistudio.gui.command_palette import CommandPalette

        palette = CommandPalette(list(self._window.actions_by_name.values()), self._window)
        palette.show()

    @Slot()
    def toggle_theme(self) -> None:
        settings = self._window.services.settings
        settings.values.theme = "light" if appearance().colors.name == "dark" else "dark"
        settings.dirty = True
        self._window.apply_theme()

    @Slot()
    def run_primary(self) -> None:
        if (tab := self._window.tabs.current()) is not None:
            tab.run_primary()

    @Slot()
    def pause_resume(self) -> None:
        if (tab := self._window.tabs.current()) is not None:
            tab.pause_resume()

    @Slot()
    def run_sample(self) -> None:
        """Queue the sample run and show it in the jobs panel."""
        from mistudio.core.configs import DemoConfig

        try:
            self._window.services.submit("demo", DemoConfig())
        except StudioError as error:
            self._window.services.banner(error.sentence, level="error", details=error.details)
        self._window.jobs_panel.show()

    @Slot()
    def remove_sample(self) -> None:
        """Ask, and take the sample project away."""
        from mistudio.jobs import remove_sample

        services = self._window.services
        found = remove_sample.parts(services.studio)
        if found.is_empty:
            services.banner("There is no sample here. Run the sample makes one.")
            return
        said = f"{found.words} will be deleted. What you made of other models stays."
        if confirm(self._window, "Remove the sample?", said, "Remove it"):
            services.query.ask(
                lambda _: remove_sample.remove(services.studio),
                self._on_sample_removed,
                on_error=self._on_sample_kept,
            )

    def _on_sample_removed(self, removed: Any) -> None:
        services = self._window.services
        told = f"Removed: {removed.parts.words}."
        services.banner(" ".join([told, *removed.kept]))
        for kind in SAMPLE_KINDS:
            services.publisher.publish(kind, "")

    def _on_sample_kept(self, sentence: str, details: str) -> None:
        self._window.services.banner(sentence, level="error", details=details)

    @Slot()
    def unload_model(self) -> None:
        services = self._window.services
        if services.lanes.running():
            services.banner("A job runs with this model; it can be unloaded afterwards.")
        else:
            services.studio.models.unload()
        self._window.refresh_readings()

    @Slot()
    def show_help(self) -> None:
        """Open the help at what has the focus, else at the tab."""
        from mistudio.gui.help_topics import topic_at
        from mistudio.gui.help_window import HelpWindow

        topic = topic_at(QApplication.focusWidget()) or topic_at(self._window.tabs.current())
        found = self._window.findChild(HelpWindow)
        if found is not None and found.isActiveWindow():
            return
        if found is None or not found.isVisible():
            found = HelpWindow(self._window)
            found.tour_asked.connect(self.tour_of)
            found.shortcuts_asked.connect(self.show_shortcuts)
        found.show_topic(topic)
        found.show()
        found.raise_()
        found.activateWindow()

    @Slot()
    def show_shortcuts(self) -> None:
        from mistudio.gui.command_palette import ShortcutSheet

        actions = list(self._window.actions_by_name.values())
        self._show_once(ShortcutSheet, lambda: ShortcutSheet(actions, self._window))

    @Slot()
    def take_tour(self) -> None:
        """Lead through the tab that is shown."""
        self.tour_of(TAB_NAMES[self._window.tabs.currentIndex()])

    @Slot(str)
    def tour_of(self, name: str) -> None:
        """Go to a tab and lead through it; a tour that is under way ends."""
        from mistudio.gui.tour import Tour
        from mistudio.gui.tours import TOURS

        if self._tour is not None:
            self._tour.end()
        self._window.tabs.show_tab(name)
        tab = self._window.tabs.current()
        if tab is None or name not in TOURS:
            return
        self._tour = Tour(name, tab, self._window)
        self._tour.ended.connect(self._on_tour_ended)

    def offer_tour(self) -> None:
        """At the first start in a data folder that holds nothing yet; never again."""
        if not self._window.services.settings.recall(TOUR_OFFERED):
            self._window.query.ask(_is_new, self._on_new)

    @Slot(object)
    def _on_new(self, is_new: bool) -> None:
        self._window.services.settings.remember(TOUR_OFFERED, True)
        if is_new:
            self._window.banners.show_banner(
                "New here? A tour says in five sentences what a tab is for; Help offers it later.",
                action="Take the tour",
                clicked=self.take_tour,
            )

    @Slot(str)
    def _on_tour_ended(self, name: str) -> None:
        self._tour = None
        settings = self._window.services.settings
        seen = settings.recall(TOURS_SEEN, [])
        if name not in seen:
            settings.remember(TOURS_SEEN, [*seen, name])

    @Slot()
    def show_doctor(self) -> None:
        from mistudio.gui.doctor_dialog import DoctorDialog

        DoctorDialog(self._window.services, self._window, self.for_report()).show()

    def for_report(self) -> tuple[Path, str]:
        """The log and the device, as a report takes them."""
        from mistudio.gui.problem_report import device_line

        services = self._window.services
        chosen = services.settings.values.device
        log_file = services.studio.paths.logs / "mistudio.jsonl"
        return log_file, device_line(self._window.monitor.latest, chosen)

    @Slot()
    def copy_report(self) -> None:
        from mistudio.gui.problem_report import report

        QGuiApplication.clipboard().setText(report("", *self.for_report()))
        self._window.services.banner(
            "The report is on the clipboard. It holds no tokens and no private paths; read it "
            "before you send it."
        )

    @Slot()
    def show_about(self) -> None:
        from mistudio.gui.about_dialog import AboutDialog

        dialog = AboutDialog(self._window.services, self._window)
        dialog.report_asked.connect(self.copy_report)
        dialog.show()
