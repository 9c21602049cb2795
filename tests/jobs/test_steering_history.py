"""The history of steering: found again, exported, and the presets with what they need."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mistudio.cli import main
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.steering_shown import differing, over_steering, read_run
from mistudio.jobs import steering_presets, steering_report
from mistudio.jobs.runner import Studio
from mistudio.store import steering
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import SAES, STEERING_RUNS
from tests.helpers.studio import new_studio

METRICS = {
    "kl": 0.0512,
    "perplexity_baseline": 4.0,
    "perplexity_steered": 9.5,
    "perplexity_delta": 5.5,
    "word_overlap": 0.25,
    "delta_ratio": 0.3,
    "acted": 46,
    "positions": 48,
    "greedy_baseline": "the sea",
    "greedy_steered": "a | <b>harbour</b>",
    "over_steered": True,
}


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    studio = new_studio(tmp_path / "data")
    yield studio
    studio.close()


def kept(studio: Studio, prompt: str, **values: Any) -> SteeringRunRow:
    """A run as the first version kept it."""
    outputs = {"baseline": "the old sea", "steered": "the old\nharbour & <i>"}
    row = {
        "mode": "blended",
        "prompt": prompt,
        "config": {"feature": ["12=2.0:add"], "prompt": prompt, "temperature": 0.7},
        "outputs": {**outputs, "reasons": {"steered": "stopped"}},
        "metrics": METRICS,
        "seed": 3,
        "status": "completed",
    }
    return STEERING_RUNS.insert(studio.db(), **{**row, **values})


def test_words_notes_stars_and_features_are_found(studio: Studio) -> None:
    db = studio.db()
    first = kept(studio, "The captain said")
    second = kept(studio, "Once 100% true", config={"feature": ["112=1.0:add", "sae_x#7=1:add"]})
    steering.note(db, first.id, " Worth keeping ")
    assert STEERING_RUNS.get(db, first.id).note == "Worth keeping"
    assert steering.run_ids(db) == [second.id, first.id]
    for text, found in (
        ("CAPTAIN keeping", [first.id]),
        ("harbour", [second.id, first.id]),
        ("100%", [second.id]),
        ("1__%", []),
        ("#12", [first.id]),
        ("#7", [second.id]),
        ("whale", []),
    ):
        assert steering.run_ids(db, text) == found, text
    steering.star(db, first.id, True)
    assert steering.run_ids(db) == [first.id, second.id]
    assert steering.run_ids(db, starred=True) == [first.id]


def test_deleted_runs_come_back_as_they_were(studio: Studio) -> None:
    run = kept(studio, "Once", note="n", is_favorite=True)
    gone = steering.delete(studio.db(), [run.id, "st_none"])
    assert steering.runs(studio.db(), [run.id]) == [None]
    steering.restore(studio.db(), gone)
    assert STEERING_RUNS.get(studio.db(), run.id) == run


def test_a_run_of_the_first_form_is_read() -> None:
    (shown,) = read_run(
        "p", {"baseline": "a", "steered": "b", "reasons": {"steered": "time"}}, METRICS
    )
    assert [variant.title for variant in shown.variants] == ["Unsteered (baseline)", "Steered"]
    assert shown.baseline is not None
    (steered,) = shown.steered
    assert [text.text for text in steered.texts] == ["b", "a | <b>harbour</b>"]
    assert steered.labels == ("sampled", "greedy")
    assert steered.texts[0].ending.startswith("Cut by the time limit")
    assert over_steering(steered.metrics) == ["perplexity more than doubles"]
    assert over_steering(shown.baseline.metrics) == []


def test_what_differs_is_marked_by_words() -> None:
    text = "the old harbour, and the sea"
    marked = [text[low:high] for low, high in differing(text, "the old ship and the sea")]
    assert marked == ["harbour,"]
    assert differing("same words", "same  words") == []


class _Page(HTMLParser):
    """Collects tags, texts and every address of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for name, v in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_exports_hold_texts_and_figures(studio: Studio, tmp_path: Path) -> None:
    run = kept(studio, "The | captain", note="a note")
    written = steering_report.write([run], tmp_path / "out", "json")
    assert written.name == "out.json"
    again = json.loads(written.read_text("utf-8"))["runs"][0]
    assert SteeringRunRow(**again) == run

    markdown = steering_report.write([run], tmp_path / "out.md").read_text("utf-8")
    assert "| sampled | the old sea | the old<br>harbour &amp; &lt;i><br>(Stopped" in markdown
    assert "| KL (nats per token) | — | 0.0512 |" in markdown
    assert "| Acted on positions | — | 46 of 48 |" in markdown
    assert "a \\| &lt;b>harbour" in markdown

    page = _Page()
    page.feed(steering_report.write([run], tmp_path / "out.html").read_text("utf-8"))
    assert "harbour & <i>" in page.text
    assert "Over-steered: perplexity more than doubles." in page.text
    assert page.addresses == []
    assert "i" not in page.tags
    assert page.tags.count("mark") >= 1
    with pytest.raises(InvalidInput, match="no format 'pdf'"):
        steering_report.write([run], tmp_path / "out.pdf")


def add_sae(studio: Studio, name: str, layer: int) -> str:
    return SAES.insert(
        studio.db(), name=name, origin="trained", encoder_type="sae", architecture="topk",
        d_in=8, d_out=8, n_latents=64, path="saes/none", layer=layer, status="ready",
    ).id  # fmt: skip


def test_presets_are_named_by_what_they_hold_and_marked_without_their_sae(studio: Studio) -> None:
    sae = add_sae(studio, "one", 3)
    config = SteerConfig(sae=sae, feature=("1=2.0:add", "2=0.5:clamp"), prompt="Once", seed=9)
    row = steering_presets.save(studio, config, description="why")
    assert row.name.startswith("steering_2features_layer3_")
    (preset,) = steering_presets.presets(studio)
    assert (preset.config, preset.layers, preset.is_available) == (config, (3,), True)
    assert steering_presets.loadable(studio, row.name) == config
    SAES.delete(studio.db(), sae)
    (preset,) = steering_presets.presets(studio)
    assert (preset.is_available, preset.missing) == (False, (sae,))
    with pytest.raises(NotFound, match=f"needs '{sae}'"):
        steering_presets.loadable(studio, row.id)
    with pytest.raises(InvalidInput, match="needs a feature"):
        steering_presets.save(studio, SteerConfig(sae=sae))


def test_the_command_line_lists_exports_and_deletes(
    studio: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, home = kept(studio, "The captain"), str(tmp_path / "data")
    sae = add_sae(studio, "one", 3)

    def told(*words: str) -> dict[str, Any]:
        assert main([*words, "--home", home, "--json"]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    saved = told("steer", "presets", "save", "--name", "mine", "--sae", sae, "--feature", "1=2")
    assert saved["name"] == "mine"
    assert told("steer", "presets", "list")["presets"][0]["layers"] == "3"
    assert told("steer", "presets", "show", "mine")["config"]["feature"] == ["1=2"]
    assert told("steer", "presets", "rename", "mine", "yours")["name"] == "yours"
    assert told("steer", "presets", "delete", "yours")["name"] == "yours"
    assert [r["id"] for r in told("steer", "history", "list", "--text", "#12")["runs"]] == [run.id]
    assert told("steer", "history", "star", "last")["star"] is True
    assert (
        told("steer", "history", "show", "last")["prompts"][0]["variants"][1]["title"] == "Steered"
    )
    out = told("steer", "export", "--out", str(tmp_path / "x.html"))
    assert out == {**out, "runs": 1, "path": str(tmp_path / "x.html")}
    assert main(["steer", "history", "delete", run.id, "--home", home]) != 0
    assert told("steer", "history", "delete", run.id, "--yes")["deleted"] == [run.id]


def test_the_command_lists_edits_however_they_were_given(
    studio: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    kept(studio, "old")
    kept(studio, "flag", config={"edit": ["40:ablate"]})
    specification = {"edits": [{"feature": 7, "operator": "clamp", "value": 3.0}], "unit": "raw"}
    kept(studio, "file", config={"unit": "raw", "specification": specification})
    assert main(["steer", "history", "--home", str(studio.paths.home), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = told["runs"] if "runs" in told else told["result"]["runs"]
    assert {row["prompt"]: row["edits"] for row in rows} == {
        "old": "#12 +2 × max",
        "flag": "Ablate #40",
        "file": "#7 = 3",
    }
