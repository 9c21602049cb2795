"""A text of one's own: values, order and quantiles as a dense encode gives them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.errors import InvalidInput
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.features import own_text
from mistudio.ml.features.feature_store import FeatureStore
from tests.ml_features.conftest import HOOK, LAYER, Workbench

TEXT = "The fox 🦊 went\n\tout to the mill, naïve and singing."


@pytest.fixture(scope="module")
def store(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder: Path = tmp_path_factory.mktemp("own_text") / "store"
    workbench.harvest(folder)
    return FeatureStore(folder)


def fired(bench: Workbench, store: FeatureStore) -> own_text.FiredText:
    tokens = own_text.tokenize(bench.loaded, TEXT, 100)
    return own_text.fire(PairCapture(bench.loaded, LAYER, HOOK, HOOK), bench.sae, store, tokens)


def dense(bench: Workbench, store: FeatureStore) -> np.ndarray:
    """Activations [T, F], zero at the start token and where the norm is extreme."""
    ids = [0, *bench.loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    x_SD = Capture(bench.loaded, LAYER, HOOK)(torch.tensor([ids]))[0]
    f_SF = bench.sae.encode(x_SD).numpy()
    f_SF[0] = 0
    f_SF[x_SD.norm(dim=1).numpy() > 10 * store.summary["median_norm"]] = 0
    return f_SF


def test_values_equal_a_dense_encode(workbench: Workbench, store: FeatureStore) -> None:
    found, f_SF = fired(workbench, store), dense(workbench, store)
    assert not found.keep_T[0]
    assert found.keep_T[1:].any()
    assert len(found.features) == (f_SF > 0).sum() > 20
    for feature in range(f_SF.shape[1]):
        np.testing.assert_allclose(found.value_of(feature), f_SF[:, feature], rtol=1e-5, atol=1e-6)


def test_pieces_are_the_text_and_share_whole_characters(workbench: Workbench) -> None:
    tokens = own_text.tokenize(workbench.loaded, TEXT, 100)
    assert "".join(text for text, _, _ in tokens.pieces) == TEXT
    assert tokens.pieces[0] == ("", 0, 1)
    ends = [end for _, _, end in tokens.pieces]
    assert [first for _, first, _ in tokens.pieces] == [0, *ends[:-1]]
    assert ends[-1] == len(tokens.ids_T)
    fox = next(p for p in tokens.pieces if "🦊" in p[0])
    assert fox[2] - fox[1] > 1  # several tokens make this character
    assert tokens.special_T.tolist() == [True] + [False] * (len(tokens.ids_T) - 1)


def test_the_strongest_of_a_token_and_of_the_text(
    workbench: Workbench, store: FeatureStore
) -> None:
    found, f_SF = fired(workbench, store), dense(workbench, store)
    token = int((f_SF > 0).sum(1).argmax())
    wanted = np.argsort(-f_SF[token], kind="stable")[:5]
    assert [feature for feature, _, _ in found.strongest(token, 5, "activation")] == wanted.tolist()
    for feature, value, quantile in found.strongest(token, 5, "quantile"):
        stored = store.entries(feature)[1]
        assert quantile == pytest.approx((stored <= value).mean())
    shares = [q for _, _, q in found.strongest(token, 40, "quantile")]
    assert shares == sorted(shares, reverse=True)
    by_max = own_text.firings(found, by="max", count=7)
    assert [f.feature for f in by_max] == np.argsort(-f_SF.max(0), kind="stable")[:7].tolist()
    assert [f.token for f in by_max] == [int(f_SF[:, f.feature].argmax()) for f in by_max]
    by_sum = own_text.firings(found, by="sum", count=7)
    assert [f.feature for f in by_sum] == np.argsort(-f_SF.sum(0), kind="stable")[:7].tolist()
    assert [f.tokens for f in by_sum] == [int((f_SF[:, f.feature] > 0).sum()) for f in by_sum]
    density = store.statistics["frequency"]
    some = own_text.firings(found, count=99, frequencies_F=density, low=0.05, high=0.12)
    every = {f.feature for f in own_text.firings(found, count=99)}
    assert {f.feature for f in some} == {f for f in every if 0.05 <= density[f] <= 0.12} != every


def test_what_cannot_be_read_is_a_sentence(workbench: Workbench) -> None:
    with pytest.raises(InvalidInput, match="Write some text"):
        own_text.tokenize(workbench.loaded, "", 100)
    with pytest.raises(InvalidInput, match="at most 5 are read"):
        own_text.tokenize(workbench.loaded, TEXT, 5)
