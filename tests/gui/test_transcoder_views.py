"""Transcoders in the Training tab: the form's fields, the library's rows, details and exports."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mistudio.core.config import to_dict
from mistudio.core.configs import SAE_FORMATS
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, TRANSCODER_ARCHITECTURES
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.sources import sae_title
from mistudio.gui.tabs.training import TrainingTab
from mistudio.gui.tabs.training.evaluation_pane import EvaluationPane
from mistudio.gui.tabs.training.new_training import NewTraining
from mistudio.gui.tabs.training.sae_details import facts
from mistudio.gui.tabs.training.sae_forms import export_form, formats_for
from mistudio.gui.tabs.training.sae_rows import COLUMNS, sae_ids
from mistudio.store.records import SaeRow
from tests.gui.training_world import World, add_sae, add_training, add_world

TRANSCODER = {
    "encoder_type": "skip_transcoder",
    "architecture": "jumprelu",
    "config": {"architecture": "batch_topk"},
    "hook_in": "mlp_in",
    "hook_out": "mlp_out",
}


@pytest.fixture
def world(services: Services) -> World:
    return add_world(services.studio.db())


@pytest.fixture
def tab(qtbot: Any, services: Services, window_stub: Any, world: World) -> TrainingTab:
    made = TrainingTab(services)
    qtbot.addWidget(made)
    made.resize(1240, 640)
    made.show()
    qtbot.waitUntil(services.query.is_idle)
    return made


def shown_fields(form: NewTraining) -> set[str]:
    return {name for name, field in form.form.fields.items() if not field.isHidden()}


def choose(form: NewTraining, **values: str) -> None:
    for name, value in values.items():
        form.form.fields[name].editor.set_value(value)


def offered(form: NewTraining) -> list[str]:
    combo = form.form.architecture.combo
    return [str(combo.itemData(i)) for i in range(combo.count())]


def test_the_form_shows_the_hooks_of_the_encoder(tab: TrainingTab, world: World) -> None:
    form = tab.runs.form
    assert "hooks" in shown_fields(form)
    assert not {"hook_in", "hook_out"} & shown_fields(form)
    choose(form, encoder="transcoder")
    assert {"hook_in", "hook_out"} <= shown_fields(form)
    assert "hooks" not in shown_fields(form)
    config = form.form.values()
    assert (config.encoder, config.hook_read, config.hook_written) == (
        "transcoder", "mlp_in", "mlp_out",
    )  # fmt: skip
    choose(form, encoder="sae")
    assert "hooks" in shown_fields(form)


def test_only_the_architectures_of_the_encoder_are_offered(tab: TrainingTab) -> None:
    form = tab.runs.form
    assert offered(form) == list(ARCHITECTURES)
    choose(form, architecture="gated", encoder="transcoder")
    assert offered(form) == list(TRANSCODER_ARCHITECTURES)
    assert form.form.values().architecture == "batch_topk"
    choose(form, encoder="sae")
    assert offered(form) == list(ARCHITECTURES)


def test_equal_hooks_of_a_skip_transcoder_are_warned_of(tab: TrainingTab, world: World) -> None:
    form = tab.runs.form
    form.dataset.set_value(world.tokenization)
    choose(form, encoder="skip_transcoder")
    assert form.warning.isHidden()
    choose(form, hook_in="mlp_out")
    assert not form.warning.isHidden()
    assert "skip connection alone can copy" in form.warning.text()
    assert form.start_button.isEnabled()  # a warning, no refusal
    choose(form, hook_in="resid_post")
    assert form.warning.isHidden()
    assert "computed before" in form.form.fields["hook_out"].problem.text()
    assert not form.start_button.isEnabled()


def test_the_size_counts_the_skip(tab: TrainingTab, world: World) -> None:
    form = tab.runs.form
    form.form.fields["width"].editor.set_value(512)
    choose(form, encoder="skip_transcoder")
    # 4 bytes × (2 × 512 × 64 weights + 64 × 64 of the skip + 64 + 2 × 512 others)
    assert "estimated SAE size 282.9 kB" in form.summary.text()


def test_the_library_tells_the_encoder_and_both_hooks(services: Services, world: World) -> None:
    db = services.studio.db()
    sae = add_sae(db, world, "plain", hook_out="resid_post")
    transcoder = add_sae(db, world, "trans", **TRANSCODER)
    texts = {c.title: c.show for c in COLUMNS}
    assert texts["Architecture"](transcoder) == "Skip transcoder · BatchTopK"
    assert texts["Layer.hook"](transcoder) == "L3.mlp_in→mlp_out"
    assert texts["Architecture"](sae) == "TopK"
    assert texts["Layer.hook"](sae) == "L3.resid_post"
    assert sae_ids(db, "skip transcoder", "hook", False) == [transcoder.id]
    assert sae_ids(db, "", "architecture", True) == [sae.id, transcoder.id]
    assert sae_title(transcoder).startswith("batch topk skip transcoder · gpt-tiny · 3.mlp_in → ")
    assert sae_title(sae).startswith("topk · gpt-tiny · 3.resid_post · ")
    told = dict(facts(transcoder, "folder"))
    assert told["Encoder type"] == "Skip transcoder"
    assert told["Layer and hook"] == "L3.mlp_in → mlp_out"
    assert told["Width"] == "64 → 64"
    assert dict(facts(sae, "folder"))["Encoder type"] == "Sparse autoencoder"


def test_a_run_card_tells_them_too(
    qtbot: Any, services: Services, tab: TrainingTab, world: World
) -> None:
    config = TrainConfig(model="m", dataset="d", encoder="transcoder", width=256, k=8)
    training, _ = add_training(
        services.studio.db(), world, "completed", config=to_dict(config),
        encoder_type="transcoder", hook="mlp_in",
    )  # fmt: skip
    services.publisher.publish("trainings")
    qtbot.waitUntil(lambda: training.id in tab.runs.list.cards)
    card = tab.runs.list.cards[training.id]
    assert "BatchTopK transcoder · L3.mlp_in → mlp_out · 256 latents" in card.subtitle.text()


@pytest.mark.parametrize(
    ("values", "formats"),
    [
        ({}, ["saelens", "dictionary_learning", "sparsify"]),
        ({"architecture": "jumprelu"}, ["saelens", "dictionary_learning"]),
        ({"hook_in": "attn_z"}, ["saelens", "dictionary_learning"]),
        ({"hook_in": "resid_pre"}, ["saelens", "dictionary_learning"]),
        ({"hook_in": "resid_mid"}, ["saelens", "dictionary_learning"]),
        (TRANSCODER, ["saelens", "circuit_tracer"]),
        ({**TRANSCODER, "architecture": "topk"}, ["sparsify"]),
        ({"architecture": "groupmax"}, ["sparsify"]),
        ({**TRANSCODER, "architecture": "groupmax"}, ["sparsify"]),
        ({"architecture": "matching_pursuit"}, ["saelens"]),
        ({"architecture": "temporal"}, ["saelens"]),
        ({**TRANSCODER, "d_out": 32}, ["saelens"]),
    ],
)
def test_only_formats_that_hold_it_are_offered(
    services: Services, world: World, values: dict[str, Any], formats: list[str]
) -> None:
    sae = add_sae(services.studio.db(), world, "one", **values)
    assert formats_for(sae) == formats
    assert set(formats) <= set(SAE_FORMATS)


def test_other_layers_are_asked_for_where_a_set_is_written(
    services: Services, tab: TrainingTab, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        services.studio, "submit", lambda _kind, config, title="": sent.append(config) or "job"
    )
    sae: SaeRow = add_sae(services.studio.db(), world, "one", **cast("dict[str, Any]", TRANSCODER))
    dialog = export_form(services, sae, tab)
    assert dialog.form.fields["others"].isHidden()
    dialog.form.fields["format"].editor.set_value("circuit_tracer")
    assert not dialog.form.fields["others"].isHidden()
    dialog.form.fields["others"].editor.set_value(("sae_2", "sae_3"))
    dialog.start()
    assert (sent[0].format, sent[0].others) == ("circuit_tracer", ("sae_2", "sae_3"))


def test_a_sum_over_layers_is_not_measured(qtbot: Any, services: Services, world: World) -> None:
    told = {"cross_layer": True, "output_layers": 23}
    row = add_sae(services.studio.db(), world, "across", **{**TRANSCODER, "config": told})
    pane = EvaluationPane(services)
    qtbot.addWidget(pane)
    pane.show()
    pane.show_sae(row)
    assert pane.empty.text().startswith("It writes into several layers")
    assert not pane.evaluate_button.isVisible()
    assert not pane.other_button.isVisible()
    known = dict(facts(row, ""))
    assert "what a latent writes into 23 layers is added up" in known["Read as"]
    assert known["Architecture"] == "jumprelu"
    assert formats_for(row) == ["saelens"]
    pane.show_sae(add_sae(services.studio.db(), world, "inside", **TRANSCODER))
    assert pane.evaluate_button.isVisible()
