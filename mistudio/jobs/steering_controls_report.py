"""What controls say of a run of steering, as lines for a terminal, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio.core.steering_controls import control_rows, controls_summary
from mistudio.jobs.report_markup import escape

HEAD = (
    "Measure", "Unsteered", "Steered", "Random features", "p", "Verdict", "Difference of means",
    "Prompt only",
)  # fmt: skip


def lines(found: Mapping[str, Any]) -> list[str]:
    """For a terminal."""
    widths = (30, 10, 10, 22, 7, 14, 20, 11)
    rows = [HEAD, *control_rows(found)]
    table = ["  ".join(f"{cell:<{w}}" for cell, w in zip(r, widths, strict=True)) for r in rows]
    return [*controls_summary(found), "", *(line.rstrip() for line in table)]


def markdown(title: str, found: Mapping[str, Any]) -> str:
    """A section with a table."""
    rows = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    rows += [f"| {' | '.join(_plain(cell) for cell in row)} |" for row in control_rows(found)]
    about = " ".join(controls_summary(found))
    return f"### Against random features: {_plain(title)}\n\n{_plain(about)}\n\n" + "\n".join(
        [*rows, ""]
    )


def html(title: str, found: Mapping[str, Any]) -> str:
    """The same for a page."""
    head = "".join(f"<th>{escape(name)}</th>" for name in HEAD)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row in control_rows(found)
    )
    about = escape(" ".join(controls_summary(found)))
    return (
        f"<h3>Against random features: {escape(title)}</h3><p class=small>{about}</p>"
        f"<table><tr>{head}</tr>{rows}</table>"
    )


def _plain(text: str) -> str:
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(mark, written)
    return text.replace("\n", " ")
