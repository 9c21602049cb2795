"""The checks of `mistudio selftest` that draw: a plot and the whole window, by their pixels."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import Damaged, Unsupported
from mistudio.system import display

if TYPE_CHECKING:
    from PySide6.QtGui import QImage
    from PySide6.QtWidgets import QApplication

LEAST_COLOURS = 16  # a window with text and icons has hundreds, a blank one has one
END_S = 20.0


def plot() -> str:
    """A curve leaves pixels of its colour in a plot."""
    application = _application()
    import pyqtgraph
    from PySide6.QtGui import QColor

    curve = QColor(255, 0, 0)
    widget = pyqtgraph.PlotWidget(background="k")
    widget.resize(320, 200)
    widget.plot([0, 1, 2, 3], [0, 3, 1, 2], pen=pyqtgraph.mkPen(curve, width=3))
    widget.show()
    application.processEvents()
    image = widget.grab().toImage()
    widget.close()
    widget.deleteLater()
    application.processEvents()
    red = sum(
        image.pixelColor(x, y) == curve for x in range(image.width()) for y in range(image.height())
    )
    if red < 100:
        raise Damaged("A curve that was plotted is not to be seen.")
    return f"pyqtgraph {pyqtgraph.__version__}, {red:,} pixels of a curve"


def window() -> str:
    """The whole window on an empty data folder, each tab visited; its picture is not blank."""
    application = _application()
    from PySide6.QtCore import QEventLoop, QTimer, qVersion

    from mistudio.core.paths import Paths
    from mistudio.core.settings import SettingsFile
    from mistudio.gui import icons, style
    from mistudio.gui.actions import TAB_NAMES
    from mistudio.gui.main_window import MainWindow
    from mistudio.jobs.runner import Studio

    colours: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Paths.at(Path(folder)))
        try:
            settings = SettingsFile(studio.paths.settings)
            style.apply(application, settings.values.theme, settings.values.font_px)
            made = MainWindow(studio, settings)
            made.show()
            made.start()
            missing = ""
            for name in TAB_NAMES:
                made.tabs.show_tab(name)
                application.processEvents()
                if made.tabs.tab(name) is None:
                    missing = missing or name
                colours[name] = _colours(made.grab().toImage())
            loop = QEventLoop()
            made.ended.connect(loop.quit)
            QTimer.singleShot(round(1000 * END_S), loop.quit)
            QTimer.singleShot(0, made.end_without_asking)
            loop.exec()
            made.deleteLater()
            application.processEvents()
        finally:
            studio.close()
            icons.clear_cache()
    if missing:  # told when the window has ended, and its threads with it
        raise Damaged(f"The tab {missing} is not part of this installation.")
    poorest = min(colours, key=lambda name: colours[name])
    if colours[poorest] < LEAST_COLOURS:
        raise Damaged(f"The tab {poorest} is blank: {colours[poorest]} colours in its picture.")
    return (
        f"Qt {qVersion()} on {application.platformName()}, {len(colours)} tabs, "
        f"{colours[poorest]:,} colours and more"
    )


def _application() -> QApplication:
    """The application, on the screen if there is one that can be used, else off screen."""
    if not os.environ.get("QT_QPA_PLATFORM") and display.obstacle():
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    sentence = display.obstacle()
    if sentence:
        raise Unsupported(sentence)
    from PySide6.QtWidgets import QApplication

    found = QApplication.instance() or QApplication([*sys.argv[:1]])
    assert isinstance(found, QApplication)
    return found


def _colours(image: QImage) -> int:
    """Number of different colours at every third pixel of every third line."""
    return len(
        {image.pixel(x, y) for x in range(0, image.width(), 3) for y in range(0, image.height(), 3)}
    )
