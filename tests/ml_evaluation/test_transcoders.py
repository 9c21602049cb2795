"""Transcoders are measured against what they are to give, and take its place in the model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.masking import keep_pair
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.compare import compare
from mistudio.ml.evaluation.evaluate import evaluate
from mistudio.ml.evaluation.language_model_loss import scored_positions
from mistudio.ml.evaluation.measure import TextPart
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.families import family_model
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

D, M, LAYER = 32, 80, 1


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> TokenStore:
    return write_tokens(tmp_path_factory.mktemp("data"), STORIES * 2, loaded.tokenizer, 32)


def made(encoder: str = "skip_transcoder", seed: int = 0) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return 0.2 * torch.randn(*shape, generator=generator)

    return SparseAutoencoder(
        random(D, M),
        random(M),
        torch.nn.functional.normalize(random(M, D), dim=1) * 0.1,
        random(D),
        "standard",
        apply_b_dec_to_input=False,
        W_skip_OD=random(D, D) if encoder == "skip_transcoder" else None,
        encoder=encoder,
    )


def measured(sae: SparseAutoencoder, loaded: LoadedModel, tokens: TokenStore, **more: Any) -> dict:
    settings = {"norm_limit": None, "max_tokens": 100_000, "part": "train", **more}
    return evaluate(
        sae, loaded, tokens, LAYER, "mlp_in", hook_out="mlp_out",
        report=SilentReporter(), control=JobControl(), **settings,
    )  # fmt: skip


def rows_of(tokens: TokenStore) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    rows = np.array(tokens.rows("train"))
    ids = torch.from_numpy(tokens.ids[rows].astype(np.int64))
    mask = np.asarray(tokens.mask[rows])
    return ids, torch.from_numpy(mask == 0), mask


def seen_by_the_mlp(loaded: LoadedModel, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of the MLP by a hook of the test's own."""
    seen: list[torch.Tensor] = []
    mlp = loaded.model.model.layers[LAYER].mlp
    handle = mlp.register_forward_hook(lambda _m, x, y: seen.extend([x[0].clone(), y.clone()]))
    with torch.inference_mode():
        loaded.model(input_ids=ids)
    handle.remove()
    return seen[0], seen[1]


@pytest.mark.parametrize("encoder", ["transcoder", "skip_transcoder"])
def test_figures_equal_brute_force(loaded: LoadedModel, tokens: TokenStore, encoder: str) -> None:
    sae = made(encoder)
    found = measured(sae, loaded, tokens)
    ids, keep, mask = rows_of(tokens)
    x_BSD, y_BSD = seen_by_the_mlp(loaded, ids)
    x, y = x_BSD[keep].double(), y_BSD[keep].double()
    f = torch.relu(x @ sae.W_enc_DF.double() + sae.b_enc_F.double())
    told = f @ sae.W_dec_FO.double() + sae.b_dec_O.double()
    if sae.W_skip_OD is not None:
        told = told + x @ sae.W_skip_OD.double().T
    fvu = (told - y).square().sum() / (y - y.mean(0)).square().sum()
    assert found["ev"] == pytest.approx(1 - fvu.item(), rel=1e-5)
    assert found["l0"] == pytest.approx((f > 0).sum(1).double().mean().item(), rel=1e-4)
    assert found["n"] == int(keep.sum())
    assert found["enc_dec_cos"] is None

    def patch(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        fresh = output.clone()
        fresh[keep] = sae.reconstruct(inputs[0][keep])  # from what the patched pass reads
        return fresh

    handle = loaded.model.model.layers[LAYER].mlp.register_forward_hook(patch)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids).logits
        handle.remove()
        clean = loaded.model(input_ids=ids).logits
    scored = scored_positions(keep, mask)
    target = ids.roll(-1, 1)[scored]
    for name, values in (("ce_sae", logits), ("ce_clean", clean)):
        loss = torch.nn.functional.cross_entropy(values[scored], target)
        assert found[name] == pytest.approx(loss.item(), rel=1e-5)
    assert abs(found["ce_sae"] - found["ce_clean"]) > 1e-5


def test_a_transcoder_that_computes_the_mlp_recovers_everything(
    loaded: LoadedModel, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlp = loaded.model.model.layers[LAYER].mlp
    monkeypatch.setattr(
        SparseAutoencoder, "decode_sparse", lambda _self, _codes, x: mlp(x).detach()
    )
    found = measured(made("transcoder"), loaded, tokens)
    assert found["ev"] == pytest.approx(1, abs=1e-6)
    assert found["ce_loss_score"] == pytest.approx(1, abs=1e-3)
    assert found["kl_div_zero"] > 0


def test_a_token_counts_only_if_both_sides_do(loaded: LoadedModel, tokens: TokenStore) -> None:
    ids, keep, _ = rows_of(tokens)
    x, y = seen_by_the_mlp(loaded, ids)
    limit_x = float(x[keep].norm(dim=1).quantile(0.9))
    limit_y = float(y[keep].norm(dim=1).quantile(0.8))
    both = keep & (x.norm(dim=2) <= limit_x) & (y.norm(dim=2) <= limit_y)
    found = measured(made(), loaded, tokens, norm_limit=limit_x, norm_limit_out=limit_y)
    assert found["n"] == int(both.sum())
    assert found["dropped"]["norm"] == int(keep.sum()) - int(both.sum())


def test_what_is_dropped_is_counted_once() -> None:
    x, y = torch.ones(1, 5, 2), torch.ones(1, 5, 3)
    mask = np.array([[2, 1, 0, 0, 0]])  # padding, special, three of text
    x[0, :3], y[0, 2:4] = torch.inf, torch.nan
    kept = keep_pair(x, y, mask, norm_limits=(None, None))
    assert kept.keep_BS.tolist() == [[False, False, False, False, True]]
    assert kept.dropped == {"padding": 1, "special": 1, "non_finite": 2, "norm": 0}
    y[0, 4] = 50.0
    kept = keep_pair(x, y, mask, norm_limits=(None, 10.0))
    assert kept.dropped == {"padding": 1, "special": 1, "non_finite": 2, "norm": 1}
    assert not kept.keep_BS.any()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "opt"])
def test_both_hooks_are_read_in_one_pass(family: str) -> None:
    loaded = family_model(family)
    ids = torch.tensor([[3, 5, 7, 9], [2, 4, 6, 8]])
    pair = PairCapture(loaded, 1, "mlp_in", "mlp_out")
    x, y = pair(ids)
    assert pair.is_pair
    assert torch.equal(x, Capture(loaded, 1, "mlp_in")(ids))
    assert torch.equal(y, Capture(loaded, 1, "mlp_out")(ids))
    assert (pair.d_in, pair.d_out) == (x.shape[-1], y.shape[-1])
    same = PairCapture(loaded, 1, "resid_post", "resid_post")
    x, y = same(ids)
    assert x is y
    assert not same.is_pair


def test_what_does_not_fit_is_a_sentence(loaded: LoadedModel, tokens: TokenStore) -> None:
    sae = made("transcoder")
    narrow = replace(sae, W_dec_FO=sae.W_dec_FO[:, :5], b_dec_O=sae.b_dec_O[:5])
    with pytest.raises(Mismatch, match="gives activations of width 5"):
        measured(narrow, loaded, tokens)
    with pytest.raises(Mismatch, match="Only a transcoder"):
        measured(replace(sae, encoder="sae"), loaded, tokens)


def test_two_transcoders_are_compared(loaded: LoadedModel, tokens: TokenStore) -> None:
    text = TextPart(tokens, None, True, 100_000, part="train")
    pair = made(seed=0), made(seed=1)
    found = compare(*pair, loaded, LAYER, "mlp_in", text, SilentReporter(), JobControl(), "mlp_out")
    alone = [measured(sae, loaded, tokens) for sae in pair]
    for name in ("ev", "ce_loss_score", "l0"):
        line = found["metrics"][name]
        assert line["a"] == pytest.approx(alone[0][name], rel=1e-6)
        assert line["b"] == pytest.approx(alone[1][name], rel=1e-6)
