"""Lays out a run of tokens as one text with activation highlights; shared by view and delegate."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from PySide6.QtCore import QLine, QPointF, QRect, QRectF
from PySide6.QtGui import (
    QColor,
    QFont,
    QPainter,
    QPen,
    QTextCharFormat,
    QTextLayout,
    QTextLine,
    QTextOption,
)

from mistudio.gui.theme import Colors

# signs that every common font has; a control character would be an empty box or turn the text
MARKS = {
    **{code: f"⟨{code:02X}⟩" for code in (*range(32), *range(127, 160))},
    **{
        code: f"⟨{code:04X}⟩"
        for code in (0xAD, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    },
    0xFEFF: "⟨FEFF⟩",
    ord("\n"): "↵",
    ord("\t"): "→",
    ord("\r"): "⇤",
}
_BLANK = "\u200b·"  # a line may end before the sign, as it may at a blank
_BEGIN, _END = "\u2068", "\u2069"  # first strong isolate: what is between has its own direction
_RIGHT_TO_LEFT = re.compile(
    "[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]"
)


class TokenPiece(NamedTuple):
    """A slice of the original text with its activation; masked tokens were not measured."""

    text: str
    value: float = 0.0
    masked: bool = False
    note: str = ""
    """what else the tooltip says of it"""


class Highlight(NamedTuple):
    """How activation becomes colour: the fill's alpha at t = 1, from where text is strong."""

    alpha: float
    strong_above: float
    border_above: float
    digits: int


LINEAR, LOGARITHMIC = "linear", "log"  # curves from activation to colour
NOTHING_BELOW = 5e-5  # on the logarithmic curve, which would lift it to a visible share

TABLE = Highlight(0.4, 0.6, 0.7, 3)
DETAIL = Highlight(0.3, 0.5, 2.0, 4)


class TokenLayout:
    """One `QTextLayout` of all pieces, so that shaping and right-to-left text stay correct."""

    def __init__(
        self,
        pieces: Sequence[TokenPiece],
        maximum: float,
        width: float,
        font: QFont,
        colors: Colors,
        style: Highlight,
        *,
        one_line: bool = False,
        line_breaks: bool = True,
        marks: bool = True,
        curve: str = LINEAR,
        peak: int | None = None,
    ) -> None:
        """Lay out to `width` pixels; `maximum` is the activation at which the fill is full.

        one_line: a single line, cut with an ellipsis. line_breaks: break where the text does.
        marks: show newlines, tabs and a leading space of a piece as signs. curve: how activation
        becomes colour. peak: the piece that is outlined.
        """
        self.pieces = pieces
        self.width = width
        self.style = style
        self._shares = [_share(piece, maximum, curve) for piece in pieces]
        self._peak = peak
        shown = _all_shown(pieces, marks=marks, breaks=line_breaks and not one_line)
        whole = "".join(shown)
        narrow = _utf16(whole) == len(whole)  # nearly always: then every piece's is its length
        self._ends = list(accumulate(map(len if narrow else _utf16, shown)))
        self._layout = _text_layout(whole, font, wraps=not one_line)
        self._layout.setFormats(self._formats(colors))
        self._layout.setCacheEnabled(True)
        self._colors = colors
        self.height = _break_lines(self._layout, width)
        self._borders = self._find_borders()

    def _formats(self, colors: Colors) -> list[QTextLayout.FormatRange]:
        table = self.style is TABLE
        plain = colors.chip_text_table if table else colors.chip_text_detail
        formats: list[QTextLayout.FormatRange] = []
        start, before = 0, None
        for piece, share, end in zip(self.pieces, self._shares, self._ends, strict=True):
            if piece.masked:
                look = (colors.muted, share)
            else:
                strong = share > self.style.strong_above
                look = (colors.chip_text_strong if strong else plain, share)
            if look == before:  # most pieces look like the one before
                formats[-1].length = end - formats[-1].start
            else:
                formats.append(self._format(start, end, *look, colors))
            start, before = end, look
        return formats

    def _format(
        self, start: int, end: int, text: str, share: float, colors: Colors
    ) -> QTextLayout.FormatRange:
        made = QTextLayout.FormatRange()
        made.start, made.length = start, end - start
        form = QTextCharFormat()
        form.setForeground(QColor(text))
        if share > 0:
            fill = QColor(colors.highlight)
            fill.setAlphaF(self.style.alpha * share)
            form.setBackground(fill)
        made.format = form  # type: ignore[assignment]
        return made

    def _find_borders(self) -> list[tuple[QRectF, float]]:
        found: list[tuple[QRectF, float]] = []
        start = 0
        for index, (share, end) in enumerate(zip(self._shares, self._ends, strict=True)):
            if share > self.style.border_above or index == self._peak:
                found += [(box, share) for box in self._boxes(start, end - start)]
            start = end
        return found

    def _boxes(self, start: int, length: int) -> list[QRectF]:
        """The rectangles of a character range, one per line it touches."""
        boxes: list[QRectF] = []
        for index in range(self._layout.lineCount()):
            line = self._layout.lineAt(index)
            box = QRectF()
            for run in line.glyphRuns(start, length):
                part = run.boundingRect()
                if not part.isEmpty():  # what turns direction has a place of its own, but no width
                    box = box.united(part)
            if not box.isEmpty():
                boxes.append(QRectF(box.left(), line.y(), box.width(), line.height()))
        return boxes

    def paint(self, painter: QPainter, at: QPointF, clip: QRectF) -> None:
        """Draw with the upper left corner at `at`."""
        self._layout.draw(painter, at, [], clip)
        for box, _ in self._borders:
            line = QColor(self._colors.highlight)
            line.setAlphaF(0.5 if self._peak is None else 0.9)
            painter.setPen(QPen(line, 1))
            _draw_frame(painter, box.translated(at).toRect())

    def piece_at(self, point: QPointF) -> int | None:
        """Index of the piece at a place relative to the layout, None beside the text."""
        for index in range(self._layout.lineCount()):
            line = self._layout.lineAt(index)
            if line.y() <= point.y() < line.y() + line.height():
                if not 0 <= point.x() <= line.naturalTextWidth():
                    return None
                position = line.xToCursor(point.x(), QTextLine.CursorPosition.CursorOnCharacter)
                found = bisect_right(self._ends, position)
                return found if found < len(self.pieces) else None
        return None

    def describe(self, index: int) -> str:
        """What the tooltip says of a piece."""
        piece = self.pieces[index]
        shown = piece.text.translate(MARKS)
        if piece.masked:
            return f"{shown}: left out (special or masked token)"
        value = f"{shown}: {piece.value:.{self.style.digits}f}"
        return f"{value}\n{piece.note}" if piece.note else value

    def natural_width(self) -> float:
        """Width of the widest line in pixels."""
        lines = range(self._layout.lineCount())
        return max((self._layout.lineAt(i).naturalTextWidth() for i in lines), default=0.0)


def _draw_frame(painter: QPainter, box: QRect) -> None:
    """A rounded rectangle one pixel wide, without a filling.

    Its straight parts and the pixels of its corners: `drawRoundedRect` strokes a path for it, which
    takes half a millisecond, and a page of examples shows a dozen.
    """
    left, top = box.left(), box.top()
    right, bottom = left + box.width(), top + box.height()
    painter.drawLines(
        [
            QLine(left + 2, top, right - 2, top),
            QLine(left + 2, bottom, right - 2, bottom),
            QLine(left, top + 2, left, bottom - 2),
            QLine(right, top + 2, right, bottom - 2),
        ]
    )
    for x in (left + 1, right - 1):
        for y in (top + 1, bottom - 1):
            painter.drawPoint(x, y)


class TokenMeasure:
    """How high a `TokenLayout` of the same pieces would be, without colours: what layouts ask."""

    def __init__(
        self,
        pieces: Sequence[TokenPiece],
        font: QFont,
        *,
        line_breaks: bool = True,
        marks: bool = True,
    ) -> None:
        text = "".join(_all_shown(pieces, marks=marks, breaks=line_breaks))
        self._layout = _text_layout(text, font, wraps=True)
        self._heights: dict[int, float] = {}

    def height(self, width: int) -> float:
        """The height in pixels at a width."""
        found = self._heights.get(width)
        if found is None:
            found = self._heights[width] = _break_lines(self._layout, width)
        return found


def _text_layout(text: str, font: QFont, *, wraps: bool) -> QTextLayout:
    made = QTextLayout(text, font)
    option = QTextOption()
    wrap = QTextOption.WrapMode
    option.setWrapMode(wrap.WrapAtWordBoundaryOrAnywhere if wraps else wrap.NoWrap)
    made.setTextOption(option)
    return made


def _break_lines(layout: QTextLayout, width: float) -> float:
    layout.beginLayout()
    height = 0.0
    while (line := layout.createLine()).isValid():
        line.setLineWidth(width)
        line.setPosition(QPointF(0, height))
        height += line.height() + 2
    layout.endLayout()
    return height


def _share(piece: TokenPiece, maximum: float, curve: str = LINEAR) -> float:
    if piece.masked or maximum <= 0:
        return 0.0
    t = min(1.0, max(0.0, piece.value / maximum))
    if curve == LINEAR:
        return t
    return 0.0 if piece.value <= NOTHING_BELOW else 0.05 + 0.95 * math.log10(1 + 9 * t)


def _all_shown(pieces: Sequence[TokenPiece], *, marks: bool, breaks: bool) -> list[str]:
    """What is drawn of each piece.

    Each line of a text that is partly written from right to left keeps a direction of its own, as
    in an editor: drawn as one paragraph, one line would order the words of all others.
    """
    whole = "".join(piece.text for piece in pieces)
    turns = not whole.isascii() and _RIGHT_TO_LEFT.search(whole) is not None
    turn = _END + _BEGIN if turns else ""
    shown = [
        (_BLANK + text[1:] if text[:1] == " " else text)  # most pieces need no more
        if marks and text.isprintable()
        else _shown(text, marks=marks, breaks=breaks, turn=turn)
        for text in (piece.text for piece in pieces)
    ]
    if turns:
        shown[0] = _BEGIN + shown[0]
        shown[-1] += _END
    return shown


def _shown(text: str, *, marks: bool, breaks: bool, turn: str = "") -> str:
    """`turn` stands behind each line end."""
    if not marks:
        if breaks and not turn:
            return text
        return (("\n" if breaks else " ") + turn).join(text.replace("\r\n", "\n").split("\n"))
    end = "↵\u2028" if breaks else "↵"
    shown = (end + turn).join(line.translate(MARKS) for line in text.split("\n"))
    return _BLANK + shown[1:] if text.startswith(" ") else shown


def _utf16(text: str) -> int:
    """Length in the units that Qt counts."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def plain_text(pieces: Sequence[TokenPiece]) -> str:
    """The original text."""
    return "".join(piece.text for piece in pieces)


def with_values(pieces: Sequence[TokenPiece]) -> str:
    """One line per piece, text and value separated by a tab, for a spreadsheet."""
    return "\n".join(
        f"{piece.text.translate(MARKS)}\t{'' if piece.masked else repr(piece.value)}"
        for piece in pieces
    )
