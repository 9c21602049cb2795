"""The one table of actions: it feeds the menu, the shortcuts, the tooltips and the palette."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence

from mistudio.gui import icons


class ActionSpec(NamedTuple):
    """An action: `name` is its key in code and the name of the window's method that does it."""

    name: str
    menu: str
    text: str
    shortcut: str = ""
    icon: str = ""
    tip: str = ""


TAB_NAMES = ("Datasets", "Models", "Training", "Features", "Steering")
TAB_ICONS = ("database", "chip", "curve", "features", "sliders")

ACTIONS = (
    ActionSpec("import_dataset", "File", "Import text…", "", "file", "Import a text file"),
    ActionSpec(
        "import_model", "File", "Import model…", "", "chip", "Import a model folder or GGUF"
    ),
    ActionSpec("open_data_folder", "File", "Show data folder", "", "folder"),
    ActionSpec("show_storage", "File", "Storage…", "", "database", "What takes room on the disk"),
    ActionSpec("show_settings", "File", "Settings…", "Ctrl+,", "gear"),
    ActionSpec("close", "File", "Quit", "Ctrl+Q", "close"),
    ActionSpec(
        "find_in_tab", "Edit", "Find", "Ctrl+F", "search", "Go to the search field of the tab"
    ),
    *(
        ActionSpec(f"tab_{name.lower()}", "View", name, f"Ctrl+{number}", icon)
        for number, (name, icon) in enumerate(zip(TAB_NAMES, TAB_ICONS, strict=True), start=1)
    ),
    ActionSpec("toggle_jobs", "View", "Jobs", "Ctrl+J", "list", "Show or hide the jobs"),
    ActionSpec(
        "show_system", "View", "System", "Ctrl+Shift+M", "chip", "This machine, one hour back"
    ),
    ActionSpec("show_palette", "View", "Command palette", "Ctrl+K", "command"),
    ActionSpec("toggle_theme", "View", "Light or dark", "Ctrl+Shift+L", "sun"),
    ActionSpec("run_primary", "Run", "Run", "Ctrl+Return", "play", "The tab's main action"),
    ActionSpec("pause_resume", "Run", "Pause or resume", "Ctrl+.", "pause"),
    ActionSpec("run_sample", "Run", "Run the sample", "", "bolt", "The whole path in two minutes"),
    ActionSpec(
        "remove_sample",
        "Run",
        "Remove the sample…",
        "",
        "trash",
        "Delete the bundled model and text with all that was made with them",
    ),
    ActionSpec("unload_model", "Run", "Unload model", "", "unload", "Free the model's memory"),
    ActionSpec("show_shortcuts", "Help", "Shortcuts", "F1", "help"),
    ActionSpec("show_doctor", "Help", "Doctor", "", "check_circle", "Check this machine"),
    ActionSpec("copy_report", "Help", "Copy report", "", "copy", "Versions and the end of the log"),
    ActionSpec("show_about", "Help", "About miStudio", "", "info"),
)


def make_actions(owner: QObject, find: Callable[[str], Callable[[], object]]) -> dict[str, QAction]:
    """One `QAction` per entry, whose work is `find(name)`; tooltips name the shortcut."""
    made: dict[str, QAction] = {}
    for spec in ACTIONS:
        action = QAction(spec.text, owner)
        action.setObjectName(spec.name)
        if spec.shortcut:
            action.setShortcut(QKeySequence(spec.shortcut))
        tip = spec.tip or spec.text.rstrip("…")
        action.setToolTip(f"{tip} ({spec.shortcut})" if spec.shortcut else tip)
        action.setStatusTip("")
        action.triggered.connect(find(spec.name))
        made[spec.name] = action
    return made


def redraw_icons(actions: dict[str, QAction]) -> None:
    """Draw every action's icon in the palette in force."""
    for spec in ACTIONS:
        if spec.icon:
            actions[spec.name].setIcon(icons.icon(spec.icon))


def menus() -> Iterable[str]:
    """The menu titles, in order."""
    return dict.fromkeys(spec.menu for spec in ACTIONS)
