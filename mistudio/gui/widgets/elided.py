"""One-line texts that end in … where the room does: a label, and the combo of every form."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QSize, Qt
from PySide6.QtGui import QHelpEvent, QPaintEvent
from PySide6.QtWidgets import (
    QComboBox,
    QSizePolicy,
    QStyle,
    QStyleOptionComboBox,
    QStylePainter,
    QToolTip,
    QVBoxLayout,
    QWidget,
)

from mistudio.core.units import EM_DASH
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import label


class Elided(QWidget):
    """One line of text that ends in … where the room does; the tooltip has all of it."""

    def __init__(self, role: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text = EM_DASH
        self._line = label("", role)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(self._line)
        self._line.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)

    def text(self) -> str:
        return self._text

    def set_text(self, text: str) -> None:
        """Show another text."""
        self._text = text
        self._elide()

    def resizeEvent(self, event: object) -> None:
        self._elide()

    def _elide(self) -> None:
        metrics = self._line.fontMetrics()
        shown = metrics.elidedText(self._text, Qt.TextElideMode.ElideRight, self.width())
        self._line.setText(shown)
        self.setToolTip(self._text if shown != self._text else "")


class Combo(QComboBox):
    """A combo whose current text is elided, and then told in full by the tooltip."""

    def sizeHint(self) -> QSize:
        """As its longest choice needs, with what rounding takes at other font sizes."""
        return super().sizeHint() + QSize(appearance().px(4), 0)

    def minimumSizeHint(self) -> QSize:
        """Narrower than its longest choice: what does not fit is elided."""
        least = super().minimumSizeHint()
        return QSize(min(least.width(), appearance().px(120)), least.height())

    def paintEvent(self, event: QPaintEvent) -> None:
        option = self._option()
        painter = QStylePainter(self)
        painter.drawComplexControl(QStyle.ComplexControl.CC_ComboBox, option)
        option.currentText = self._shown(option)
        painter.drawControl(QStyle.ControlElement.CE_ComboBoxLabel, option)
        painter.end()

    def shown_text(self) -> str:
        """The current text as far as there is room for it."""
        return self._shown(self._option())

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            text = self.currentText()
            if self.shown_text() != text:
                QToolTip.showText(event.globalPos(), text, self)
                return True
        return super().event(event)

    def _option(self) -> QStyleOptionComboBox:
        option = QStyleOptionComboBox()
        self.initStyleOption(option)
        return option

    def _shown(self, option: QStyleOptionComboBox) -> str:
        room = self.style().subControlRect(
            QStyle.ComplexControl.CC_ComboBox,
            option,
            QStyle.SubControl.SC_ComboBoxEditField,
            self,
        )
        icon = 0 if option.currentIcon.isNull() else option.iconSize.width() + 4
        # the style itself leaves a pixel on either side
        return self.fontMetrics().elidedText(
            self.currentText(), Qt.TextElideMode.ElideRight, room.width() - icon - 2
        )
