"""What is wrong with a window: texts cut off, controls on top of each other, without a name."""

from __future__ import annotations

from itertools import combinations, pairwise

from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractScrollArea,
    QAbstractSpinBox,
    QApplication,
    QComboBox,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QRadioButton,
    QScrollArea,
    QSizePolicy,
    QSlider,
    QTabBar,
    QWidget,
)

CONTROLS = (QAbstractButton, QLabel, QComboBox, QLineEdit, QAbstractSpinBox)
OPERATED = (*CONTROLS, QPlainTextEdit, QSlider, QAbstractItemView)


def cut_off(root: QWidget) -> list[str]:
    """Visible labels and buttons below `root` whose text needs more room than they have.

    Controls that end their text in … by themselves (`Elided`, `Combo`) are right at any width.
    """
    found = []
    for part in root.findChildren(QWidget):
        if not part.isVisible() or not isinstance(part, QLabel | QAbstractButton):
            continue
        if not part.text() or part.text().endswith("…"):
            continue
        if part.sizePolicy().horizontalPolicy() is QSizePolicy.Policy.Ignored and part.toolTip():
            continue  # made to be clipped, such as a chart's legend; its tooltip has all of it
        width, height = part.width(), part.height()
        if isinstance(part, QLabel) and part.wordWrap():
            inside = part.contentsRect().width()
            needed = part.fontMetrics().boundingRect(
                QRect(0, 0, inside, 1_000_000), Qt.TextFlag.TextWordWrap, _plain(part)
            )
            if needed.height() > height + 2 or needed.width() > inside + 2:
                found.append(_told(part, f"needs {needed.height()} px of height, has {height}"))
            continue
        needed_width = part.fontMetrics().horizontalAdvance(_plain(part).splitlines()[0])
        needed_height = part.fontMetrics().height() * len(_plain(part).splitlines())
        if needed_width > width + 2:
            found.append(_told(part, f"needs {needed_width} px, has {width}"))
        elif needed_height > height + 4:
            found.append(_told(part, f"needs {needed_height} px of height, has {height}"))
    return found


def _plain(part: QLabel | QAbstractButton) -> str:
    text = part.text().replace("&&", "\0").replace("&", "").replace("\0", "&")
    if isinstance(part, QLabel) and "<" in text:
        from PySide6.QtGui import QTextDocumentFragment

        text = QTextDocumentFragment.fromHtml(part.text()).toPlainText()
    return text or " "


def squeezed(root: QWidget) -> list[str]:
    """Visible controls below `root` that are lower than they need to be drawn whole."""
    return [
        _told(part, f"is {part.height()} px high, needs {part.minimumSizeHint().height()}")
        for part in root.findChildren(QWidget)
        if isinstance(part, QAbstractButton | QComboBox | QLineEdit | QAbstractSpinBox)
        and part.isVisible()
        and not isinstance(part.parentWidget(), QAbstractSpinBox | QComboBox | QLineEdit)
        and not part.objectName().startswith("qt_")  # Qt's own, such as a menu bar's arrow
        and part.height() < part.minimumSizeHint().height() - 2
    ]


def overlapping(root: QWidget) -> list[str]:
    """Pairs of visible sibling controls below `root` that cover each other."""
    found = []
    for parent in [root, *root.findChildren(QWidget)]:
        if not parent.isVisible() or parent.layout() is None:
            continue
        parts = [
            part
            for part in parent.children()
            if isinstance(part, CONTROLS) and part.isVisible() and not part.isWindow()
        ]
        for one, other in combinations(parts, 2):
            shared = one.geometry().intersected(other.geometry())
            if shared.width() > 2 and shared.height() > 2:
                found.append(f"{_told(one)} over {_told(other)}")
    return found


def outside(root: QWidget) -> list[str]:
    """Visible controls of which a part lies outside `root`, unless a scroll area leads there."""
    found = []
    for part in root.findChildren(QWidget):
        if not isinstance(part, CONTROLS) or not part.isVisible():
            continue
        if part.window() is not root.window():  # of a window of its own
            continue
        above = part.parentWidget()
        while above is not None and above is not root:
            if isinstance(above, QScrollArea | QAbstractScrollArea):
                break
            above = above.parentWidget()
        if above is not root or part.isWindow():
            continue
        corner = part.mapTo(root, QPoint(0, 0))
        if not root.rect().adjusted(-2, -2, 2, 2).contains(QRect(corner, part.size())):
            found.append(_told(part, "lies outside the window"))
    return found


def hidden_sideways(root: QWidget) -> list[str]:
    """Scroll areas of forms (not of tables) below `root` that have to be scrolled sideways."""
    return [
        f"{type(area.widget()).__name__} is {area.widget().width()} px wide in "
        f"{area.viewport().width()}"
        for area in root.findChildren(QScrollArea)
        if area.isVisible()
        and area.widget() is not None
        and area.widget().width() > area.viewport().width() + 2
    ]


def faults(root: QWidget) -> list[str]:
    """All of the above, after pending layouts."""
    QApplication.processEvents()
    return [
        *cut_off(root),
        *squeezed(root),
        *overlapping(root),
        *outside(root),
        *hidden_sideways(root),
        *nameless(root),
    ]


def _told(part: QWidget, what: str = "") -> str:
    text = part.text() if isinstance(part, QLabel | QAbstractButton | QLineEdit) else ""
    name = text or part.accessibleName() or part.objectName()
    return f"{type(part).__name__} {name[:60]!r} {what}".strip()


def nameless(root: QWidget) -> list[str]:
    """Visible controls below `root` that a screen reader could only call by their kind."""
    found = []
    for part in root.findChildren(QWidget):
        inner = isinstance(part.parentWidget(), QAbstractSpinBox | QComboBox | QAbstractItemView)
        known = isinstance(part, OPERATED) and not isinstance(part, QLabel)
        if not known or inner or not part.isVisible() or part.window() is not root.window():
            continue
        if part.objectName().startswith("qt_") or isinstance(part, QTabBar | QHeaderView):
            continue
        text = part.text() if isinstance(part, QAbstractButton) else ""
        if not part.accessibleName() and not text:
            place = part.parentWidget()
            found.append(f"{type(part).__name__} in {type(place).__name__} has no name")
    return found


def tab_faults(root: QWidget) -> list[str]:
    """Controls of the window `root` that Tab does not reach, or reaches out of the order seen.

    Siblings are compared only: from top to bottom, and from left to right within a line.
    """
    wanted = [part for part in root.findChildren(QWidget) if _takes_tab(part, root)]
    if not wanted:
        return []
    if (at := root.focusWidget()) is not None:
        at.clearFocus()
    QTest.keyClick(root, Qt.Key.Key_Tab)  # to where the order begins
    reached: list[QWidget] = []
    while (at := root.focusWidget()) is not None and at not in reached and len(reached) < 400:
        reached.append(at)
        QTest.keyClick(at, Qt.Key.Key_Tab)
    missed = [
        _told(part, "is not reached by Tab")
        for part in wanted
        if part not in reached and not _of_a_group(part, reached)
    ]
    return missed + _disorder(reached)


def _takes_tab(part: QWidget, root: QWidget) -> bool:
    return (
        part.isVisible()
        and part.isEnabled()
        and part.window() is root
        and bool(part.focusPolicy() & Qt.FocusPolicy.TabFocus)
        and part.focusProxy() is None
        and not part.objectName().startswith("qt_")
        and not isinstance(part, QAbstractScrollArea)  # a page that scrolls is no control
    )


def _of_a_group(part: QWidget, reached: list[QWidget]) -> bool:
    """Whether Tab reached another of a group in which the arrow keys choose."""
    if isinstance(part, QRadioButton) and part.autoExclusive():
        return any(isinstance(w, QRadioButton) for w in reached)
    group = part.group() if isinstance(part, QAbstractButton) else None
    return group is not None and group.exclusive() and any(b in reached for b in group.buttons())


def _disorder(reached: list[QWidget]) -> list[str]:
    found = []
    for one, other in pairwise(reached):
        if one.parentWidget() is not other.parentWidget():
            continue
        above = other.geometry().bottom() < one.geometry().top()
        above = above and other.geometry().left() <= one.geometry().right()  # or the next column
        beside = other.geometry().top() <= one.geometry().center().y() <= other.geometry().bottom()
        if above or (beside and other.geometry().right() < one.geometry().left()):
            found.append(f"Tab goes from {_told(one)} back to {_told(other)}")
    return found
