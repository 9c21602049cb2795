"""Pieces of the HTML report: text that comes back unchanged, highlighted tokens, SVG bars."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mistudio.ml.features.examples import Example, ExamplePiece

QUIET = 5e-5  # activations up to this are not highlighted
PLOT_WIDTH, PLOT_HEIGHT = 300, 72

# What HTML would read as markup or change while parsing. A NUL cannot stand in HTML at all, so its
# picture does.
_ESCAPES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "'": "&#39;",
    "\r": "&#13;",
    "\0": "␀",
}
_SPECIAL = re.compile("[&<>\"'\r\0]")
_MARKED = re.compile("[\n\t\r]")


def escape(text: Any) -> str:
    """Text as HTML, in an element or an attribute in double quotes."""
    return _SPECIAL.sub(lambda found: _ESCAPES[found[0]], str(text))


def source_text(text: str) -> str:
    """Text of the corpus: line breaks and tabs are wrapped, so that style can make them seen."""
    parts: list[str] = []
    at = 0
    for found in _MARKED.finditer(text):
        parts.append(escape(text[at : found.start()]))
        tag = "u" if found[0] == "\t" else "s"
        parts.append(f"<{tag}>{escape(found[0])}</{tag}>")
        at = found.end()
    parts.append(escape(text[at:]))
    return "".join(parts)


def example_html(example: Example, maximum: float) -> str:
    """The window of an example; `maximum` is the activation at which the highlight is full.

    A highlighted piece carries its share of the maximum, linear (--t) and by the logarithm
    (--g: 0.05 + 0.95 log10(1 + 9 a / m), from 0.05 on), and its value in the tooltip.
    """
    out: list[str] = []
    plain: list[str] = []

    def flush() -> None:
        if plain:
            out.append(source_text("".join(plain)))
            plain.clear()

    for piece in example.pieces:
        if piece.text and (piece.peak or not piece.kept or piece.value > QUIET):
            flush()
            out.append(_piece(piece, maximum))
        else:
            plain.append(piece.text)
    flush()
    return "".join(out)


def _piece(piece: ExamplePiece, maximum: float) -> str:
    text = source_text(piece.text)
    if not piece.kept and not piece.peak:
        return f"<i>{text}</i>"
    if piece.value <= QUIET or maximum <= 0:
        return f'<b class="p">{text}</b>' if piece.peak else text
    t = min(piece.value / maximum, 1.0)
    g = 0.05 + 0.95 * math.log10(1 + 9 * t)
    peak = ' class="p"' if piece.peak else ""
    shown = f"{piece.value:.4f}"
    return f'<b{peak} style="--t:{t:.2f};--g:{g:.2f}" title="{shown}">{text}</b>'


def bars_svg(
    title: str, edges: Sequence[float], counts: Sequence[int], *, split_at: float | None = None
) -> str:
    """A histogram as one figure: bars, the ends of its axis, and its numbers for a table.

    With `split_at`, bars whose middle lies below it have a colour of their own.
    """
    if not len(counts):
        return ""
    edges = [float(edge) for edge in edges]
    most = max(counts) or 1
    step = PLOT_WIDTH / len(counts)
    sides: dict[bool, list[str]] = {False: [], True: []}
    for place, count in enumerate(counts):
        if not count:
            continue
        height = max(PLOT_HEIGHT * count / most, 1.0)
        middle = (edges[place] + edges[place + 1]) / 2
        below = split_at is not None and middle < split_at
        sides[below].append(
            f"M{_short(place * step)} {PLOT_HEIGHT}v-{_short(height)}h{_short(step - 1)}"
            f"v{_short(height)}z"
        )
    paths = "".join(
        f'<path class="{"n" if below else "q"}" d="{"".join(side)}"/>'
        for below, side in sides.items()
        if side
    )
    low, high = _number(edges[0]), _number(edges[-1])
    data = ",".join(str(count) for count in counts)
    return (
        f'<figure data-lo="{edges[0]!r}" data-hi="{edges[-1]!r}" data-n="{data}">'
        f"<figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(title)}, {low} to {high}, largest bar {most:,}">{paths}</svg>'
        f'<div class="axis"><span>{low}</span><span>largest bar {most:,}</span>'
        f"<span>{high}</span></div></figure>"
    )


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _number(number: float) -> str:
    return f"{number:.3g}"
