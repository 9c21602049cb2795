"""The header: brand, the strip of machine readings with its freshness dot, the theme button."""

from __future__ import annotations

import time

from PySide6.QtCore import QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QResizeEvent
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from mistudio.core.units import EM_DASH, format_bytes
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import IconLabel, button, label, set_icon
from mistudio.system.monitor import Sample

FRESH_S, STALE_S = 5.0, 15.0


class FreshnessDot(QWidget):
    """Green under 5 s, yellow under 15 s, else red; the tooltip says it in words."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._color = "red"
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        self.set_age(None)

    def color(self) -> str:
        """The role of the dot's colour: emerald, yellow or red."""
        return self._color

    def set_age(self, seconds: float | None) -> None:
        """Show how old the newest reading is; None if there is none."""
        before = self._color
        if seconds is None or seconds >= STALE_S:
            self._color, word = "red", "out of date"
        elif seconds >= FRESH_S:
            self._color, word = "yellow", "late"
        else:
            self._color, word = "emerald", "fresh"
        age = "none yet" if seconds is None else f"{seconds:.0f} s old"
        self.setToolTip(f"Readings are {word} ({age})")
        self.setAccessibleName(f"Readings {word}")
        if self._color != before:
            self.update()

    def sizeHint(self) -> QSize:
        side = appearance().px(10)
        return QSize(side, side)

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(QColor(appearance().colors.role(self._color)))
        painter.drawEllipse(QRectF(self.rect()))
        painter.end()


class SystemStrip(QFrame):
    """CPU, RAM, GPU, VRAM and temperature in one bordered line; a click opens the details."""

    clicked = Signal()

    READINGS = (
        ("CPU", "purple"),
        ("RAM", "cyan"),
        ("GPU", "emerald"),
        ("VRAM", "blue"),
        ("Temp", "green"),
    )

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("strip")
        self.setCursor(Qt.CursorShape.PointingHandCursor)
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setAccessibleName("System")
        self.setToolTip("This machine, one hour back (Ctrl+Shift+M)")
        px = appearance().px
        box = QHBoxLayout(self)
        box.setContentsMargins(px(12), px(4), px(12), px(4))
        box.setSpacing(px(6))
        self.values = {}
        self.captions = {}
        for name, _ in self.READINGS:
            value = label(EM_DASH, "mono")
            value.setMinimumWidth(value.fontMetrics().horizontalAdvance("100 %"))
            self.captions[name] = label(name, "small")
            box.addWidget(self.captions[name])
            box.addWidget(value)
            box.addSpacing(px(4))
            self.values[name] = value
        self.dot = FreshnessDot()
        box.addWidget(self.dot)

    def show_sample(self, sample: Sample | None, now: float | None = None) -> None:
        """Show the newest reading; the unknown stays an em-dash."""
        moment = time.monotonic() if now is None else now
        self.dot.set_age(None if sample is None else moment - sample.at)
        if sample is None:
            return
        gpu = sample.gpu
        heat = sample.temperature_c
        self._set("CPU", f"{sample.cpu_percent:.0f} %")
        used = f"{format_bytes(sample.memory_used)} of {format_bytes(sample.memory_total)}"
        self._set("RAM", f"{100 * sample.memory_used / sample.memory_total:.0f} %", used)
        load = gpu.load_percent if gpu else None
        self._set(
            "GPU", EM_DASH if load is None else f"{load:.0f} %", gpu.name if gpu else "No GPU"
        )
        self._set("VRAM", *_video_memory(sample))
        self._set("Temp", EM_DASH if heat is None else f"{heat:.0f} °C")

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton and self.rect().contains(
            event.position().toPoint()
        ):
            self.clicked.emit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter, Qt.Key.Key_Space):
            self.clicked.emit()
        else:
            super().keyPressEvent(event)

    def show_only(self, count: int) -> None:
        """Show the first readings and leave the others out."""
        for position, (name, _) in enumerate(self.READINGS):
            self.captions[name].setVisible(position < count)
            self.values[name].setVisible(position < count)

    def _set(self, name: str, text: str, tip: str = "") -> None:
        self.values[name].setText(text)
        self.values[name].setToolTip(tip)


def _video_memory(sample: Sample) -> tuple[str, str]:
    gpu = sample.gpu
    if gpu is not None and gpu.shared_memory:
        return "shared", "The GPU uses the machine's memory"
    if gpu is None or gpu.memory_used is None or not gpu.memory_total:
        return EM_DASH, ""
    share = 100 * gpu.memory_used / gpu.memory_total
    return f"{share:.0f} %", f"{format_bytes(gpu.memory_used)} of {format_bytes(gpu.memory_total)}"


class Header(QFrame):
    """The top line of the window."""

    theme_clicked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("header")
        px = appearance().px
        box = QHBoxLayout(self)
        box.setContentsMargins(px(24), px(6), px(24), px(6))
        box.setSpacing(px(12))
        box.addWidget(IconLabel("brand", "emerald", 32))
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(label("miStudio", "card"))
        self.subtitle = label("Mechanistic interpretability on your own machine", "small")
        names.addWidget(self.subtitle)
        box.addLayout(names)
        box.addStretch(1)
        self.strip = SystemStrip()
        box.addWidget(self.strip)
        self.theme_button = button("", variant="ghost", icon="sun")
        self.theme_button.clicked.connect(self.theme_clicked)
        self.theme_button.setToolTip("Light or dark (Ctrl+Shift+L)")
        self.theme_button.setAccessibleName("Light or dark")
        box.addWidget(self.theme_button)
        appearance().changed.connect(self._redraw)
        self._redraw()

    def minimumSizeHint(self) -> QSize:
        return QSize(appearance().px(360), super().minimumSizeHint().height())

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Give up the subtitle, then the readings that the status bar shows too."""
        super().resizeEvent(event)
        px = appearance().px
        self.subtitle.setVisible(self.width() >= px(960))
        self.strip.show_only(5 if self.width() >= px(780) else 2)

    def _redraw(self) -> None:
        set_icon(self.theme_button, "sun" if appearance().colors.name == "dark" else "moon")
