"""The share of documents that a training holds out stays with its SAE."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from mistudio.core.comparison_configs import CompareSaesConfig, SurvivalConfig
from mistudio.core.config import to_dict, violations
from mistudio.core.configs import EvaluateConfig
from mistudio.core.errors import StudioError
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.tabs.datasets.titles import facts_of
from mistudio.jobs import training_starts
from mistudio.jobs.runner import Studio
from mistudio.jobs.tokenize import share_of
from mistudio.jobs.training_source import vector_source
from mistudio.ml.data.parts import document_hash
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.store import trainings
from mistudio.store.records import ActivationSetRow, SaeRow, TokenizationRow
from mistudio.store.tables import SAES, TOKENIZATIONS, TRAININGS
from tests.helpers.studio import run, tiny_training

SHARE = 20.0


@pytest.fixture
def kept(trained: Studio) -> SaeRow:
    """An SAE whose training held a fifth of the text out, beside one that held out 5 %."""
    result = run(trained, "train", tiny_training(held_out_share=SHARE))
    return SAES.get(trained.db(), str(result["sae"]))


def text_of(studio: Studio, sae: SaeRow) -> TokenizationRow:
    found = trainings.tokenization_of(studio.db(), sae.training_id or "")
    return TOKENIZATIONS.get(studio.db(), found or "")


def documents(studio: Studio, text: TokenizationRow, part: str) -> set[float]:
    """Where the hashes of a part's documents lie between 0 and 1."""
    store = TokenStore(studio.paths.absolute(text.path or ""))
    texts = TextStore(studio.paths.dataset(text.dataset_id))
    rows = store.rows(part)
    numbers = np.unique(np.asarray(store.docs[rows.start : rows.stop]))
    return {document_hash(texts.text(int(n))) / 2**64 for n in numbers if n >= 0}


def test_what_is_held_out_goes_by_the_share(trained: Studio, kept: SaeRow) -> None:
    text = text_of(trained, kept)
    assert (kept.config or {})["held_out_share"] == SHARE
    assert share_of(text) == SHARE
    assert "20 % held out" in facts_of(text)
    evaluation, train = (documents(trained, text, part) for part in ("evaluation", "train"))
    assert max(evaluation) < 0.2
    assert min(documents(trained, text, "calibration")) >= 0.2
    assert min(train) >= 0.4
    assert len(evaluation) > 20
    (usual,) = (row for row in TOKENIZATIONS.select(trained.db()) if row.id != text.id)
    assert share_of(usual) == 5
    assert documents(trained, usual, "evaluation") < evaluation
    assert "held out" not in facts_of(usual)


def test_later_figures_read_what_the_sae_did_not_see(trained: Studio, kept: SaeRow) -> None:
    (first,) = (row for row in SAES.select(trained.db()) if row.id != kept.id)
    own, usual = text_of(trained, kept).id, text_of(trained, first).id
    for dataset in ("", "stories", usual):
        config = EvaluateConfig(sae=kept.id, dataset=dataset, tokens=1024)
        assert run(trained, "evaluate", config)["tokenization"] == own
    for dataset in ("", "stories", own):
        config = EvaluateConfig(sae=first.id, dataset=dataset, tokens=1024)
        assert run(trained, "evaluate", config)["tokenization"] == usual
    survival = SurvivalConfig(sae=kept.id, dataset="stories", format="bf16", tokens=1024)
    assert run(trained, "survival", survival)["tokenization"] == own
    # what the smaller share holds out, the larger one does too
    both = CompareSaesConfig(sae=kept.id, other=first.id, dataset="stories", tokens=1024)
    assert run(trained, "compare_saes", both)["tokenization"] == usual
    assert len(TOKENIZATIONS.select(trained.db())) == 2, "no text is tokenised twice"


def test_a_named_tokenisation_is_made_again_with_the_share(trained: Studio) -> None:
    (usual,) = TOKENIZATIONS.select(trained.db())
    config = tiny_training(dataset=usual.id, held_out_share=10.0, tokens=640)
    sae = SAES.get(trained.db(), str(run(trained, "train", config)["sae"]))
    text = text_of(trained, sae)
    assert text.id != usual.id
    assert {**text.settings, "held_out_share": 5.0} == usual.settings
    # the run that goes on, and one more, read the same
    again = SAES.get(trained.db(), str(run(trained, "train", config)["sae"]))
    assert text_of(trained, again).id == text.id
    with pytest.raises(StudioError, match="Held-out share cannot change in a continued run"):
        training_starts.continued(trained, sae.training_id or "", held_out_share=5.0, tokens=6400)


def test_stored_activations_keep_the_share_of_their_text(trained: Studio) -> None:
    extract = ExtractConfig(model="tiny", dataset="stories", layers="1", tokens=2048)
    stored = run(trained, "extract_activations", extract)
    config = tiny_training(activations=str(stored["activations"]), tokens=640)
    assert run(trained, "train", config)["sae"]
    with pytest.raises(StudioError, match="of which 5 % are held out; set Held-out share to that"):
        run(trained, "train", replace(config, held_out_share=10.0))


def test_vectors_without_text_are_held_out_by_it() -> None:
    row = cast(ActivationSetRow, type("Row", (), {"n_tokens": 1000})())
    for share, each in ((5.0, 25), (30.0, 150)):
        table = vector_source(row, TrainConfig(activations="a", held_out_share=share)).table
        assert [len(table.rows(part)) for part in ("evaluation", "calibration")] == [each, each]


def test_a_run_of_an_older_version_holds_out_the_usual_share(trained: Studio) -> None:
    (row,) = SAES.select(trained.db())
    older = {name: v for name, v in (row.config or {}).items() if name != "held_out_share"}
    SAES.update(trained.db(), row.id, config=older)
    (text,) = TOKENIZATIONS.select(trained.db())
    plain = {name: v for name, v in text.settings.items() if name != "held_out_share"}
    TOKENIZATIONS.update(trained.db(), text.id, settings=plain)
    config = EvaluateConfig(sae=row.id, dataset="stories", tokens=1024)
    assert run(trained, "evaluate", config)["tokenization"] == text.id
    training = TRAININGS.get(trained.db(), row.training_id or "")
    assert to_dict(TrainConfig())["held_out_share"] == training.config["held_out_share"] == 5.0


def test_a_share_that_cannot_be() -> None:
    for share in (0.5, 41.0):
        found = violations(tiny_training(held_out_share=share))
        assert [violation.field for violation in found] == ["held_out_share"]
