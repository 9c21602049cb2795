"""The one table of actions: it feeds the menu, the shortcuts, the tooltips and the palette."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from PySide6.QtCore import QObject, Qt
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
    also: str = ""  # a second key that does the same
    everywhere: bool = False  # the key works in dialogs too


TAB_NAMES = ("Datasets", "Models", "Training", "Features", "Steering")
TAB_ICONS = ("database", "chip", "curve", "features", "sliders")
TAB_TIPS = {
    "Datasets": "Text: get it, look through it, tokenise it for a model",
    "Models": "Language models: get one, look inside, store its activations",
    "Training": "Sparse autoencoders: train them, follow their curves, keep them in a library",
    "Features": "What each latent of an SAE fires on: search, examples, labels, effects",
    "Steering": "Change what a model writes by adding features or vectors to its stream",
}

ACTIONS = (
    ActionSpec("import_dataset", "File", "Import text…", "", "file", "Import a text file"),
    ActionSpec(
        "import_model", "File", "Import model…", "", "chip", "Import a model folder or GGUF"
    ),
    ActionSpec(
        "open_data_folder",
        "File",
        "Show data folder",
        "",
        "folder",
        "Open the folder that holds everything miStudio keeps",
    ),
    ActionSpec("show_storage", "File", "Storage…", "", "database", "What takes room on the disk"),
    ActionSpec(
        "show_settings", "File", "Settings…", "Ctrl+,", "gear", "Look, device, Hub, questions asked"
    ),
    ActionSpec("close", "File", "Quit", "Ctrl+Q", "close", "Close the window; a running job ends"),
    ActionSpec(
        "find_in_tab", "Edit", "Find", "Ctrl+F", "search", "Go to the search field of the tab"
    ),
    *(
        ActionSpec(f"tab_{name.lower()}", "View", name, f"Ctrl+{number}", icon, tip=TAB_TIPS[name])
        for number, (name, icon) in enumerate(zip(TAB_NAMES, TAB_ICONS, strict=True), start=1)
    ),
    ActionSpec("toggle_jobs", "View", "Jobs", "Ctrl+J", "list", "Show or hide the jobs"),
    ActionSpec(
        "show_system", "View", "System", "Ctrl+Shift+M", "chip", "This machine, one hour back"
    ),
    ActionSpec(
        "show_palette",
        "View",
        "Command palette",
        "Ctrl+K",
        "command",
        "Find an action of the menus by a few of its letters",
    ),
    ActionSpec(
        "toggle_theme", "View", "Light or dark", "Ctrl+Shift+L", "sun", "The other of the palettes"
    ),
    ActionSpec("run_primary", "Run", "Run", "Ctrl+Return", "play", "The tab's main action"),
    ActionSpec(
        "pause_resume",
        "Run",
        "Pause or resume",
        "Ctrl+.",
        "pause",
        "Pause what the tab runs, or let it go on",
    ),
    ActionSpec("run_sample", "Run", "Run the sample", "", "bolt", "The whole path in two minutes"),
    ActionSpec("unload_model", "Run", "Unload model", "", "unload", "Free the model's memory"),
    ActionSpec(
        "show_help",
        "Help",
        "Help",
        "F1",
        "help",
        "What every setting and action is for; opens at what has the focus",
        everywhere=True,
    ),
    ActionSpec(
        "show_shortcuts",
        "Help",
        "Shortcuts",
        "Ctrl+?",
        "command",
        "Every key at a glance",
        also="?",
        everywhere=True,
    ),
    ActionSpec("take_tour", "Help", "Take the tour", "", "eye", "The tab shown, in five sentences"),
    ActionSpec("show_doctor", "Help", "Doctor", "", "check_circle", "Check this machine"),
    ActionSpec(
        "copy_report",
        "Help",
        "Copy report",
        "",
        "copy",
        "Versions, device and last errors, without tokens and private paths",
    ),
    ActionSpec("show_about", "Help", "About miStudio", "", "info", "Version, licence, folders"),
)


def make_actions(owner: QObject, find: Callable[[str], Callable[[], object]]) -> dict[str, QAction]:
    """One `QAction` per entry, whose work is `find(name)`; tooltips name the shortcut."""
    made: dict[str, QAction] = {}
    for spec in ACTIONS:
        action = QAction(spec.text, owner)
        action.setObjectName(spec.name)
        action.setShortcuts([QKeySequence(key) for key in (spec.shortcut, spec.also) if key])
        if spec.everywhere:
            action.setShortcutContext(Qt.ShortcutContext.ApplicationShortcut)
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
