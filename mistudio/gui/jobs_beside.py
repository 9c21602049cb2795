"""The jobs beside the tabs where both have room, else alone in the window."""

from __future__ import annotations

from PySide6.QtCore import QObject, Slot
from PySide6.QtWidgets import QDockWidget, QMainWindow, QWidget

from mistudio.gui.theme import appearance

LEAST_BESIDE = 830  # px at the usual size of text, of a tab beside the jobs


class JobsBeside(QObject):
    """Hides what is in the middle of the window while the jobs are shown and it would be cut off.

    The window tells of its size by `make_room`.
    """

    def __init__(self, window: QMainWindow, central: QWidget, panel: QDockWidget) -> None:
        super().__init__(window)
        self._window, self._central, self._panel = window, central, panel
        panel.visibilityChanged.connect(self.make_room)
        panel.topLevelChanged.connect(self.make_room)

    @Slot()
    def make_room(self) -> None:
        """Show the middle, or leave the jobs the whole window."""
        panel = self._panel
        beside = self._window.width() - panel.minimumSizeHint().width()
        alone = not panel.isHidden() and not panel.isFloating()
        alone = alone and beside < appearance().px(LEAST_BESIDE)
        if alone == self._central.isVisibleTo(self._window):
            self._central.setVisible(not alone)

    def give_way(self) -> None:
        """Take the jobs away if they have the whole window: a tab is wanted."""
        if self._window.isVisible() and self._central.isHidden():
            self._panel.hide()
