"""Ablation as a job and a command: kept per feature, resumed, compared with its controls."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from mistudio.cli import main
from mistudio.core import ablation_figures
from mistudio.core.analysis_configs import AblateConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.jobs import ablate, ablation_plan, feature_pages, lookup
from mistudio.jobs.runner import Studio
from mistudio.ml.features import controls
from mistudio.ml.features.ablation import Ablator
from mistudio.ml.features.rerun import Rerun
from mistudio.store import analyses
from mistudio.store.tables import SAES
from tests.helpers.studio import run


def quick(**values: Any) -> AblateConfig:
    return AblateConfig(**{"windows": 2, "window_tokens": 8, **values})


def counts(studio: Studio) -> np.ndarray:
    found = feature_pages.feature_set(studio, lookup.sae(studio, "last"))
    return feature_pages.open_store(studio, found).statistics["count"]


def values_of(studio: Studio) -> dict[int, tuple[Any, ...]]:
    rows = studio.db().execute(
        "SELECT feature_index, ablation_ce, ablation_kl, ablation_percentile, ablation_p "
        "FROM feature_statistics WHERE ablation_ce IS NOT NULL"
    )
    return {int(row[0]): tuple(row[1:]) for row in rows.fetchall()}


def test_one_feature_tells_its_own_effect_first_and_keeps_the_page(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "TOLD_FIRST", 1)
    feature = int(counts(trained).argmax())
    reporter = RecordingReporter()
    config = quick(feature=feature)
    page = run(trained, "ablate", config, reporter)
    told = [event.values for event in reporter.events if event.kind == "partial"]
    assert [values["name"] for values in told] == ["ablation", "ablation"]
    pages: list[Any] = [values["value"] for values in told]
    strongest, first = pages
    assert first["controls"] is None
    assert first["effect"] == page["effect"]
    assert strongest["effect"]["random"] is None
    assert strongest["effect"]["top"]["windows"] == 1
    assert 0 < strongest["effect"]["top"]["n"] < page["effect"]["top"]["n"]
    assert 0 < page["seconds"]["first"] <= page["seconds"]["own"]
    assert page["effect"]["top"]["kl"] > 0
    assert page["window_tokens"] == 8
    told = page["controls"]["delta_ce"]
    assert told["controls"] == len(page["controls"]["features"]) == len(told["values"])
    place = controls.standing(page["effect"]["top"]["delta_ce"], told["values"])
    assert (told["percentile"], told["p"]) == (place.percentile, place.p)
    row = lookup.sae(trained, "last")
    found = feature_pages.feature_set(trained, row)
    kept = ablate.known_page(trained, row, found, config)
    assert kept is not None
    assert kept.result == {k: v for k, v in page.items() if k not in ("made_at", "status", "job")}
    assert ablate.known_page(trained, row, found, quick(feature=feature, mode="mean")) is None
    assert ablation_figures.lines(page)[1].startswith("On top windows: 2 windows · n = ")


def test_a_kept_page_runs_no_model_until_asked_to(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = int(counts(trained).argmax())
    first = run(trained, "ablate", quick(feature=feature, controls=2))
    ran: list[int] = []
    whole = Ablator.effect

    def effect(self: Ablator, feature: int, **values: Any) -> Any:
        ran.append(feature)
        return whole(self, feature, **values)

    monkeypatch.setattr(Ablator, "effect", effect)
    again = run(trained, "ablate", quick(feature=feature, controls=2))
    assert ran == []
    assert again["made_at"] == first["made_at"]
    third = run(trained, "ablate", quick(feature=feature, controls=2, anew=True))
    assert ran[0] == feature
    assert third["effect"] == first["effect"]


def test_clean_passes_are_kept_until_the_model_goes(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    feature = int(counts(trained).argmax())
    ran: list[int] = []
    whole = Rerun.clean

    def clean(self: Rerun, ids_BS: Any) -> Any:
        ran.append(len(ids_BS))
        return whole(self, ids_BS)

    first = run(trained, "ablate", quick(feature=feature, controls=0))
    monkeypatch.setattr(Rerun, "clean", clean)
    other = run(trained, "ablate", quick(feature=feature, controls=0, mode="mean"))
    again = run(trained, "ablate", quick(feature=feature, controls=0, anew=True))
    assert ran == []  # neither probes nor passes: only what the change reaches ran
    assert again["effect"] == first["effect"] != other["effect"]
    run(trained, "ablate", quick(feature=feature, controls=0, anew=True, window_tokens=10))
    assert 2 in ran
    assert trained.models.unload()
    assert trained.models.beside == {}
    ran.clear()
    assert (
        run(trained, "ablate", quick(feature=feature, controls=0, anew=True))["effect"]
        == (first["effect"])
    )
    assert 2 in ran


def test_all_live_features_equal_single_ones_and_go_on_where_they_were(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablate, "KEPT_AT_ONCE", 4)
    live = np.flatnonzero(counts(trained) > 0).tolist()
    measured: list[int] = []
    whole = Ablator.effects

    def effects(self: Ablator, features: Any, **values: Any) -> Any:
        if len(measured) == 8:
            control.cancel()
        measured.extend(features)
        return whole(self, features, **values)

    monkeypatch.setattr(Ablator, "effects", effects)
    control = JobControl()
    with pytest.raises(Cancelled):
        trained.run_now("ablate", quick(), RecordingReporter(), control)
    row = lookup.sae(trained, "last")
    found = feature_pages.feature_set(trained, row)
    key = ablate.feature_analyses.key_hash(
        row, found, ablate.EFFECT, ablate.VERSION, ablate.effect_parameters(quick())
    )
    kept = analyses.find_all(trained.db(), row.id, ablate.EFFECT, key)
    assert sorted(kept) == live[:8]
    assert values_of(trained) == {}
    measured.append(-1)  # no further cancel
    told = run(trained, "ablate", quick())
    assert measured[-len(live[8:]) :] == live[8:]
    table = values_of(trained)
    assert sorted(table) == live
    assert told["features"] == len(live)
    feature = int(counts(trained).argmax())
    page = run(trained, "ablate", quick(feature=feature))
    top, place = page["effect"]["top"], page["controls"]["delta_ce"]
    wanted = (top["delta_ce"], top["kl"], place["percentile"], place["p"])
    assert table[feature] == pytest.approx(wanted, rel=1e-4)


def test_measuring_all_again_measures_all(trained: Studio) -> None:
    run(trained, "ablate", quick())
    before = trained.db().execute("SELECT MAX(updated_at) FROM feature_analyses").fetchone()[0]
    run(trained, "ablate", quick(anew=True))
    first = trained.db().execute("SELECT MIN(updated_at) FROM feature_analyses").fetchone()[0]
    assert first > before


def test_what_cannot_be_ablated_is_a_sentence(trained: Studio) -> None:
    dead = np.flatnonzero(counts(trained) == 0)
    row = lookup.sae(trained, "last")
    with pytest.raises(StudioError, match="does not exist"):
        trained.submit("ablate", quick(feature=row.n_latents))
    if dead.size:
        with pytest.raises(StudioError, match="never fired"):
            trained.submit("ablate", quick(feature=int(dead[0])))
    with pytest.raises(StudioError, match="Only the mode mean"):
        trained.submit("ablate", quick(mean_of="active"))
    SAES.update(trained.db(), row.id, layer=None)
    with pytest.raises(StudioError, match="does not say which layer"):
        trained.submit("ablate", quick(feature=0))


def test_the_plan_of_all_tells_what_is_left_and_a_measured_time(trained: Studio) -> None:
    live = int((counts(trained) > 0).sum())
    before = ablation_plan.plan(trained, quick())
    assert before[:4] == (live, live, None, None)
    assert before.sentence.endswith("unknown until it runs.")
    run(trained, "ablate", quick())
    after = ablation_plan.plan(trained, quick())
    assert (after.live, after.missing, after.seconds) == (live, 0, 0.0)
    assert after.rate is not None
    again = ablation_plan.plan(trained, quick(anew=True))
    assert again.missing == live
    assert again.seconds == pytest.approx(live / after.rate)
    assert ablation_plan.plan(trained, quick(windows=3)).seconds is None


def test_the_measurement_tells_time_and_floor(
    trained: Studio, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--home", str(trained.paths.home), "--json", "bench", "features"]
    assert main([*words, "--only", "ablation", "--rounds", "2"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["measurements"]
    assert row["features"] == 2
    assert 0 < row["strongest_2_windows_ms"] <= row["own_ms"]
    model = lookup.model_of(trained, lookup.sae(trained, "last"))
    loaded = trained.models.get(model, trained.paths.absolute(model.path))
    blocks = [p for b in loaded.blocks.modules for p in b.parameters() if p.ndim == 2]
    clean = 8 * row["window_tokens"] * 2 * sum(p.numel() for p in blocks)
    most = 3 * clean + 3 * 8 * row["window_tokens"] * 2 * loaded.facts.vocab_size * (
        loaded.hidden_dim
    )
    assert clean < row["gflop"] * 1e9 < most
    assert row["own_over_floor"] > 0


def test_the_command(trained: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    feature = int(counts(trained).argmax())
    words = ["--home", str(trained.paths.home), "--json", "features", "ablate", "last"]
    words += ["--windows", "2", "--window-tokens", "8"]
    assert main([*words, "--feature", str(feature), "--mode", "resample"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["feature"] == feature
    assert last["mode"] == "resample"
    assert main([*words, "--feature", "99999"]) == 1
    assert "does not exist" in capsys.readouterr().out


def test_figures_read_as_they_are() -> None:
    by_key = ablation_figures.BY_KEY
    assert ablation_figures.number(by_key["delta_ce"], 0.01234) == "+0.0123"
    assert ablation_figures.number(by_key["delta_ce"], -0.0000012) == "-1.2e-06"
    assert ablation_figures.number(by_key["kl"], 0.0) == "0.0000"
    assert ablation_figures.number(by_key["kl"], None) == "—"
