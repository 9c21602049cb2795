"""The survival report's numbers against an independent computation on dense codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.events import SilentReporter
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.evaluate import evaluate
from mistudio.ml.evaluation.measure import TextPart
from mistudio.ml.evaluation.survival import store_reference, survival
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

D, F, LEAST = 32, 96, 100
PLACE = (1, "resid_post", "resid_post")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=(0.02, 0.1))
def moved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The same network with every weight off by some per cent, as after rounding."""
    other = tiny_loaded(tmp_path_factory.mktemp("moved"))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(1 + request.param * torch.randn(weight.shape, generator=generator))
    return other


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, loaded: LoadedModel) -> TextPart:
    store = write_tokens(tmp_path_factory.mktemp("data"), STORIES * 2, loaded.tokenizer, 32)
    return TextPart(store, None, True, 100_000, 0, "train")


@pytest.fixture(scope="module")
def sae() -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(1)
    W = torch.nn.functional.normalize(torch.randn(F, D, generator=generator), dim=1)
    return SparseAutoencoder(W.T.contiguous(), torch.zeros(F), W, torch.zeros(D), "topk", k=6)


def report(
    sae: SparseAutoencoder, first: LoadedModel, second: LoadedModel, text: TextPart, folder: Path
) -> tuple[dict, dict]:
    quiet, control = SilentReporter(), JobControl()
    capture, other = PairCapture(first, *PLACE), PairCapture(second, *PLACE)
    stored = store_reference(sae, capture, text, folder / "x.bin", quiet, control)
    return survival(sae, other, stored, text, LEAST, quiet, control)


def activations(loaded: LoadedModel, text: TextPart) -> np.ndarray:
    """x [T, D] of kept tokens, by a forward pass of its own."""
    assert isinstance(text.tokens, TokenStore)
    rows = np.array(text.tokens.rows("train"))
    ids = torch.from_numpy(text.tokens.ids[rows].astype(np.int64))
    with torch.inference_mode():
        x = loaded.model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    return x[torch.from_numpy(text.tokens.mask[rows] == 0)].numpy()


def dense_codes(sae: SparseAutoencoder, x: np.ndarray) -> np.ndarray:
    h = x.astype(np.float32) @ sae.W_enc_DF.numpy()
    bound = -np.sort(-h, axis=1)[:, 5:6]
    return np.where((h >= bound) & (h > 0), h, 0).astype(np.float64)


def test_every_figure_equals_a_dense_computation(
    sae: SparseAutoencoder, loaded: LoadedModel, moved: LoadedModel, text: TextPart, tmp_path: Path
) -> None:
    found, per_feature = report(sae, loaded, moved, text, tmp_path)
    x, other = activations(loaded, text), activations(moved, text)
    a, b = dense_codes(sae, x), dense_codes(sae, other)
    fires_a, fires_b = (a > 0).sum(0), (b > 0).sum(0)
    assert per_feature["firings_reference"] == fires_a.tolist()
    assert per_feature["firings_judged"] == fires_b.tolist()
    judged = np.flatnonzero(fires_a >= LEAST)
    assert found["features"] == len(judged)
    assert 10 < len(judged) < F
    wanted = np.array(
        [np.corrcoef(a[:, i], b[:, i])[0, 1] if b[:, i].std() > 0 else 0.0 for i in judged]
    )
    got = [per_feature["correlation"][i] or 0.0 for i in judged]
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert found["correlation_median"] == pytest.approx(np.median(wanted), abs=1e-6)
    assert sum(found["correlation_histogram"]) == len(judged)
    for line in found["survive"]:
        assert line["count"] == (wanted >= line["bound"]).sum()
        assert line["share"] == line["count"] / len(judged)
        assert line["interval"][0] <= line["share"] <= line["interval"][1]
    assert [line["bound"] for line in found["survive"]] == [0.9, 0.5]
    assert any(0 < line["share"] < 1 for line in found["survive"])
    both, either = ((a > 0) & (b > 0)).sum(0), ((a > 0) | (b > 0)).sum(0)
    assert found["jaccard"] == both[judged].sum() / either[judged].sum()
    assert found["jaccard_median"] == np.median(both[judged] / either[judged])
    gap = np.linalg.norm(x - other, axis=1) / np.linalg.norm(x, axis=1)
    assert found["distance"] == pytest.approx(gap.mean(), rel=1e-5)
    low, high = found["intervals"]["distance"]
    assert low < found["distance"] < high
    assert found["n"] == len(x)


def test_the_sae_is_measured_on_both_as_by_an_evaluation(
    sae: SparseAutoencoder, loaded: LoadedModel, moved: LoadedModel, text: TextPart, tmp_path: Path
) -> None:
    found, _ = report(sae, loaded, moved, text, tmp_path)
    for side, model in (("a", loaded), ("b", moved)):
        alone = evaluate(
            sae,
            model,
            text.tokens,
            *PLACE[:2],
            norm_limit=None,
            max_tokens=text.max_tokens,
            report=SilentReporter(),
            control=JobControl(),
            part="train",
            with_loss=False,
        )
        for name in ("ev", "ev_zero", "l0", "never_fired"):
            assert found["metrics"][name][side] == pytest.approx(alone[name], rel=1e-9), name
    assert found["metrics"]["ev"]["interval"] is not None


def test_the_same_model_twice_keeps_everything(
    sae: SparseAutoencoder, loaded: LoadedModel, text: TextPart, tmp_path: Path
) -> None:
    found, per_feature = report(sae, loaded, loaded, text, tmp_path)
    assert [line["share"] for line in found["survive"]] == [1, 1]
    assert [line["interval"] for line in found["survive"]] == [[1, 1], [1, 1]]
    assert (found["correlation_median"], found["jaccard"], found["distance"]) == (1, 1, 0)
    assert {r for r in per_feature["correlation"] if r is not None} == {1}
    assert found["metrics"]["ev"]["difference"] == 0


def test_numbers_that_are_none_and_too_little_text_are_sentences(
    sae: SparseAutoencoder,
    loaded: LoadedModel,
    tmp_path: Path,
    text: TextPart,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    broken = tiny_loaded(tmp_path_factory.mktemp("broken"))
    stored = store_reference(
        sae,
        PairCapture(loaded, *PLACE),
        text,
        tmp_path / "x.bin",
        SilentReporter(),
        JobControl(),
    )
    capture = PairCapture(broken, *PLACE)
    args = (stored, text), (SilentReporter(), JobControl())
    with pytest.raises(InvalidInput, match="No feature fires 100,000 times"):
        survival(sae, capture, *args[0], 100_000, *args[1])
    with torch.no_grad():
        broken.model.model.layers[0].mlp.down_proj.weight.fill_(float("nan"))
    with pytest.raises(Unsupported, match="no numbers"):
        survival(sae, capture, *args[0], LEAST, *args[1])
