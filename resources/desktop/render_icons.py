"""Draws the program's icon in the sizes that desktops ask for, from the scalable one.

Run by hand after a change of the drawing: python resources/desktop/render_icons.py
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QGuiApplication, QImage, QPainter
from PySide6.QtSvg import QSvgRenderer

SIZES = (16, 22, 24, 32, 48, 64, 128, 256, 512)
THEME = Path(__file__).resolve().parent / "icons" / "hicolor"
DRAWING = THEME / "scalable" / "apps" / "mistudio.svg"


def drawn(side: int) -> QImage:
    """The icon, `side` pixels square."""
    image = QImage(side, side, QImage.Format.Format_ARGB32_Premultiplied)
    image.fill(Qt.GlobalColor.transparent)
    painter = QPainter(image)
    QSvgRenderer(str(DRAWING)).render(painter, QRectF(0, 0, side, side))
    painter.end()
    return image.convertToFormat(QImage.Format.Format_ARGB32)


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    application = QGuiApplication(sys.argv)
    for size in SIZES:
        target = THEME / f"{size}x{size}" / "apps" / "mistudio.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        drawn(size).save(str(target))
