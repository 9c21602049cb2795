"""The offline report: original text, numbers of the store, nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mistudio.core.errors import Damaged
from mistudio.core.paths import resources
from mistudio.jobs.feature_report import check_report, write_report
from mistudio.jobs.report_markup import bars_svg, escape
from mistudio.store.feature_export import Written
from tests.helpers.odd_texts import ODD_TEXTS, documents_of, odd_store


class Page(HTMLParser):
    """What a reader takes from a report: addresses, texts of examples, highlights, figures."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.examples: list[str] = []
        self.peaks: list[str] = []
        self.titles: list[float] = []
        self.figures: list[list[int]] = []
        self.labels: list[str] = []
        self._depth = 0
        self._peak = self._label = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [str(found[n]) for n in ("src", "href") if n in found]
        if tag == "figure":
            self.figures.append([int(n) for n in (found["data-n"] or "").split(",")])
        if tag == "div" and found.get("class") == "tx":
            self._depth = 1
            self.examples.append("")
        elif self._depth:
            self._depth += 1
            if tag == "b":
                self._peak = found.get("class") == "p"
                if self._peak:
                    self.peaks.append("")
                self.titles.append(float(found.get("title") or 0))
        self._label = tag == "span" and found.get("class") == "label"
        if self._label:
            self.labels.append("")

    def handle_endtag(self, tag: str) -> None:
        self._label = False
        if self._depth:
            self._depth -= 1
            if tag == "b":
                self._peak = False

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.examples[-1] += data
            if self._peak:
                self.peaks[-1] += data
        if self._label:
            self.labels[-1] += data


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Any]:
    folder = tmp_path_factory.mktemp("report")
    store, texts, _sae = odd_store(folder)
    told = [
        (feature, Written(label=f'<i>{feature}</i> & "so"', source="user", note="a\n</article>"))
        for feature in range(store.n_features)
    ]
    path = folder / "report.html"
    count = write_report(
        path, "Features of <x>", {"Model": "a & b"}, store, told, examples=20, context=60
    )
    assert count == store.n_features
    return path, store, texts


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_bytes().decode("utf-8"))
    page.close()
    return page


def test_examples_are_slices_of_the_original_text(written: tuple[Path, Any, Any]) -> None:
    path, store, texts = written
    page = _read(path)
    drawn = []
    for feature in range(store.n_features):
        if store.statistics[feature]["count"]:
            top = store.examples(feature, 20, before=60, after=60)
            lower = store.intervals(feature, before=60, after=60)[1:]
            drawn += [*top, *(e for part in lower for e in part.examples[:2])]
    assert page.examples == [e.text.replace("\0", "␀") for e in drawn]
    assert page.peaks == [
        next(p.text for p in e.pieces if p.peak).replace("\0", "␀") for e in drawn
    ]
    covered: dict[int, int] = {}
    for example in drawn:
        for document, slice_ in documents_of(store, example).items():
            assert slice_ in texts.text(document)
            covered[document] = max(covered.get(document, 0), len(slice_))
    assert sorted(texts.text(document) for document in covered) == sorted(ODD_TEXTS)
    assert min(covered.values()) > 12  # a good part of every odd text is seen


def test_highlights_and_bars_are_those_of_the_store(written: tuple[Path, Any, Any]) -> None:
    path, store, _ = written
    page = _read(path)
    live = [f for f in range(store.n_features) if store.statistics[f]["count"]]
    strongest = [float(store.statistics[f]["max"]) for f in live]
    assert max(page.titles) == pytest.approx(max(strongest), abs=5e-5)
    expected = [store.histogram(f).counts.tolist() for f in live[:2]]
    assert page.figures[1] == expected[0]
    assert page.figures[2] == store.lens(live[0]).counts.tolist()
    assert page.figures[3] == expected[1]
    assert sum(page.figures[0]) == len(live)


def test_nothing_comes_from_elsewhere(written: tuple[Path, Any, Any]) -> None:
    path, _store, _ = written
    page = _read(path)
    assert all(a.startswith("#f") or a == "data:," for a in page.addresses)
    assert page.tags.count("script") == 1
    assert {"img", "iframe", "object", "base", "form"}.isdisjoint(page.tags)
    style = "".join(re.findall("<style>(.*?)</style>", path.read_text("utf-8"), re.DOTALL))
    assert "url(" not in style
    assert "@import" not in style
    assert "default-src 'none'" in path.read_text("utf-8")[:400]
    script = (resources() / "report" / "report.js").read_text("utf-8")
    for word in ("fetch", "XMLHttpRequest", "import(", "http", "innerHTML", "eval"):
        assert word not in script
    assert page.labels[3] == '<i>3</i> & "so"'


@pytest.mark.parametrize(
    "spoilt",
    [
        '<img src="http://example.com/x.png">',
        '<a href="https://example.com">x</a>',
        "<b onclick='x()'>x</b>",
        "<div>",
        "</div></div>",
    ],
)
def test_a_report_that_asks_or_is_cut_is_refused(tmp_path: Path, spoilt: str) -> None:
    path = tmp_path / "x.html"
    path.write_text(f"<html><body><article>{spoilt}</article></body></html>", "utf-8")
    with pytest.raises(Damaged):
        check_report(path)
    path.write_text("<html><body><article>whole</article></body></html>", "utf-8")
    assert check_report(path) == 1


def test_a_failed_report_leaves_nothing(written: tuple[Path, Any, Any], tmp_path: Path) -> None:
    _, store, _ = written

    def features() -> Any:
        yield 0, Written()
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError):
        write_report(tmp_path / "r.html", "t", {}, store, features(), examples=2, context=4)
    assert list(tmp_path.iterdir()) == []


def test_free_shapes_are_told(written: tuple[Path, Any, Any], tmp_path: Path) -> None:
    path, store, _texts = written
    assert "free shapes" not in path.read_text(encoding="utf-8")
    store.summary.update(fast=True, tile_rows=24)
    write_report(tmp_path / "r.html", "t", {}, store, [(0, Written())], examples=2, context=4)
    assert "free shapes, 24 rows at a time" in (tmp_path / "r.html").read_text(encoding="utf-8")
    store.summary.update(fast=False)


def test_bars_say_what_they_draw() -> None:
    svg = bars_svg("x < y", [-1.0, 0.0, 1.0, 2.0], [4, 0, 1], split_at=0.0)
    assert 'data-lo="-1.0" data-hi="2.0" data-n="4,0,1"' in svg
    assert svg.count('<path class="n"') == svg.count('<path class="q"') == 1
    assert "v-72h99v72z" in svg
    assert "v-18h99v18z" in svg
    assert "x &lt; y" in svg
    assert bars_svg("none", [], []) == ""
    assert escape("a\0b\r<&>\"'") == "a␀b&#13;&lt;&amp;&gt;&quot;&#39;"
