"""Positions that are skipped count in no figure, and keep their activation in patched passes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.nn import functional

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.listed_rows import with_listed
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.evaluate import evaluate
from mistudio.ml.evaluation.measure import TextPart
from mistudio.ml.evaluation.survival import store_reference
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

D, K, SKIPPED = 32, 6, (0, 5, 6, 31)


class Setup(NamedTuple):
    loaded: LoadedModel
    tokens: TokenStore
    sae: SparseAutoencoder


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    folder = tmp_path_factory.mktemp("listed")
    loaded = tiny_loaded(folder / "model")
    W = functional.normalize(torch.randn(64, D, generator=torch.Generator().manual_seed(4)), dim=1)
    sae = SparseAutoencoder(W.T.contiguous(), torch.zeros(64), W, torch.zeros(D), "topk", k=K)
    return Setup(loaded, write_tokens(folder / "data", STORIES, loaded.tokenizer, 32), sae)


def test_figures_are_those_of_the_other_positions(setup: Setup) -> None:
    loaded, tokens, sae = setup
    rows = np.array(tokens.rows("train"))
    ids = torch.from_numpy(tokens.ids[rows].astype(np.int64))
    content = tokens.mask[rows] == 0
    keep = content.copy()
    keep[:, list(SKIPPED)] = False
    x: list[torch.Tensor] = []

    def swap(_module: object, _given: object, output: object) -> object:
        plain = output[0] if isinstance(output, tuple) else output
        assert isinstance(plain, torch.Tensor)
        if not x:
            x.append(plain.clone())
            return None
        new = plain.clone()
        for row, position in zip(*np.nonzero(keep), strict=True):
            new[row, position] = sae.reconstruct(plain[row, position][None])[0]
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = loaded.model.model.layers[1].register_forward_hook(swap)
    with torch.inference_mode():
        clean, patched = (loaded.model(input_ids=ids, use_cache=False).logits for _ in range(2))
    handle.remove()
    scored = keep & np.concatenate([tokens.mask[rows][:, 1:] != 2, keep[:, :1] & False], axis=1)
    target = ids.roll(-1, 1)[scored]
    y = x[0][keep].double()
    h = y @ sae.W_enc_DF.double()
    h = h.clamp(min=0)
    h[h < h.topk(K, dim=1).values[:, -1:]] = 0
    lost = (y - h @ sae.W_dec_FO.double()).square().sum() / (y - y.mean(0)).square().sum()

    found = evaluate(
        sae, loaded, with_listed(tokens, SKIPPED), 1, "resid_post", norm_limit=None,
        max_tokens=10**6, part="train", report=SilentReporter(), control=JobControl(),
    )  # fmt: skip
    assert found["n"] == keep.sum()
    assert found["ce_n"] == scored.sum()
    assert found["dropped"]["listed"] == content.sum() - keep.sum() > 0
    assert found["ev"] == pytest.approx(1 - float(lost), rel=1e-5)
    for name, logits in (("ce_clean", clean), ("ce_sae", patched)):
        loss = functional.cross_entropy(logits[scored], target)
        assert found[name] == pytest.approx(float(loss), rel=1e-5), name


def test_the_survival_report_keeps_none_of_them(setup: Setup, tmp_path: Path) -> None:
    text = TextPart(with_listed(setup.tokens, SKIPPED), None, True, 10**6, 0, "train")
    capture = PairCapture(setup.loaded, 1, "resid_post", "resid_post")
    stored = store_reference(
        setup.sae, capture, text, tmp_path / "x", SilentReporter(), JobControl()
    )
    keep = setup.tokens.mask[np.array(setup.tokens.rows("train"))] == 0
    listed = keep[:, list(SKIPPED)].sum()
    keep[:, list(SKIPPED)] = False
    assert np.concatenate(stored.keeps).tolist() == keep.tolist()
    assert stored.dropped["listed"] == listed
