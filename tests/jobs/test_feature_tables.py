"""Features as tables, through the job and the command; formats are read back and compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mistudio.cli import main
from mistudio.core.errors import Cancelled, Damaged, InvalidInput, NotFound, StudioError
from mistudio.core.feature_export_configs import ExportFeaturesConfig
from mistudio.core.index_ranges import format_ranges, parse_ranges
from mistudio.jobs import feature_pages, feature_tables, lookup
from mistudio.jobs.feature_records import COLUMNS
from mistudio.jobs.runner import Studio
from mistudio.store import feature_marks
from tests.helpers.studio import run

ODD = 'a "b", c\nd\té 🦊 =1+1'
NAMES = [column.name for column in COLUMNS]


@pytest.fixture
def told(trained: Studio) -> Studio:
    """The trained studio with a label, a note, a star and a list on some features."""
    db, sae = trained.db(), lookup.sae(trained, "last")
    with db.atomic():  # the labels that finding the features gave
        db.execute("DELETE FROM feature_labels")
        db.execute("DELETE FROM features")
    feature_marks.set_label(db, sae.id, 3, "the river")
    feature_marks.set_note(db, sae.id, 3, ODD)
    feature_marks.set_favorite(db, sae.id, 5, True)
    feature_marks.set_hidden(db, sae.id, 7, True)
    stamp = "2026-01-01T00:00:00"
    with db.atomic():
        db.execute("INSERT INTO feature_lists VALUES ('l1', 'Mine', '', ?, ?)", [stamp, stamp])
        for position, feature in enumerate((9, 2)):
            db.execute(
                "INSERT INTO feature_list_items VALUES ('l1', ?, ?, '', ?, ?, ?)",
                [sae.id, feature, position, stamp, stamp],
            )
    return trained


def _export(studio: Studio, out: Path, kind: str, **values: Any) -> dict[str, Any]:
    return run(studio, "export_features", ExportFeaturesConfig(format=kind, out=str(out), **values))


def _jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_every_column_is_what_the_store_says(told: Studio, tmp_path: Path) -> None:
    found = _export(told, tmp_path / "all", "jsonl", which="all", examples=2, context=4)
    assert found["path"].endswith("all.jsonl")
    rows = _jsonl(Path(found["path"]))
    sae = lookup.sae(told, "last")
    store = feature_pages.open_store(told, feature_pages.feature_set(told, sae))
    assert [row["index"] for row in rows] == list(range(sae.n_latents)) == list(range(64))
    for row in rows:
        index, line = row["index"], store.statistics[row["index"]]
        tokens, values = store.entries(index)
        assert row["count"] == len(tokens)
        assert row["tokens"] == store.kept_tokens
        assert row["density"] == pytest.approx(len(tokens) / store.kept_tokens)
        assert row["max"] == pytest.approx(values.max() if len(values) else 0.0)
        assert row["mean"] == (pytest.approx(values.mean()) if len(values) else None)
        assert row["mean_all"] == pytest.approx(values.sum() / store.kept_tokens)
        assert row["active_samples"] == len(set(tokens // store.row_length))
        lens = store.lens(index)
        assert lens is not None
        assert row["positive_logits"] == [[t.text, pytest.approx(t.weight)] for t in lens.positive]
        assert row["negative_logits"] == [[t.text, pytest.approx(t.weight)] for t in lens.negative]
        assert row["top_tokens"] == [[t.text, t.weight] for t in store.top_tokens(index)]
        assert row["flags"] == store.flags(index)
        assert row["skew"] == float(lens.skew)
        expected = store.examples(index, 2, before=4, after=4)
        assert [e["text"] for e in row["examples"]] == [e.text for e in expected]
        assert ["".join(e["pieces"]) for e in row["examples"]] == [e.text for e in expected]
        assert [e["activation"] for e in row["examples"]] == [e.value for e in expected]
        assert int(line["count"]) == row["count"]
    assert (rows[3]["label"], rows[3]["source"], rows[3]["note"]) == ("the river", "user", ODD)
    assert [row["index"] for row in rows if row["star"]] == [5]
    assert [row["index"] for row in rows if row["hidden"]] == [7]
    assert [row["index"] for row in rows if row["lists"] == ["Mine"]] == [2, 9]


def test_all_formats_hold_the_same(told: Studio, tmp_path: Path) -> None:
    found = {
        kind: Path(_export(told, tmp_path / kind, kind, which="all", examples=0)["path"])
        for kind in ("csv", "parquet", "json", "jsonl")
    }
    rows = _jsonl(found["jsonl"])
    assert json.loads(found["json"].read_text("utf-8")) == rows
    table = pq.read_table(found["parquet"])
    assert table.schema.names == NAMES
    for row, other in zip(rows, table.to_pylist(), strict=True):
        for column in COLUMNS:
            value = other[column.name]
            if column.kind == "weights" and value is not None:
                value = [[pair["token"], pair["value"]] for pair in value]
            assert value == row[column.name], column.name
    with found["csv"].open(encoding="utf-8", newline="") as stream:
        for row, cells in zip(rows, csv.DictReader(stream), strict=True):
            for column in COLUMNS:
                cell: Any = cells[column.name]
                if cell == "":
                    cell = None
                elif column.kind in ("weights", "texts"):
                    cell = json.loads(cell)
                elif column.kind in ("whole", "real"):
                    cell = float(cell)
                elif column.kind == "flag":
                    cell = cell == "1"
                assert cell == row[column.name], column.name


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"which": "favourites"}, [5]),
        ({"which": "labelled"}, [3]),
        ({"features": "9, 4-6,2"}, [9, 4, 5, 6, 2]),
        ({"list": "Mine"}, [9, 2]),
        ({"list": "l1"}, [9, 2]),
    ],
)
def test_which_features_and_in_which_order(
    told: Studio, tmp_path: Path, choice: dict[str, str], expected: list[int]
) -> None:
    found = _export(told, tmp_path / "some.json", "json", examples=0, **choice)
    rows = json.loads(Path(found["path"]).read_text("utf-8"))
    assert [row["index"] for row in rows] == expected
    assert found["features"] == len(expected)


def test_live_features_are_those_that_fired(told: Studio, tmp_path: Path) -> None:
    rows = _jsonl(Path(_export(told, tmp_path / "live.jsonl", "jsonl", examples=0)["path"]))
    every = _jsonl(
        Path(_export(told, tmp_path / "all.jsonl", "jsonl", examples=0, which="all")["path"])
    )
    assert rows == [row for row in every if row["count"]]


def test_names_are_made_in_the_exports_folder(told: Studio) -> None:
    first = run(told, "export_features", ExportFeaturesConfig(features="1", format="csv"))
    second = run(told, "export_features", ExportFeaturesConfig(features="2", format="csv"))
    assert Path(first["path"]).parent == told.paths.exports
    assert first["path"] != second["path"]
    assert Path(second["path"]).name.endswith("_features_2.csv")


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({"features": "64"}, InvalidInput),
        ({"features": "x"}, InvalidInput),
        ({"list": "none"}, NotFound),
        ({"features": "1", "list": "Mine"}, StudioError),
        ({"sae": "unknown"}, NotFound),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(
    told: Studio, choice: dict[str, Any], problem: type[Exception]
) -> None:
    with pytest.raises(problem):
        told.submit("export_features", ExportFeaturesConfig(**choice))


def test_a_cut_table_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    record = dict.fromkeys(NAMES, None) | {"index": 1, "flags": [], "lists": []}
    for kind in ("csv", "parquet", "json", "jsonl"):

        def stopped() -> Any:
            yield record
            raise Cancelled

        path = tmp_path / f"table.{kind}"
        with pytest.raises(Cancelled):
            feature_tables.write_table(kind, stopped(), path)
        assert list(tmp_path.iterdir()) == []
        assert feature_tables.write_table(kind, iter([record]), path) == 1
        whole = path.read_bytes()
        check = feature_tables._WRITERS[kind][1]
        assert check(path) == 1
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises((Damaged, ValueError, OSError)):
            check(path)
        path.unlink()


def test_ranges_come_back_as_they_were() -> None:
    for numbers in ([], [0], [0, 1, 2], [5, 3, 4, 9], [3, 2, 1], [9, 10, 11, 0, 1]):
        assert parse_ranges(format_ranges(numbers), 12) == numbers
    assert format_ranges([9, 10, 11, 0, 1]) == "9-11,0-1"
    assert parse_ranges("#3, 7–5, 3", 8) == [3, 7, 6, 5]


def test_the_command(told: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "r.html"
    words = [
        "features",
        "export",
        "last",
        "--format",
        "html",
        "--features",
        "3,5",
        "--out",
        str(out),
    ]
    assert main(["--home", str(told.paths.home), "--json", *words]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["features"] == 2
    assert result["bytes"] == out.stat().st_size
    text = out.read_text("utf-8")
    assert "the river" in text
    assert text.count("<article") == 2
