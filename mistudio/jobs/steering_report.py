"""Steering runs as files: JSON with everything, Markdown and one self-contained HTML page."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mistudio import __version__
from mistudio.core.atomic import atomic_file
from mistudio.core.errors import InvalidInput, from_os_error
from mistudio.core.ids import now
from mistudio.core.steering_shown import PromptRun, Text, differing, over_steering, read_run
from mistudio.core.units import EM_DASH
from mistudio.jobs import steering_controls_report as controls_report
from mistudio.jobs.report_markup import escape
from mistudio.store.records import SteeringRunRow

FORMATS = {"json": "JSON", "md": "Markdown", "html": "HTML page"}
FIGURES = (
    ("kl", "KL (nats per token)", "{:.4f}"),
    ("perplexity_delta", "Perplexity change", "{:+.2f}"),
    ("similarity", "Similarity", "{:.0%}"),
    ("word_overlap", "Word overlap", "{:.0%}"),
    ("delta_ratio", "‖Δ‖ / ‖x‖", "{:.3f}"),
    ("repeat_share_steered", "Longest stretch said again, of the text", "{:.0%}"),
)
_SETTINGS_LEFT_OUT = ("prompt", "weights_hash")
_CSS = """
:root{color-scheme:light dark;--line:#8886;--soft:#8881;--green:#047857;--mark:#a855f733}
@media(prefers-color-scheme:dark){:root{--green:#34d399}}
body{font:16px/1.5 system-ui,sans-serif;max-width:1280px;margin:24px auto;padding:0 16px}
h1{font-size:24px}h2{font-size:18px;margin-top:40px}dl{display:grid;gap:2px 16px;
grid-template-columns:max-content 1fr;font-size:14px}dt{opacity:.7}dd{margin:0;
font-family:monospace;overflow-wrap:anywhere}.prompt{white-space:pre-wrap;padding-left:12px;
border-left:3px solid var(--line)}
.sides{display:flex;gap:12px;overflow-x:auto}.side{flex:1 0 240px;border:1px solid var(--line);
border-radius:8px;padding:12px}.steered{border-color:var(--green)}.side h3{margin:0;font-size:14px}
.side p{white-space:pre-wrap;overflow-wrap:anywhere}.side mark{background:var(--mark);color:inherit}
.over{color:#b45309}.small{font-size:12px;opacity:.75}table{border-collapse:collapse;font-size:14px}
th,td{border:1px solid var(--line);padding:4px 10px;text-align:right}th:first-child,td:first-child{
text-align:left}
"""


def file_name(runs: Sequence[SteeringRunRow], ending: str) -> str:
    """The name that a file dialog proposes."""
    words = re.sub(r"[^\w-]+", "_", runs[0].prompt[:40]).strip("_") if len(runs) == 1 else ""
    stamp = re.sub(r"\D", "", runs[0].created_at[:19]) if runs else ""
    return "_".join(part for part in ("steering", words, stamp) if part) + f".{ending}"


def write(runs: Sequence[SteeringRunRow], path: Path, ending: str = "") -> Path:
    """Write runs to a file in the format of its name, or in `ending`; returns the path written.

    Raises `InvalidInput` without runs or for a format there is none of, or what the disk says.
    """
    ending = (ending or path.suffix.lstrip(".")).lower()
    if not runs:
        raise InvalidInput("There is no run to export.")
    if ending not in FORMATS:
        raise InvalidInput(f"There is no format {ending!r}; use one of {', '.join(FORMATS)}.")
    if not path.suffix:
        path = path.with_suffix(f".{ending}")
    content = {"json": as_json, "md": as_markdown, "html": as_html}[ending](runs)
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(content, "utf-8")
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return path


def as_json(runs: Sequence[SteeringRunRow]) -> str:
    """Everything that is kept of the runs."""
    content = {
        "format": "mistudio steering runs",
        "version": 1,
        "mistudio": __version__,
        "exported_at": now(),
        "runs": [dataclasses.asdict(run) for run in runs],
    }
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def as_markdown(runs: Sequence[SteeringRunRow]) -> str:
    """Runs for a document: prompt, settings, texts side by side, figures."""
    parts = ["# Steering\n"]
    for run in runs:
        parts.append(f"## {_when(run)}, {run.mode}\n")
        if run.note:
            parts.append(f"{run.note}\n")
        parts.append("\n".join(f"- {name}: `{value}`" for name, value in settings(run)) + "\n")
        for shown in read_run(run.prompt, run.outputs, run.metrics):
            parts.append(
                "\n".join(f"> {line}" for line in shown.prompt.splitlines() or [""]) + "\n"
            )
            parts.append(_markdown_table(shown))
            tested = [v for v in shown.variants if v.controls]
            parts += [controls_report.markdown(v.title, v.controls) for v in tested]
    return "\n".join(parts)


def _markdown_table(shown: PromptRun) -> str:
    titles = [_cell(variant.title) for variant in shown.variants]
    lines = ["|  | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    rows = max((len(v.texts) for v in shown.variants), default=0)
    for place in range(rows):
        texts = [v.texts[place] if place < len(v.texts) else None for v in shown.variants]
        names = [v.labels[place] for v in shown.variants if place < len(v.texts)]
        cells = [_cell(_with_ending(text)) for text in texts]
        lines.append(f"| {names[0]} | " + " | ".join(cells) + " |")
    for name, figures in figure_rows(shown):
        lines.append(f"| {name} | " + " | ".join(figures) + " |")
    return "\n".join(lines) + "\n"


def _with_ending(text: Text | None) -> str:
    if text is None:
        return EM_DASH
    return f"{text.text}\n({text.ending})" if text.ending else text.text


def _cell(text: str) -> str:
    # a cell ends at a bar or a line's end, and HTML in it would be read as such
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("*", "\\*"), ("`", "\\`")):
        text = text.replace(mark, written)
    return text.strip().replace("\r", "").replace("\n", "<br>") or EM_DASH


def as_html(runs: Sequence[SteeringRunRow]) -> str:
    """One page that needs no other file."""
    body = "".join(_run_html(run) for run in runs)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Steering</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_CSS}</style></head><body>'
        f"<h1>Steering</h1>{body}<p class=small>miStudio {escape(__version__)}, {escape(now())}</p>"
        "</body></html>\n"
    )


def _run_html(run: SteeringRunRow) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in settings(run)
    )
    note = f"<p>{escape(run.note)}</p>" if run.note else ""
    shown = "".join(_prompt_html(one) for one in read_run(run.prompt, run.outputs, run.metrics))
    heading = f"<h2>{escape(_when(run))}, {escape(run.mode)}</h2>"
    return f"<section>{heading}{note}<dl>{facts}</dl>{shown}</section>"


def _prompt_html(shown: PromptRun) -> str:
    base = shown.baseline
    sides: list[str] = []
    for variant in shown.variants:
        texts: list[str] = []
        for place, (name, text) in enumerate(zip(variant.labels, variant.texts, strict=True)):
            beside = base.texts[place].text if base and place < len(base.texts) else None
            marked = escape(text.text) if variant.is_baseline else _marked(text.text, beside)
            ending = f"<p class=small>{escape(text.ending)}</p>" if text.ending else ""
            texts.append(f"<p class=small>{escape(name)}</p><p>{marked}</p>{ending}")
        over = over_steering(variant.metrics)
        warning = f"<p class=over>Over-steered: {escape(', '.join(over))}.</p>" if over else ""
        kind = "side" if variant.is_baseline else "side steered"
        sides.append(
            f'<div class="{kind}"><h3>{escape(variant.title)}</h3>{"".join(texts)}{warning}</div>'
        )
    head = "".join(f"<th>{escape(variant.title)}</th>" for variant in shown.variants)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{escape(f)}</td>' for f in figures)}</tr>"
        for name, figures in figure_rows(shown)
    )
    table = f"<table><tr><th></th>{head}</tr>{rows}</table>" if rows else ""
    prompt = f'<p class="prompt">{escape(shown.prompt)}</p>'
    tested = [controls_report.html(v.title, v.controls) for v in shown.variants if v.controls]
    return f'{prompt}<div class="sides">{"".join(sides)}</div>{table}{"".join(tested)}'


def _marked(text: str, baseline: str | None) -> str:
    """Text with what the baseline has not in a mark."""
    parts: list[str] = []
    at = 0
    for low, high in differing(text, baseline) if baseline is not None else ():
        parts.append(f"{escape(text[at:low])}<mark>{escape(text[low:high])}</mark>")
        at = high
    return "".join(parts) + escape(text[at:])


def figure_rows(shown: PromptRun) -> list[tuple[str, list[str]]]:
    """Name and one figure per variant, of those measured for any."""
    found: list[tuple[str, list[str]]] = []
    for key, name, form in FIGURES:
        if any(variant.metrics.get(key) is not None for variant in shown.variants):
            values = [variant.metrics.get(key) for variant in shown.variants]
            found.append((name, [EM_DASH if v is None else form.format(v) for v in values]))
    acted = [_acted(variant.metrics) for variant in shown.variants]
    if any(text != EM_DASH for text in acted):
        found.append(("Acted on positions", acted))
    return found


def _acted(metrics: Any) -> str:
    acted, positions = metrics.get("acted"), metrics.get("positions")
    return EM_DASH if acted is None or positions is None else f"{acted} of {positions}"


def settings(run: SteeringRunRow) -> list[tuple[str, str]]:
    """Settings of a run as names and values, without those that are empty."""
    found = [("run", run.id), ("seed", EM_DASH if run.seed is None else str(run.seed))]
    for name, value in run.config.items():
        if name in (*_SETTINGS_LEFT_OUT, "seed") or value in ("", [], None):
            continue
        plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        found.append((name.replace("_", " "), plain))
    if run.duration is not None:
        found.append(("seconds", f"{run.duration:.1f}"))
    return found


def _when(run: SteeringRunRow) -> str:
    return run.created_at[:16].replace("T", " ")
