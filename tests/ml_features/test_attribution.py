"""Attribution against its definitions by hand, in several families."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.activations.capture import Capture
from mistudio.ml.features import attribution, text_effects
from mistudio.ml.features.own_text import FiredText, TextTokens
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.hooks import hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.ml_features.test_rerun import whole_pass
from tests.ml_steering.conftest import LAYER, loaded_model, random_sae

IDS = np.array([5, 17, 260, 301, 44, 290, 275, 33, 120], np.int64)
POSITION, TOKEN = 6, 77


def fired_by(loaded: LoadedModel, sae: SparseAutoencoder, hook: str = "resid_post") -> FiredText:
    codes = sae.encode_sparse(Capture(loaded, LAYER, hook)(torch.from_numpy(IDS)[None])[0].clone())
    tokens = TextTokens(IDS, np.zeros(len(IDS), bool), [])
    return FiredText(
        tokens,
        np.ones(len(IDS), bool),
        codes.row_splits.numpy(),
        codes.ids.numpy(),
        codes.values.double().numpy(),
        np.full(len(codes.ids), np.nan),
    )


def small(sae: SparseAutoencoder, size: float) -> SparseAutoencoder:
    """The same activations with shorter directions, so that the model is nearly linear in them."""
    return dataclasses.replace(sae, W_dec_FO=sae.W_dec_FO * size)


def at_position(fired: FiredText) -> tuple[np.ndarray, np.ndarray]:
    part = slice(fired.splits[POSITION], fired.splits[POSITION + 1])
    return fired.features[part], fired.values[part]


def by_hand(loaded: LoadedModel, stream_D: torch.Tensor) -> torch.Tensor:
    """log p of every next token from a final stream: the model's own norm, matrix and softcap."""
    norm, output = loaded.blocks.final_norm, loaded.blocks.unembedding
    assert norm is not None
    assert output is not None
    logits_V = output(norm(stream_D))
    cap = getattr(loaded.model.config, "final_logit_softcapping", None)
    if cap:
        logits_V = cap * torch.tanh(logits_V / cap)
    return logits_V.log_softmax(-1)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox"])
@torch.no_grad()
def test_direct_effects_go_through_norm_and_matrix_again(family: str) -> None:
    loaded, sae = loaded_model(family), random_sae()
    fired = fired_by(loaded, sae)
    features_A, values_A = at_position(fired)
    end = attribution.ending(loaded, IDS, POSITION)
    torch.testing.assert_close(end.log_p_V, by_hand(loaded, end.stream_D), rtol=1e-4, atol=1e-4)
    got = attribution.direct_effects(loaded, sae, end, features_A, values_A, TOKEN)
    assert len(features_A) > 5
    for feature, value, effect in zip(features_A, values_A, got.effect_A, strict=True):
        without_D = end.stream_D - float(value) * sae.W_dec_FO[feature]
        wanted = end.log_p_V[TOKEN] - by_hand(loaded, without_D)[TOKEN]
        assert effect == pytest.approx(float(wanted), rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox"])
@torch.no_grad()
def test_effects_on_the_true_next_token_of_every_entry(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, sae = loaded_model(family), random_sae()
    fired = fired_by(loaded, sae)
    monkeypatch.setattr(text_effects, "CHUNK_LOGITS", 3 * sae.n_latents * 9)  # several chunks
    asked: list[float] = []
    got_N = text_effects.effects_on_next(loaded, sae, fired, check=asked.append)
    token_N = fired.token_of()
    assert np.isnan(got_N[token_N == len(IDS) - 1]).all()  # nothing follows it
    assert np.isfinite(got_N[token_N < len(IDS) - 1]).all()
    assert len(asked) > 1
    assert asked == sorted(asked)
    for entry in range(0, len(token_N), 7):
        token = int(token_N[entry])
        if token == len(IDS) - 1:
            continue
        end, following = attribution.ending(loaded, IDS, token), int(IDS[token + 1])
        without_D = end.stream_D - float(fired.values[entry]) * sae.W_dec_FO[fired.features[entry]]
        wanted = end.log_p_V[following] - by_hand(loaded, without_D)[following]
        assert got_N[entry] == pytest.approx(float(wanted), rel=2e-3, abs=3e-5)
    chosen = int(fired.features[0])
    alone_N = text_effects.effects_on_next(loaded, sae, fired, chosen)
    assert (np.isfinite(alone_N) == (np.isfinite(got_N) & (fired.features == chosen))).all()
    at = np.isfinite(alone_N)
    np.testing.assert_allclose(alone_N[at], got_N[at], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "neox"])
@torch.no_grad()
def test_lens_logits_add_up_to_the_logit(family: str) -> None:
    """With sigma frozen the lens is linear: the whole stream's part is the logit before any cap."""
    loaded, sae = loaded_model(family), random_sae()
    end = attribution.ending(loaded, IDS, POSITION)
    W_dec_FO = sae.W_dec_FO.clone()
    W_dec_FO[0] = end.stream_D  # a feature that is the whole stream, at activation 1
    W_dec_FO[1] = 0.25 * end.stream_D + 7.0  # a constant shift is nothing to a LayerNorm
    whole = dataclasses.replace(sae, W_dec_FO=W_dec_FO)
    got = attribution.direct_effects(loaded, whole, end, np.array([0, 1]), np.array([1.0, 2.0]), 77)
    norm, output = loaded.blocks.final_norm, loaded.blocks.unembedding
    assert norm is not None
    normed_D = norm(end.stream_D)
    bias_D = getattr(norm, "bias", None)
    wanted = float((normed_D if bias_D is None else normed_D - bias_D) @ output.weight[77])  # type: ignore[union-attr]
    assert got.logit_A[0] == pytest.approx(wanted, rel=1e-3, abs=1e-4)
    if bias_D is not None:
        assert got.logit_A[1] == pytest.approx(0.5 * wanted, rel=1e-3, abs=1e-3)
    else:
        assert got.logit_A[1] != pytest.approx(0.5 * wanted, rel=1e-2)


@pytest.mark.parametrize(
    ("family", "hook"),
    [
        *itertools.product(
            ("llama", "gpt2", "gemma2", "neox"), ("resid_post", "mlp_out", "attn_z", "resid_pre")
        ),
        *((family, "resid_mid") for family in ("llama", "gpt2", "gemma2")),
    ],
)
def test_first_order_is_the_slope_of_exact_ablation(family: str, hook: str) -> None:
    loaded, sae = loaded_model(family), random_sae()
    fired = fired_by(loaded, sae, hook)
    place = hook_place(loaded, LAYER, hook)
    grad_TO = attribution.hook_gradient(loaded, place, IDS, POSITION, TOKEN)
    assert (grad_TO[POSITION + 1 :] == 0).all()  # attention is causal
    assert (grad_TO[: POSITION + 1].norm(dim=1) > 0).all()
    short = small(sae, 1e-2)
    features_A, first_A = attribution.first_order(short, fired, grad_TO)
    assert features_A.tolist() == sorted(set(fired.features.tolist()))
    ids_BT = torch.from_numpy(IDS)[None]

    def loss_with(delta: torch.Tensor) -> float:
        logits = whole_pass(loaded, LAYER, hook, ids_BT, delta)
        return float(-logits[0, POSITION].double().log_softmax(-1)[TOKEN])

    clean = loss_with(torch.zeros(1))
    exact = np.array(
        [
            loss_with(-torch.from_numpy(fired.value_of(f)).float()[:, None] * short.W_dec_FO[f])
            - clean
            for f in features_A
        ]
    )
    ours = attribution.exact_changes(
        Rerun(loaded, LAYER, hook, most_tokens=9),
        short,
        fired,
        features_A.tolist(),
        POSITION,
        TOKEN,
    )
    np.testing.assert_allclose(ours, exact, rtol=1e-3, atol=5e-6)
    r = attribution.agreement(first_A, exact)
    assert r is not None
    assert r > 0.99
    np.testing.assert_allclose(first_A, exact, atol=0.1 * np.abs(exact).max())
    assert all(not p.requires_grad or p.grad is None for p in loaded.model.parameters())


def test_what_has_no_backward_pass_is_refused() -> None:
    loaded = dataclasses.replace(loaded_model("llama"), format="nf4")
    place = hook_place(loaded, LAYER, "resid_post")
    with pytest.raises(Unsupported, match="NF4 kernels"):
        attribution.hook_gradient(loaded, place, IDS, POSITION, TOKEN)


def test_agreement_needs_something_to_agree_on() -> None:
    rising = np.array([1.0, 2.0, 3.0])
    assert attribution.agreement(rising, 2 * rising) == pytest.approx(1)
    assert attribution.agreement(rising[:2], rising[:2]) is None
    assert attribution.agreement(rising, np.zeros(3)) is None
    chosen = attribution.sample(np.arange(50), 8, 0)
    assert len(set(chosen.tolist())) == 8
    assert (chosen == attribution.sample(np.arange(50), 8, 0)).all()
