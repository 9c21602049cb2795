"""Labels as jobs: after every harvest, by rules, by a model; kept as they are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from mistudio.core.configs import HarvestConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, InvalidInput, NotFound
from mistudio.core.events import RecordingReporter
from mistudio.core.label_configs import LabelConfig
from mistudio.jobs import feature_pages, label_by_model, label_plan, lookup
from mistudio.jobs.runner import Studio
from mistudio.ml.features.labels.prompts import Prompt
from mistudio.store import feature_marks, labels
from mistudio.store.features import FeatureFilter
from mistudio.store.tables import FEATURE_SETS, JOBS
from tests.helpers.studio import run


def chosen(studio: Studio) -> dict[int, tuple[str | None, str | None, float | None]]:
    sae = lookup.sae(studio, "last")
    rows = feature_pages.find(studio, sae, FeatureFilter())
    return {row.index: (row.label, row.label_source, row.label_score) for row in rows}


class Writer:
    """Answers at once; stops the job at the feature `leave_at`."""

    name = "stub"

    def __init__(self, leave_at: int = -1) -> None:
        self.named = 0
        self._leave_at = leave_at

    def answer(self, prompt: Prompt, check: Any) -> str:
        if self.named == self._leave_at:
            raise Cancelled
        self.named += 1
        return f"name {self.named}"

    def fits(self, prompts: Sequence[Prompt], check: Any) -> list[float]:
        return [1.0 if i < len(prompts) / 2 else 0.0 for i in range(len(prompts))]


def test_a_harvest_labels_its_features(trained: Studio) -> None:
    made = chosen(trained)
    assert made
    assert {source for _, source, _ in made.values()} == {"auto"}
    assert all(text for text, _, _ in made.values())
    found = FEATURE_SETS.named(trained.db(), "last")
    shown = labels.interpretability(trained.db(), found)
    assert shown.labelled == shown.live == len(made)
    (job,) = JOBS.select(trained.db(), "kind = 'harvest'")
    assert job.result is not None
    assert job.result["labelled"] == len(made)


def test_a_harvest_without_labels_and_rules_afterwards(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    index = next(iter(chosen(trained)))
    feature_marks.set_label(trained.db(), sae.id, index, "my own")
    labels.replace_auto(trained.db(), sae.id, [])
    run(trained, "harvest", HarvestConfig(rows=64, context=32, labels=False))
    assert {text for i, (text, _, _) in chosen(trained).items() if i != index} == {None}
    result = run(trained, "label_features", LabelConfig())
    made = chosen(trained)
    assert made[index][:2] == ("my own", "user")
    assert all(source == "auto" for i, (_, source, _) in made.items() if i != index)
    assert result["labelled"] == result["live"]
    assert sum(result["counts"]) == result["scored"]
    assert result["share"] == pytest.approx(result["above"] / result["live"])


def test_rules_without_the_model_say_so(trained: Studio) -> None:
    """Only the classes that directions promote need it."""
    from mistudio.store.tables import MODELS

    sae = lookup.sae(trained, "last")
    MODELS.delete(trained.db(), sae.model_id or "")
    reporter = RecordingReporter()
    control = JobControl()
    result = trained.run_now("label_features", LabelConfig(), reporter, control)
    assert result["labelled"] == result["live"]
    notes = [event.values["sentence"] for event in reporter.events if event.kind == "note"]
    assert any("promoted classes" in note for note in notes)


def test_labels_of_a_model_are_kept_as_they_are_made(
    trained: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(leave_at=2)
    monkeypatch.setattr(label_by_model, "_writer", lambda *_: writer)
    monkeypatch.setattr(label_plan, "writer", lambda *_: writer.name)
    wanted = tuple(str(index) for index in list(chosen(trained))[:4])
    config = LabelConfig(method="model", feature=wanted, embedding=False)
    assert len(label_plan.plan(trained, config).wanted) == 4
    with pytest.raises(Cancelled):
        run(trained, "label_features", config)
    by_model = {i for i, (_, source, _) in chosen(trained).items() if source == "model"}
    assert len(by_model) == 2
    assert len(label_plan.plan(trained, config).wanted) == 2, "a second run goes on behind them"
    writer = Writer()
    result = run(trained, "label_features", config)
    assert result["labelled"] == writer.named == 2
    assert result["seconds_per_feature"] > 0
    assert "measured" in label_plan.plan(trained, config).sentence
    sae = lookup.sae(trained, "last")
    (first, *others) = labels.labels_of(trained.db(), sae.id, int(wanted[0]))
    assert (first.source, first.method, first.model) == ("model", "examples", "stub")
    assert first.prompt["user"].startswith("Texts, each")
    assert {label.source for label in others} == {"auto"}


def test_the_tiny_model_labels_a_feature(trained: Studio) -> None:
    sae = lookup.sae(trained, "last")
    frequent = next(iter(chosen(trained)))
    config = LabelConfig(method="model", feature=(str(frequent),), fuzzing=True, embedding=False)
    result = run(trained, "label_features", config)
    assert result["labelled"] == 1
    label = labels.labels_of(trained.db(), sae.id, frequent)[0]
    assert label.source == "model"
    assert label.text
    if label.score is not None:
        assert set(label.scores) == {"detection", "fuzzing"}
        assert label.score_n == sum(
            label.scores["detection"][n] for n in ("positives", "negatives")
        )


def test_what_cannot_be_labelled_is_refused(trained: Studio) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        trained.submit("label_features", LabelConfig(method="model", feature=("99999",)))
    with pytest.raises(NotFound, match="no model"):
        trained.submit("label_features", LabelConfig(method="model", model="none"))
    with pytest.raises(InvalidInput, match="no number"):
        trained.submit("label_features", LabelConfig(method="model", feature=("x",)))
    assert JOBS.select(trained.db(), "kind = 'label_features'") == []
