"""One HTML file about features that needs nothing else: style, script, plots and text are inside.

A content policy in its head forbids every request, so the file cannot reach a network even if a
text of the corpus tried to make it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mistudio.core import lens_figures
from mistudio.core.atomic import atomic_file
from mistudio.core.errors import Damaged, from_os_error
from mistudio.core.paths import resources
from mistudio.core.units import EM_DASH, format_count, format_decimal, format_percent
from mistudio.jobs.report_markup import bars_svg, escape, example_html, source_text
from mistudio.store.feature_export import Written

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import BinExamples, FeatureStore, TokenWeight

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
PER_INTERVAL = 2  # examples shown of each interval below the top one
DENSITY_BINS = 40
SORTS = (
    ("index:up", "number"),
    ("density:down", "frequency"),
    ("max:down", "max activation"),
    ("score:down", "score"),
    ("label:up", "label"),
)
MEANINGS = (
    (
        "Frequency",
        "Share of the tokens read on which the feature is active (activation above 0). Special "
        "tokens, padding and tokens of extreme norm are not counted.",
    ),
    ("Max, mean", "Largest activation, and the mean over the tokens on which it is active."),
    (
        "Top examples",
        "The strongest token of each of the strongest rows of text; the token is outlined.",
    ),
    (
        "Intervals",
        "Five ranges of equal width from 0 to the maximum; the share is that of all tokens read. "
        "The examples are drawn by a hash, not chosen.",
    ),
    (
        "Highlight",
        "With m the largest activation among the examples shown of the feature: nothing up to "
        "0.00005, else 0.05 + 0.95 · log10(1 + 9a/m), or a/m if linear is pressed. The tooltip "
        "holds the activation. Grey text was not measured.",
    ),
    (
        "Promoted, suppressed",
        "What the feature's direction adds to each next-token logit past the final norm, less the "
        "mean over the vocabulary: the direct path only.",
    ),
    ("Score", "Score of the label on text that it was not made from; n are the examples scored."),
)


def write_report(
    path: Path,
    title: str,
    facts: Mapping[str, str],
    store: FeatureStore,
    features: Iterable[tuple[int, Written]],
    *,
    examples: int,
    context: int,
) -> int:
    """Write the report of `features`, in order; returns how many there are.

    `facts` are shown under the title. The file takes its name only after it was parsed again and
    found whole and free of addresses. Raises `Damaged` and what the disk says.
    """
    written = 0
    try:
        with atomic_file(path) as temporary:
            articles = temporary.with_name(temporary.name + ".body")
            try:
                index: list[str] = []
                with articles.open("w", encoding="utf-8", newline="\n") as body:
                    for feature, told in features:
                        body.write(_article(store, feature, told, examples, context))
                        index.append(_entry(store, feature, told, written))
                        written += 1
                with temporary.open("w", encoding="utf-8", newline="\n") as out:
                    _write_head(out, title, facts, store)
                    out.writelines(index)
                    out.write('</ol></nav><main id="features">')
                    with articles.open(encoding="utf-8", newline="") as body:
                        for block in iter(lambda: body.read(1 << 20), ""):
                            out.write(block)
                    out.write(f"</main></div></div><script>{_resource('report.js')}</script>")
                    out.write("</body></html>\n")
            finally:
                articles.unlink(missing_ok=True)
            found = check_report(temporary)
            if found != written:
                raise Damaged(f"{path.name} came out with {found:,} of {written:,} features.")
    except OSError as error:
        raise from_os_error(error, f"write {path.name}") from error
    return written


def _resource(name: str) -> str:
    return (resources() / "report" / name).read_text(encoding="utf-8")


def _write_head(out: TextIO, title: str, facts: Mapping[str, str], store: FeatureStore) -> None:
    told = "".join(
        f"<p class=facts><b>{escape(name)}</b> {escape(value)}</p>" for name, value in facts.items()
    )
    sorts = "".join(f'<option value="{key}">{name}</option>' for key, name in SORTS)
    meanings = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in MEANINGS)
    out.write(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,">'
        f"<style>{_resource('report.css')}</style></head><body><div class=wrap>"
        f"<header><h1>{escape(title)}</h1>{told}</header>{_overview(store)}"
        f"<details><summary>How the numbers are defined</summary><dl>{meanings}</dl></details>"
        '<div class=bar><input type="search" id="search" aria-label="Search" '
        'placeholder="Search label, note, tokens, examples or #number  ( / )">'
        f'<label>Sort <select id="sort"><option value="order:up">as exported</option>{sorts}'
        '</select></label><button id="linear" aria-pressed="false">Linear highlight</button>'
        '<button id="breaks" aria-pressed="false">Line breaks</button>'
        '<button id="theme">Light / dark</button>'
        '<span id="shown" class="muted" role="status"></span></div>'
        '<div class=columns><nav class=card aria-label="Features"><ol id="index">'
    )


def _overview(store: FeatureStore) -> str:
    """Tiles and the density of every feature of the set, exported or not."""
    import numpy as np

    rates = store.statistics["frequency"]
    live = rates[rates > 0]
    figure = ""
    if live.size:
        low = math.floor(math.log10(float(live.min())))
        counts, edges = np.histogram(np.log10(live), bins=DENSITY_BINS, range=(low, 0.0))
        figure = bars_svg(
            "Frequency of all live features of the set, log10", edges.tolist(), counts.tolist()
        )
    tiles = (
        ("Live features / all", f"{live.size:,} / {rates.size:,}", "good"),
        ("Tokens read", format_count(store.kept_tokens), "blue"),
        ("Active features per token", format_decimal(float(rates.sum()), 2), "purple"),
    )
    free = (
        "<p class=facts>Read with free shapes, "
        f"{int(store.summary['tile_rows']):,} rows at a time: the last bits of the activations "
        "depend on that number.</p>"
        if store.summary.get("fast")
        else ""
    )
    return free + _tiles(tiles) + f"<div class=card>{figure}</div>"


def _tiles(tiles: Sequence[tuple[str, str, str]]) -> str:
    each = "".join(
        f'<div class=tile><span>{escape(name)}</span><b class="num {color}">{escape(value)}</b>'
        "</div>"
        for name, value, color in tiles
    )
    return f"<div class=tiles>{each}</div>"


def _entry(store: FeatureStore, feature: int, told: Written, order: int) -> str:
    line = store.statistics[feature]
    label = told.label or " ".join(_word(token.text) for token in store.top_tokens(feature)[:3])
    score = "" if told.score is None else repr(float(told.score))
    return (
        f'<li><a href="#f{feature}" data-order="{order}" data-index="{feature}" '
        f'data-density="{float(line["frequency"])!r}" data-max="{float(line["max"])!r}" '
        f'data-score="{score}" data-label="{escape(told.label or "")}">'
        f"<span>#{feature}</span><span>{escape(label)}</span>"
        f"<span>{_percent(float(line['frequency']))}</span></a></li>"
    )


def _word(text: str) -> str:
    """A token in a list; one of nothing but blanks stays visible."""
    return text.strip() or text.replace("\n", "↵").replace("\t", "→").replace(" ", "␣")


def _percent(share: float) -> str:
    return format_percent(share, 2 if share >= 1e-4 else 4)


def _article(store: FeatureStore, feature: int, told: Written, examples: int, context: int) -> str:
    line = store.statistics[feature]
    parts = [f'<article class=card id="f{feature}">', _head(feature, told, store.flags(feature))]
    count = int(line["count"])
    parts.append(
        _tiles(
            (
                ("Frequency", _percent(float(line["frequency"])), "good"),
                ("Active tokens", f"{count:,}", "blue"),
                ("Max activation", format_decimal(float(line["max"]), 3), "purple"),
                ("Mean while active", _mean(line), "purple"),
                ("Rows of text", format_count(int(line["active_samples"])), "yellow"),
            )
        )
    )
    if not count:
        bound = 3 / max(store.kept_tokens, 1)
        parts.append(
            f"<p class=muted>It never fired on the {store.kept_tokens:,} tokens read: it fires on "
            f"fewer than {bound:.1e} of them, with 95 % confidence.</p>"
        )
    parts.append(_charts(store, feature))
    parts.append(_examples(store, feature, examples, context))
    parts.append("</article>")
    return "".join(parts)


def _mean(line: Any) -> str:
    return format_decimal(float(line["mean_active"]), 3) if int(line["count"]) else EM_DASH


def _head(feature: int, told: Written, flags: Sequence[str]) -> str:
    pills = [*flags, *(f"list: {name}" for name in told.lists)]
    if told.is_favorite:
        pills.insert(0, "★ favourite")
    source = ""
    if told.label:
        made = " · ".join(part for part in (told.source, told.method, told.model) if part)
        score = "" if told.score is None else f" · score {format_percent(told.score)}"
        n = f" (n = {told.score_n:,})" if told.score is not None and told.score_n else ""
        source = f"<span class=muted>{escape(made + score + n)}</span>"
    note = f"<p class=note>{escape(told.note)}</p>" if told.note else ""
    shown = "".join(f"<span class=pill>{escape(pill)}</span>" for pill in pills)
    return (
        f'<div class=head><h2>Feature #{feature}</h2><span class=label dir="auto">'
        f"{escape(told.label or '')}</span>{source}{shown}</div>{note}"
    )


def _charts(store: FeatureStore, feature: int) -> str:
    lens = store.lens(feature)
    bars = store.histogram(feature)
    sides = [bars_svg("Activations above 0", bars.edges.tolist(), bars.counts.tolist())]
    if lens is None:
        why = escape(store.summary["lens"])
        return f"<div class=sides>{''.join(sides)}<p class=muted>No logit lens: {why}</p></div>"
    title = f"Logits of the vocabulary (skew {lens.skew:.2f}, kurtosis {lens.kurtosis:.2f})"
    sides.append(bars_svg(title, lens.edges.tolist(), lens.counts.tolist(), split_at=0.0))
    return (
        f"<div class=sides>{''.join(sides)}</div><div class=sides>"
        f"<div><h3>Promoted</h3>{_logits(lens.positive[: lens_figures.FEW])}</div>"
        f"<div><h3>Suppressed</h3>{_logits(lens.negative[: lens_figures.FEW])}</div></div>"
    )


def _logits(tokens: Sequence[TokenWeight]) -> str:
    rows = "".join(
        f'<tr><td class="tx">{source_text(token.text)}</td>'
        f"<td class=num>{token.weight:+.3f}</td></tr>"
        for token in tokens
    )
    return f"<table class=logits>{rows}</table>"


def _examples(store: FeatureStore, feature: int, most: int, context: int) -> str:
    if most < 1:
        return ""
    top = store.examples(feature, most, before=context, after=context)
    lower = store.intervals(feature, before=context, after=context)[1:]
    drawn = [example for part in lower for example in part.examples[:PER_INTERVAL]]
    pieces = (piece for example in (*top, *drawn) for piece in example.pieces if piece.kept)
    maximum = max((piece.value for piece in pieces), default=0.0)
    if not top:
        return ""
    out = ["<h3>Top examples</h3>", *(_example(example, maximum) for example in top)]
    for part in lower:
        if part.examples:
            out.append(_interval(part, maximum))
    return "".join(out)


def _interval(part: BinExamples, maximum: float) -> str:
    shown = "".join(_example(example, maximum) for example in part.examples[:PER_INTERVAL])
    return (
        f"<p class=group>Interval {part.low:.3f} to {part.high:.3f} · "
        f"{_percent(part.share)} of tokens</p>{shown}"
    )


def _example(example: Any, maximum: float) -> str:
    return (
        f"<div class=ex><span>{example.value:.3f}</span>"
        f'<div class=tx dir="auto">{example_html(example, maximum)}</div></div>'
    )


class _Checker(HTMLParser):
    """Counts the features of a report and refuses whatever would ask for another file."""

    VOID = frozenset(("meta", "link", "input", "br", "path", "option"))

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.articles = 0
        self.open: list[str] = []

    def updatepos(self, i: int, j: int) -> int:
        """Lines are not counted: nobody asks where something stands."""
        return j

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.articles += tag == "article"
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            inside = (value or "").startswith(("#", "data:,"))
            if name in ("src", "href", "srcset", "action", "data", "poster") and not inside:
                raise Damaged(f"The report would ask for {value!r}.")
            if name.startswith("on"):
                raise Damaged(f"The report holds a script in {name!r}.")

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID and (not self.open or self.open.pop() != tag):
            raise Damaged(f"The report's {tag} does not close what was opened.")


def check_report(path: Path) -> int:
    """Parse a report; returns its features. Raises `Damaged` if it is not whole, or not offline."""
    checker = _Checker()
    with path.open(encoding="utf-8", newline="") as stream:
        for block in iter(lambda: stream.read(1 << 18), ""):
            checker.feed(block)
    checker.close()
    if checker.open:
        raise Damaged(f"The report ends inside {checker.open[-1]!r}.")
    return checker.articles
