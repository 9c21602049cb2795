"""Evaluation on a tiny model: identities that must hold whatever the weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, InvalidInput, Mismatch
from mistudio.core.events import SilentReporter
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.evaluate import evaluate, spread_rows
from mistudio.ml.evaluation.language_model_loss import scored_positions
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

D = 32


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> TokenStore:
    return write_tokens(tmp_path_factory.mktemp("data"), STORIES * 2, loaded.tokenizer, 32)


def identity() -> SparseAutoencoder:
    """x = ReLU(x) - ReLU(-x): reconstructs anything."""
    W = torch.cat([torch.eye(D), -torch.eye(D)])
    return SparseAutoencoder(
        W.T.contiguous(), torch.zeros(2 * D), W, torch.zeros(D), "topk", k=2 * D
    )


def measured(
    sae: SparseAutoencoder, loaded: LoadedModel, tokens: TokenStore, **options: object
) -> dict:
    settings = {"norm_limit": None, "max_tokens": 100_000, "part": "train", **options}
    return evaluate(
        sae,
        loaded,
        tokens,
        1,
        "resid_post",
        report=SilentReporter(),
        control=JobControl(),
        **settings,  # type: ignore[arg-type]
    )


def test_a_perfect_sae_recovers_everything(loaded: LoadedModel, tokens: TokenStore) -> None:
    found = measured(identity(), loaded, tokens)
    assert found["ev"] == pytest.approx(1, abs=1e-9)
    assert found["ce_loss_score"] == pytest.approx(1, abs=1e-4)
    assert found["kl_div_score"] == pytest.approx(1, abs=1e-4)
    assert found["ce_gap"] == pytest.approx(0, abs=1e-4)
    assert found["enc_dec_cos"] == pytest.approx(1)
    assert found["l0"] == pytest.approx(D)
    assert found["kl_div_zero"] > 0.01


def test_an_sae_that_outputs_zero_scores_zero(loaded: LoadedModel, tokens: TokenStore) -> None:
    W = torch.nn.functional.normalize(torch.randn(8, D), dim=1)
    silent = SparseAutoencoder(
        W.T.contiguous(), torch.full((8,), -1e9), W, torch.zeros(D), "standard"
    )
    found = measured(silent, loaded, tokens, mask_special=False)
    assert found["ce_loss_score"] == pytest.approx(0, abs=1e-6)
    assert found["ce_sae"] == pytest.approx(found["ce_zero"], rel=1e-6)
    assert (found["l0"], found["never_fired"], found["ev_zero"]) == (0, 8, 0)


def test_clean_loss_is_the_models_own(loaded: LoadedModel, tokens: TokenStore) -> None:
    found = measured(identity(), loaded, tokens)
    rows = np.array(tokens.rows("train"))
    ids = torch.from_numpy(tokens.ids[rows].astype(np.int64))
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids).logits
    keep = torch.from_numpy(tokens.mask[rows] == 0)
    scored = scored_positions(keep, tokens.mask[rows])
    loss = torch.nn.functional.cross_entropy(logits[scored], ids.roll(-1, 1)[scored])
    assert found["ce_clean"] == pytest.approx(float(loss), rel=1e-5)
    assert found["ce_n"] == int(scored.sum())
    assert found["n"] == int(keep.sum())


def test_loss_budget_and_norm_cut(loaded: LoadedModel, tokens: TokenStore) -> None:
    whole = measured(identity(), loaded, tokens, with_loss=False)
    part = measured(identity(), loaded, tokens, max_loss_tokens=64)
    assert part["n"] == whole["n"]
    assert 0 < part["ce_n"] <= 64
    assert "ce_clean" not in whole
    with pytest.raises(InvalidInput, match="No held-out token"):
        measured(identity(), loaded, tokens, norm_limit=1e-9)


def test_wrong_width_and_cancel(loaded: LoadedModel, tokens: TokenStore) -> None:
    W = torch.eye(8)
    narrow = SparseAutoencoder(W, torch.zeros(8), W, torch.zeros(8), "standard")
    with pytest.raises(Mismatch, match="width 8"):
        measured(narrow, loaded, tokens)
    control = JobControl()
    control.cancel()
    with pytest.raises(Cancelled):
        evaluate(
            identity(),
            loaded,
            tokens,
            1,
            "resid_post",
            norm_limit=None,
            max_tokens=100,
            report=SilentReporter(),
            control=control,
        )


def test_rows_are_spread() -> None:
    assert spread_rows(range(10, 20), 4).tolist() == [10, 12, 15, 17]
    assert spread_rows(range(10, 13), 9).tolist() == [10, 11, 12]
