"""Curves as files: PNG, SVG, and CSV with the stored numbers."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path

from PySide6.QtCore import QPoint, QRect, QSize, Slot
from PySide6.QtGui import QPainter
from PySide6.QtSvg import QSvgGenerator
from PySide6.QtWidgets import QFileDialog, QMenu, QPushButton, QWidget

from mistudio.core.atomic import atomic_file
from mistudio.core.errors import StudioError, from_os_error
from mistudio.gui.services import Services
from mistudio.gui.widgets.cards import button
from mistudio.jobs.metric_files import file_name, write_csv

FORMATS = {"png": "Picture (PNG)", "svg": "Drawing (SVG)", "csv": "Stored numbers (CSV)"}


class ChartExport(QWidget):
    """A button with a menu; `drawn` is what a picture shows, `runs` whose numbers are written."""

    def __init__(
        self,
        services: Services,
        name: Callable[[], str],
        drawn: QWidget,
        runs: Callable[[], Sequence[str]],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self.hide()
        self._services, self._name, self._drawn, self._runs = services, name, drawn, runs
        self.button: QPushButton = button(
            "Export", icon="download", tip="Write the charts or their numbers to a file"
        )
        self.menu = QMenu(self.button)
        self.actions_by_ending = {
            ending: self.menu.addAction(text) for ending, text in FORMATS.items()
        }
        for ending, action in self.actions_by_ending.items():
            action.triggered.connect(lambda *_, chosen=ending: self.ask(chosen))
        self.button.setMenu(self.menu)

    def ask(self, ending: str) -> None:
        """Let the user choose the file, then write it."""
        proposed = file_name(self._name(), "curves", ending)
        filters = f"{FORMATS[ending]} (*.{ending})"
        chosen, _ = QFileDialog.getSaveFileName(
            self._drawn, f"Export as {ending.upper()}", proposed, filters
        )
        if chosen:
            path = Path(chosen)
            self.write(path if path.suffix else path.with_suffix(f".{ending}"), ending)

    def write(self, path: Path, ending: str) -> None:
        """Write a file; what goes wrong is a banner."""
        if ending == "csv":
            studio, runs = self._services.studio, list(self._runs())
            self._services.query.ask(
                lambda _: f"{write_csv(studio, runs, path):,} rows are in {path.name}.",
                self._on_written,
                on_error=self._on_error,
            )
            return
        try:
            save_picture(self._drawn, path, ending)
        except StudioError as error:
            self._on_error(error.sentence, error.details)
        else:
            self._on_written(f"{path.name} is written.")

    @Slot(object)
    def _on_written(self, sentence: str) -> None:
        self._services.banner(sentence)

    def _on_error(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="error", details=details)


def save_picture(drawn: QWidget, path: Path, ending: str) -> None:
    """Write a widget as it is shown, as PNG or SVG; raises what the disk says."""
    try:
        with atomic_file(path) as temporary:
            _draw(drawn, temporary, ending)
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error


def _draw(drawn: QWidget, path: Path, ending: str) -> None:
    fine = drawn.grab().save(str(path), "PNG") if ending == "png" else _draw_svg(drawn, path)
    if not fine or path.stat().st_size == 0:
        raise OSError(errno.EIO, "the picture could not be written")


def _draw_svg(drawn: QWidget, path: Path) -> bool:
    generator = QSvgGenerator()
    generator.setFileName(str(path))
    generator.setSize(QSize(drawn.width(), drawn.height()))
    generator.setViewBox(QRect(0, 0, drawn.width(), drawn.height()))
    generator.setTitle("miStudio")
    painter = QPainter(generator)
    try:
        drawn.render(painter, QPoint(0, 0))
    finally:
        fine = painter.end()
    return fine
