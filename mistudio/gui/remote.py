"""The profile of a remote display: nothing moves, and the window is repainted twice a second."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, QEvent, QObject, Qt, QTimer, Slot
from PySide6.QtGui import QWindow
from PySide6.QtWidgets import QApplication, QWidget
from shiboken6 import isValid

BEAT_MS = 500
HAND_MS = 1000  # after the last key or movement everything is shown at once
INPUT = frozenset(
    {
        QEvent.Type.KeyPress,
        QEvent.Type.KeyRelease,
        QEvent.Type.MouseButtonPress,
        QEvent.Type.MouseButtonRelease,
        QEvent.Type.MouseMove,
        QEvent.Type.Wheel,
        QEvent.Type.Resize,
    }
)
_EFFECTS = (
    Qt.UIEffect.UI_AnimateMenu,
    Qt.UIEffect.UI_FadeMenu,
    Qt.UIEffect.UI_AnimateCombo,
    Qt.UIEffect.UI_AnimateTooltip,
    Qt.UIEffect.UI_FadeTooltip,
    Qt.UIEffect.UI_AnimateToolBox,
)
_flash_ms = -1  # the desktop's own, kept to be given back


def still_desktop(app: QApplication, on: bool) -> None:
    """Stop what moves by itself, a blinking cursor among it, or let it move again."""
    global _flash_ms
    if _flash_ms < 0:
        _flash_ms = app.cursorFlashTime()
    app.setCursorFlashTime(0 if on else _flash_ms)
    for effect in _EFFECTS:
        app.setEffectEnabled(effect, False)  # the program's own style has none of them


class Pacer(QObject):
    """Gathers a window's repaints: while nobody types or moves the mouse, one every half second.

    Qt asks for a repaint once and then waits for it, however much changes meanwhile; here that one
    request is held back until its time has come.
    """

    def __init__(self, window: QWidget) -> None:
        super().__init__(window)
        self._window = window
        self._handle: QWindow | None = None
        self._on = False
        self._beat = QTimer(self)
        self._beat.setSingleShot(True)
        self._beat.setInterval(BEAT_MS)
        self._beat.timeout.connect(self._on_beat)
        self._hand = QTimer(self)
        self._hand.setSingleShot(True)
        self._hand.setInterval(HAND_MS)
        self._held = False
        window.installEventFilter(self)

    def set_on(self, on: bool) -> None:
        """Begin or end to hold repaints back."""
        self._on = on
        if not on:
            self._beat.stop()
            self._release()

    def stop(self) -> None:
        """End the timers, before the window goes."""
        self._on = False
        self._beat.stop()
        self._hand.stop()
        self._window.removeEventFilter(self)
        if self._handle is not None and isValid(self._handle):
            self._handle.removeEventFilter(self)

    def is_holding(self) -> bool:
        """Whether a repaint waits for the beat."""
        return self._held

    def stir(self) -> None:
        """The user does something: for a second everything is shown at once."""
        if self._on:
            self._hand.start()
            self._release()

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        kind = event.type()
        if watched is self._window:
            if kind == QEvent.Type.Show:
                self._watch_input()
            return kind == QEvent.Type.UpdateRequest and self._holds()
        if kind in INPUT:
            self.stir()
        return False

    def _watch_input(self) -> None:
        handle = self._window.windowHandle()
        if handle is not None and handle is not self._handle:
            self._handle = handle
            handle.installEventFilter(self)

    def _holds(self) -> bool:
        """Whether the repaint that is due now waits for the beat."""
        if not self._on or self._hand.isActive():
            return False
        if self._beat.isActive():
            self._held = True
            return True
        self._beat.start()
        return False

    @Slot()
    def _on_beat(self) -> None:
        self._release()

    def _release(self) -> None:
        if self._held:
            self._held = False
            QCoreApplication.postEvent(self._window, QEvent(QEvent.Type.UpdateRequest))
