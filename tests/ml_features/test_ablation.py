"""Ablation equals whole forward passes of the hooked model, window by window, in NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.analysis_configs import AblateConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled
from mistudio.core.events import SilentReporter
from mistudio.ml.features import controls, feature_store
from mistudio.ml.features.ablation import AblationSettings, Ablator, Effect, cheapest_passes
from mistudio.ml.features.clean_reads import KeptReads
from mistudio.ml.features.effects import compare
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.harvest import HarvestSettings, harvest
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.features.sampling import hash_tokens
from mistudio.ml.features.text_windows import WindowReader, top_places
from mistudio.ml.hooks import first_tensor, hook_place
from tests.ml_features.conftest import HOOK, LAYER, Workbench

SETTINGS = AblationSettings(windows=3, tokens=12)


@pytest.fixture(scope="module")
def store(workbench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    folder = tmp_path_factory.mktemp("ablation") / "store"
    workbench.harvest(folder)
    return FeatureStore(folder)


def ablator(bench: Workbench, store: FeatureStore, **changes: Any) -> Ablator:
    rerun = Rerun(bench.loaded, LAYER, HOOK)
    return Ablator(rerun, bench.sae, store, dataclasses.replace(SETTINGS, **changes))


def log_softmax(logits_SV: np.ndarray) -> np.ndarray:
    shifted = logits_SV.astype(np.float64) - logits_SV.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def logits_with(bench: Workbench, hook: str, ids_S: np.ndarray, delta_SD: Any) -> np.ndarray:
    """Logits of a whole pass over one window, its activation at the hook replaced by x + delta."""

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        x = first_tensor(output)
        fresh = x + torch.as_tensor(delta_SD, dtype=x.dtype)
        return (fresh, *output[1:]) if isinstance(output, tuple) else fresh

    handle = hook_place(bench.loaded, LAYER, hook).module.register_forward_hook(add)
    with torch.inference_mode():
        found = bench.loaded.model(input_ids=torch.from_numpy(ids_S)[None], use_cache=False)
    handle.remove()
    return found.logits[0].numpy()


def read_at(bench: Workbench, hook: str, ids_S: np.ndarray) -> np.ndarray:
    seen: list[torch.Tensor] = []
    handle = hook_place(bench.loaded, LAYER, hook).module.register_forward_hook(
        lambda _m, _i, output: seen.append(first_tensor(output)[0].clone())
    )
    with torch.inference_mode():
        bench.loaded.model(input_ids=torch.from_numpy(ids_S)[None], use_cache=False)
    handle.remove()
    return seen[0].numpy()


def naive(
    bench: Workbench, store: FeatureStore, feature: int, windows: Any, mode: str, hook: str = HOOK
) -> dict[str, float]:
    """Every figure, from whole passes over one window at a time."""
    sae = bench.sae
    W_enc, W_dec = sae.W_enc_DF.numpy(), sae.W_dec_FO.numpy()
    totals = dict.fromkeys(("n", "reached", "ce", "ce_ablated", "kl", "logit", "rank"), 0.0)
    limit = 10 * float(store.summary["median_norm"])
    for ids_S, mask_S, row, columns_S in zip(*windows, strict=True):
        x_SD = read_at(bench, hook, ids_S)
        h_SF = (x_SD - sae.b_dec_O.numpy()) @ W_enc + sae.b_enc_F.numpy()
        if sae.architecture == "topk":
            kept = np.argsort(-h_SF, axis=1, kind="stable")[:, : sae.k]
            f_SF = np.zeros_like(h_SF)
            np.put_along_axis(f_SF, kept, np.take_along_axis(h_SF, kept, 1).clip(0), 1)
        else:
            assert sae.threshold_F is not None
            f_SF = h_SF.clip(0) * (h_SF > sae.threshold_F.numpy())
        counts_S = (mask_S == 0) & (np.linalg.norm(x_SD, axis=1) <= limit)
        a_S = f_SF[:, feature] * counts_S
        if mode == "zero":
            new_S = np.zeros_like(a_S)
        elif mode == "mean":
            new_S = np.full_like(a_S, store.statistics[feature]["mean_all"])
        else:
            new_S = elsewhere(store, feature, int(row), columns_S)
        delta_SD = ((new_S - a_S) * counts_S)[:, None] * W_dec[feature]
        changed = np.flatnonzero(delta_SD.any(1))
        start = changed[0] if changed.size else len(ids_S)
        clean_SV = logits_with(bench, hook, ids_S, np.zeros_like(delta_SD))
        other_SV = logits_with(bench, hook, ids_S, delta_SD)
        p_SV, q_SV = log_softmax(clean_SV), log_softmax(other_SV)
        for t in range(len(ids_S) - 1):
            if not counts_S[t] or mask_S[t + 1] == 2:
                continue
            y = ids_S[t + 1]
            totals["n"] += 1
            if t >= start:  # before, both are the same
                totals["reached"] += 1
                totals["ce"] -= p_SV[t, y]
                totals["ce_ablated"] -= q_SV[t, y]
            totals["kl"] += (np.exp(p_SV[t]) * (p_SV[t] - q_SV[t])).sum()
            totals["logit"] += other_SV[t, y] - clean_SV[t, y]
            totals["rank"] += float((other_SV[t] > other_SV[t, y]).sum())
            totals["rank"] -= float((clean_SV[t] > clean_SV[t, y]).sum())
    n, reached = totals["n"], totals["reached"]
    if not reached:
        return {"n": n, "reached": 0, "delta_ce": 0.0, "kl": 0.0, "delta_logit": 0.0}
    return {
        "n": n,
        "reached": reached,
        "ce": totals["ce"] / reached,
        "ce_ablated": totals["ce_ablated"] / reached,
        "delta_ce": (totals["ce_ablated"] - totals["ce"]) / n,
        "kl": totals["kl"] / n,
        "delta_logit": totals["logit"] / n,
        "delta_rank": totals["rank"] / n,
        "perplexity": float(np.exp(totals["ce"] / reached)),
        "perplexity_ablated": float(np.exp(totals["ce_ablated"] / reached)),
    }


def elsewhere(store: FeatureStore, feature: int, row: int, columns_S: np.ndarray) -> np.ndarray:
    rows = len(np.load(store.folder / "rows.npy"))
    hashed = int(hash_tokens(0, np.array([row], np.uint32), feature)[0])
    other = hashed % (rows - 1)
    other += other >= row
    tokens, values = store.entries(feature)
    known = dict(zip(tokens.tolist(), values.tolist(), strict=True))
    return np.array([known.get(other * store.row_length + int(c), 0.0) for c in columns_S])


def check_figures(got: dict[str, Any], wanted: dict[str, float]) -> None:
    assert got["n"] == wanted["n"] > 0
    for name, value in wanted.items():
        # ranks jump where two logits are equal but for rounding
        slack = 0.1 if name == "delta_rank" else 2e-6
        assert got[name] == pytest.approx(value, rel=1e-3, abs=slack), name


@pytest.mark.parametrize(("mode", "count"), [("zero", 32), ("mean", 6), ("resample", 6)])
def test_effects_equal_whole_passes(
    workbench: Workbench, store: FeatureStore, mode: str, count: int
) -> None:
    made = ablator(workbench, store, mode=mode)
    live = np.flatnonzero(store.statistics["count"] > 0)[:count].tolist()
    assert len(live) == count
    reader = WindowReader(store, SETTINGS.tokens)
    anywhere = reader.any(SETTINGS.windows, 0)
    for feature, effect in zip(live, made.effects(live), strict=True):
        assert effect.feature == feature
        top = reader.top(feature, SETTINGS.windows)
        check_figures(effect.top, naive(workbench, store, feature, top, mode))
        assert effect.random is not None
        check_figures(effect.random, naive(workbench, store, feature, anywhere, mode))


@pytest.mark.parametrize("hook", ["mlp_out", "attn_out"])
def test_other_hooks_and_a_topk(workbench: Workbench, tmp_path: Path, hook: str) -> None:
    sae = dataclasses.replace(workbench.sae, architecture="topk", k=6, threshold_F=None)
    bench = workbench._replace(sae=sae)
    harvest(
        bench.loaded,
        sae,
        LAYER,
        hook,
        bench.tokens,
        bench.text,
        HarvestSettings(context=16, rows=60, top_k=4),
        tmp_path / "store",
        SilentReporter(),
        JobControl(),
    )
    found = FeatureStore(tmp_path / "store")
    made = Ablator(Rerun(bench.loaded, LAYER, hook), sae, found, SETTINGS)
    feature = int(found.statistics["count"].argmax())
    effect = made.effect(feature, random=False)
    top = WindowReader(found, SETTINGS.tokens).top(feature, SETTINGS.windows)
    check_figures(effect.top, naive(bench, found, feature, top, "zero", hook))
    assert effect.top["kl"] > 0
    assert effect.random is None


def test_details_are_the_changes_of_probability(workbench: Workbench, store: FeatureStore) -> None:
    feature = int(store.statistics["count"].argmax())
    effect = ablator(workbench, store).effect(feature, detail=True)
    windows = WindowReader(store, SETTINGS.tokens).top(feature, SETTINGS.windows)
    sae, n, change_V = workbench.sae, 0, np.zeros(400)
    strongest = (0.0, 0, 0.0, 0.0)
    for ids_S, mask_S, _row, _columns in zip(*windows, strict=True):
        x_SD = torch.from_numpy(read_at(workbench, HOOK, ids_S))
        keep_S = (mask_S == 0) & (x_SD.norm(dim=1).numpy() <= 10 * store.summary["median_norm"])
        a_S = sae.encode(x_SD)[:, feature].numpy() * keep_S
        delta_SD = -a_S[:, None] * sae.W_dec_FO[feature].numpy()
        p_SV = log_softmax(logits_with(workbench, HOOK, ids_S, 0 * delta_SD))
        q_SV = log_softmax(logits_with(workbench, HOOK, ids_S, delta_SD))
        for t in range(len(ids_S) - 1):
            if keep_S[t] and mask_S[t + 1] != 2:
                n += 1
                change_V += np.exp(q_SV[t]) - np.exp(p_SV[t])
                kl = float((np.exp(p_SV[t]) * (p_SV[t] - q_SV[t])).sum())
                y = int(ids_S[t + 1])
                strongest = max(
                    strongest, (kl, y, float(np.exp(p_SV[t, y])), float(np.exp(q_SV[t, y])))
                )
    change_V /= n
    lost = np.argsort(change_V)[:10]
    assert [token.token_id for token in effect.lost] == lost.tolist()
    np.testing.assert_allclose([t.change for t in effect.lost], change_V[lost], rtol=1e-3)
    assert effect.gained[0].token_id == int(change_V.argmax())
    place = effect.places[0]
    assert place.next_id == strongest[1]
    got = (place.kl, place.probability, place.probability_ablated)
    np.testing.assert_allclose(got, (strongest[0], *strongest[2:]), rtol=1e-3)


def test_the_strongest_windows_are_told_first_and_all_equals_one_pass(
    workbench: Workbench, store: FeatureStore
) -> None:
    feature = int(store.statistics["count"].argmax())
    told: list[Effect] = []
    made = ablator(workbench, store)
    effect = made.effect(feature, detail=True, first=2, tell=told.append)
    windows = WindowReader(store, SETTINGS.tokens).top(feature, SETTINGS.windows)
    (strongest,) = told
    check_figures(
        strongest.top, naive(workbench, store, feature, windows.take(slice(0, 2)), "zero")
    )
    assert strongest.random is None
    assert strongest.active < effect.active
    check_figures(effect.top, naive(workbench, store, feature, windows, "zero"))
    assert [place.kl for place in effect.places] == sorted(
        (place.kl for place in effect.places), reverse=True
    )
    whole = ablator(workbench, store).effects([feature])[0]
    assert whole.top["delta_ce"] == pytest.approx(effect.top["delta_ce"], rel=1e-4)
    assert whole.active == effect.active


def test_kept_passes_give_way_within_their_budget(
    workbench: Workbench, store: FeatureStore
) -> None:
    rerun = Rerun(workbench.loaded, LAYER, HOOK)
    kept = KeptReads()
    made = Ablator(rerun, workbench.sae, store, SETTINGS, kept=kept)
    first = made.effect(0, detail=True)
    one = kept.held_bytes
    read = kept.find((SETTINGS.tokens, SETTINGS.windows, (0, 0, SETTINGS.windows)))
    assert read is not None
    x_bytes = read[0].clean.x_BSD.numel() * 4
    # x, its stream, its end, and keys and values of three blocks at least
    assert one > 2 * 3 * x_bytes
    made.effect(1, detail=True)
    assert kept.held_bytes > one
    small = KeptReads(one)
    made = Ablator(rerun, workbench.sae, store, SETTINGS, kept=small)
    for feature in (0, 1, 2):
        made.effect(feature, detail=True)
        assert small.held_bytes <= one
    assert small.find((SETTINGS.tokens, SETTINGS.windows, (0, 0, SETTINGS.windows))) is None
    assert made.effect(0, detail=True).top == first.top


def test_passes_repeat_least() -> None:
    assert cheapest_passes([], 64, 32, 8) == []
    assert cheapest_passes([32, 32, 32], 64, 32, 8) == [slice(0, 3)]
    # one early window alone costs less than beginning early with the other three
    assert cheapest_passes([2, 40, 40, 41], 64, 32, 8) == [slice(0, 1), slice(1, 4)]
    assert cheapest_passes([20, 30], 64, 32, 8) == [slice(0, 2)]
    assert cheapest_passes([32] * 5, 64, 32, 2) == [slice(0, 1), slice(1, 3), slice(3, 5)]


def test_a_comparison_equals_one_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(3)
    clean_TV = 20 + 3 * torch.randn(9, 3000, generator=generator)
    other_TV = clean_TV + 2e-2 * torch.randn(9, 3000, generator=generator)
    target_T = torch.arange(9)
    gained_V = torch.zeros(3000, dtype=torch.float64)
    change = compare(clean_TV, other_TV, target_T, gained_V)
    log_p, log_q = clean_TV.double().log_softmax(1), other_TV.double().log_softmax(1)
    kl_T = (log_p.exp() * (log_p - log_q)).sum(1)
    assert 1e-4 < kl_T.max() < 1e-3
    torch.testing.assert_close(change.kl_T, kl_T, rtol=1e-3, atol=5e-7)
    torch.testing.assert_close(change.loss_T, -log_p[target_T, target_T], rtol=1e-6, atol=0)
    torch.testing.assert_close(gained_V, (log_q.exp() - log_p.exp()).sum(0), rtol=1e-3, atol=1e-9)
    rank_T = (other_TV > other_TV[target_T, target_T, None]).sum(1).double()
    rank_T -= (clean_TV > clean_TV[target_T, target_T, None]).sum(1)
    assert (change.rank_T == rank_T).all()


def test_windows_hold_the_peaks_and_the_start_token(store: FeatureStore) -> None:
    feature = int(store.statistics["count"].argmax())
    rows, positions = top_places(store, feature, 4)
    examples = store.examples(feature, 4)
    assert list(zip(rows, positions, strict=True)) == [(e.row, e.position) for e in examples]
    windows = WindowReader(store, 8).top(feature, 4)
    ids_RS = np.load(store.folder / "ids.npy").reshape(-1, store.row_length)
    mask_RS = np.load(store.folder / "mask.npy").reshape(-1, store.row_length)
    for index, (row, position) in enumerate(zip(rows, positions, strict=True)):
        assert position in windows.columns_WS[index]
        assert (windows.ids_WS[index] == ids_RS[row, windows.columns_WS[index]]).all()
        if mask_RS[row, 0] == feature_store.SPECIAL:
            assert windows.columns_WS[index, 0] == 0
            assert windows.mask_WS[index, 0] == 1
    first = WindowReader(store, 8).any(5, 0)
    assert len(set(first.rows_W.tolist())) == 5
    assert (first.ids_WS == WindowReader(store, 8).any(5, 0).ids_WS).all()
    assert (first.rows_W != WindowReader(store, 8).any(5, 1).rows_W).any()


def test_a_feature_that_is_absent_changes_nothing(
    workbench: Workbench, store: FeatureStore
) -> None:
    dead = ablator(workbench, store).effect(5)
    assert dead.top["n"] == 0
    assert dead.top["delta_ce"] is None
    assert dead.random is not None
    assert (dead.random["delta_ce"], dead.random["kl"], dead.active) == (0.0, 0.0, 0)


def test_a_cancel_acts_between_passes(workbench: Workbench, store: FeatureStore) -> None:
    control = JobControl()
    control.cancel()
    made = Ablator(
        Rerun(workbench.loaded, LAYER, HOOK), workbench.sae, store, SETTINGS, control.check
    )
    with pytest.raises(Cancelled):
        made.effect(0)


def test_controls_are_like_the_feature(store: FeatureStore, workbench: Workbench) -> None:
    norms_F = workbench.sae.W_dec_FO.norm(dim=1).double().numpy()
    strengths_F = controls.strengths(store, norms_F, 4)
    counts_F = store.statistics["count"]
    top_FK = np.load(store.folder / "top_values.npy")[:, :4]
    for feature in range(8):
        held = top_FK[feature][top_FK[feature] > 0]
        wanted = held.mean() * norms_F[feature] if held.size else 0.0
        assert strengths_F[feature] == pytest.approx(wanted)
        found = controls.matched(counts_F, strengths_F, feature, 19, 0)
        assert feature not in found
        assert found == controls.matched(counts_F, strengths_F, feature, 19, 0)
        for other in found:
            assert 0.5 <= counts_F[other] / counts_F[feature] <= 2
            assert 0.5 <= strengths_F[other] / strengths_F[feature] <= 2
    more = controls.strengths(store, norms_F, 6)  # the harvest kept 4 examples
    feature = int(counts_F.argmax())
    tokens, values = store.entries(feature)
    best = np.zeros(len(np.load(store.folder / "rows.npy")))
    np.maximum.at(best, tokens // store.row_length, values)
    assert more[feature] == pytest.approx(np.sort(best)[-6:].mean() * norms_F[feature])


@pytest.mark.parametrize(
    ("observed", "wanted"), [(30.0, (100.0, 0.05, True)), (10.0, (52.63157894736842, 0.5, False))]
)
def test_standing_counts_ties_against_the_feature(observed: float, wanted: Any) -> None:
    found = controls.standing(observed, [float(i) for i in range(19)])
    assert (found.percentile, found.p, found.selective) == wanted
    assert controls.standing(18.0, [float(i) for i in range(19)]).selective is False  # a tie
    few = controls.standing(30.0, [1.0] * 18)
    assert not few.selective  # too few controls for any verdict
    assert controls.standing(1.0, []).p is None


@pytest.mark.parametrize("number", [19, 24, 29, 39, 199])
def test_the_level_is_the_share_of_equals_that_are_called_selective(number: int) -> None:
    effects = [float(i) for i in range(number + 1)]
    verdicts = [
        controls.standing(own, effects[:i] + effects[i + 1 :]) for i, own in enumerate(effects)
    ]
    assert sum(place.selective for place in verdicts) / len(effects) == verdicts[0].level
    assert verdicts[0].level <= 0.05
    assert controls.level(AblateConfig().controls) == pytest.approx(1 / 30)
