"""Evaluation on a tiny model: identities that must hold whatever the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled, InvalidInput, Mismatch
from mistudio.core.events import SilentReporter
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.evaluation.bootstrap import DocumentGroups, with_intervals
from mistudio.ml.evaluation.compare import compare, decoder_overlap
from mistudio.ml.evaluation.definitions import LOSS
from mistudio.ml.evaluation.evaluate import evaluate
from mistudio.ml.evaluation.language_model_loss import LossSums, PatchedForwards, scored_positions
from mistudio.ml.evaluation.measure import TextPart, spread_rows
from mistudio.ml.formats.saelens import read_saelens
from mistudio.ml.hooks import first_tensor, hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens
from tests.ml_formats.foreign_files import K, temporal_by_hand, temporal_parts, written_temporal

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


def test_a_temporal_sae_reads_whole_rows(
    loaded: LoadedModel, tokens: TokenStore, tmp_path: Path
) -> None:
    parts = temporal_parts(width=D)
    sae, _ = read_saelens(written_temporal(tmp_path, parts, d_in=D))
    found = measured(sae, loaded, tokens)
    rows = np.array(tokens.rows("train"))
    ids = torch.from_numpy(tokens.ids[rows].astype(np.int64))
    keep = torch.from_numpy(tokens.mask[rows] == 0)
    seen: list[torch.Tensor] = []
    block = loaded.blocks.modules[1]
    handle = block.register_forward_hook(lambda *values: seen.append(first_tensor(values[2])))
    with torch.inference_mode():
        loaded.model(input_ids=ids)
    handle.remove()
    x, b_dec = seen[0].double(), parts["b_dec"].double()
    f, expected = temporal_by_hand(x - b_dec, parts, k=K)
    y = f @ parts["W_dec"].double() + expected + b_dec
    error, spread = (x - y)[keep].square().sum(), (x - x[keep].mean(0))[keep].square().sum()
    assert found["ev"] == pytest.approx(float(1 - error / spread), abs=1e-5)
    assert found["l0"] == pytest.approx(float((f[keep] > 0).sum(1).double().mean()), abs=1e-6)
    assert found["n"] == int(keep.sum())

    def put(_module: object, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        return torch.where(keep[..., None], y.float(), first_tensor(output))

    handle = block.register_forward_hook(put)
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids).logits
    handle.remove()
    scored = scored_positions(keep, tokens.mask[rows])
    loss = torch.nn.functional.cross_entropy(logits[scored], ids.roll(-1, 1)[scored])
    assert found["ce_sae"] == pytest.approx(float(loss), rel=1e-5)
    assert abs(found["ce_sae"] - found["ce_clean"]) > 1e-3


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


def random_sae(seed: int, noise: float) -> SparseAutoencoder:
    """The identity with another decoder."""
    generator = torch.Generator().manual_seed(seed)
    exact = identity()
    decoder = exact.W_dec_FO + noise * torch.randn(2 * D, D, generator=generator)
    return SparseAutoencoder(exact.W_enc_DF, exact.b_enc_F, decoder, exact.b_dec_O, "topk", k=2 * D)


def test_losses_equal_brute_force(loaded: LoadedModel, tokens: TokenStore) -> None:
    """Cross-entropy and KL(clean‖patched) in float64 from the logits of each pass."""
    sae, rows = random_sae(0, 0.2), np.array(tokens.rows("train"))
    found = measured(sae, loaded, tokens)
    ids, mask = tokens.ids[rows].astype(np.int64), tokens.mask[rows]
    module = loaded.blocks.modules[1]

    def logits(change: object) -> np.ndarray:
        def hook(_module: object, _inputs: object, output: object) -> object:
            x = output[0] if isinstance(output, tuple) else output
            fresh = change(x)  # type: ignore[operator]
            return (fresh, *output[1:]) if isinstance(output, tuple) else fresh

        handle = module.register_forward_hook(hook)
        with torch.inference_mode():
            out = loaded.model(input_ids=torch.from_numpy(ids)).logits
        handle.remove()
        scores = out.double().numpy()
        top = scores.max(-1, keepdims=True)
        return scores - top - np.log(np.exp(scores - top).sum(-1, keepdims=True))

    keep = torch.from_numpy(mask == 0)

    def patch(x: torch.Tensor) -> torch.Tensor:
        return torch.where(keep[..., None], sae.decode(sae.encode(x)), x)

    clean, patched, zero = logits(lambda x: x), logits(patch), logits(torch.zeros_like)
    at = [
        (r, s)
        for r in range(len(rows))
        for s in range(tokens.context - 1)
        if mask[r, s] == 0 and mask[r, s + 1] != 2
    ]
    assert found["ce_n"] == len(at)

    def ce(p: np.ndarray) -> float:
        return float(np.mean([-p[r, s, ids[r, s + 1]] for r, s in at]))

    def kl(p: np.ndarray) -> float:
        each = [(np.exp(clean[r, s]) * (clean[r, s] - p[r, s])).sum() for r, s in at]
        return float(np.mean(each))

    expected = {
        "ce_clean": ce(clean),
        "ce_sae": ce(patched),
        "ce_zero": ce(zero),
        "ce_gap": ce(patched) - ce(clean),
        "ce_loss_score": (ce(zero) - ce(patched)) / (ce(zero) - ce(clean)),
        "kl_div": kl(patched),
        "kl_div_zero": kl(zero),
        "kl_div_score": 1 - kl(patched) / kl(zero),
    }
    assert expected["kl_div"] > 0.01
    # a cross-entropy of the two distributions would be their KL plus the clean entropy
    assert expected["ce_clean"] > 3 * expected["kl_div"]
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=2e-4), name
        assert found["intervals"][name] is not None


def test_the_loss_does_not_depend_on_the_batches(
    loaded: LoadedModel, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(random_sae(0, 0.2), loaded, tokens)
    module = "mistudio.ml.evaluation"
    monkeypatch.setattr(f"{module}.language_model_loss.CHUNK_ENTRIES", 7 * 400)
    monkeypatch.setattr(f"{module}.measure.rows_per_pass", lambda *_: 3)
    monkeypatch.setattr(f"{module}.measure.default_forward_batch", lambda _: 5)
    cut = measured(random_sae(0, 0.2), loaded, tokens)
    assert cut.keys() == whole.keys()
    for name, value in whole.items():
        if isinstance(value, float):
            assert cut[name] == pytest.approx(value, rel=1e-5), name


def test_loss_rows_are_spread_over_the_text(loaded: LoadedModel, tokens: TokenStore) -> None:
    found = measured(identity(), loaded, tokens, max_loss_tokens=256)
    rows = tokens.rows("train")
    docs = tokens.docs[[rows[i * len(rows) // 8] for i in range(8)]]
    spread = len(np.unique(docs[docs >= 0]))
    first = tokens.docs[list(rows[:8])]
    assert len(np.unique(first[first >= 0])) < found["ce_documents"] <= spread


def test_documents_are_counted_one_by_one(loaded: LoadedModel, tokens: TokenStore) -> None:
    found = measured(identity(), loaded, tokens, with_loss=False)
    rows = list(tokens.rows("train"))
    kept = tokens.docs[rows][tokens.mask[rows] == 0]
    assert found["documents"] == len(np.unique(kept))
    assert found["intervals"]["ev_zero"] is not None


def test_many_documents_are_drawn_in_groups(
    tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mistudio.ml.evaluation.bootstrap.GROUPS", 8)
    monkeypatch.setattr("mistudio.ml.evaluation.bootstrap._ROWS", 3)
    rows = np.array(tokens.rows("train"))
    docs = np.asarray(tokens.docs[rows])
    groups = DocumentGroups(tokens, rows)
    found = groups.of(docs, docs >= 0)
    assert groups.groups == 8
    assert groups.counted == len(np.unique(docs[docs >= 0]))
    for doc in np.unique(docs[docs >= 0]):
        assert len(np.unique(found[docs == doc])) == 1
    assert set(np.unique(found)) == set(range(8))


def test_an_sae_against_itself_and_a_worse_one(loaded: LoadedModel, tokens: TokenStore) -> None:
    text = TextPart(tokens, None, True, 100_000, part="train")

    def compared(a: SparseAutoencoder, b: SparseAutoencoder) -> dict:
        return compare(a, b, loaded, 1, "resid_post", text, SilentReporter(), JobControl())

    good, worse = random_sae(0, 0.05), random_sae(1, 0.2)
    same = compared(good, good)
    for name, line in same["metrics"].items():
        assert (line["difference"], line["interval"]) in ((0, [0, 0]), (0, None)), name
    assert same["overlap"]["pairs"] == same["overlap"]["latents_a"]
    assert same["overlap"]["mean_a"] == pytest.approx(1)
    found = compared(good, worse)
    alone = measured(worse, loaded, tokens)
    for name in ("ev", "ce_loss_score", "kl_div_score", "dead", "l0_p50", "enc_dec_cos"):
        assert found["metrics"][name]["b"] == pytest.approx(alone[name], rel=1e-5), name
    line = found["metrics"]["ev"]
    low, high = line["interval"]
    assert low < line["difference"] == line["b"] - line["a"] < high < 0
    # the same documents are drawn for both, so the difference is surer than either figure
    a_low, a_high = alone["intervals"]["ev"]
    assert high - low < 1.5 * (a_high - a_low)
    assert found["n"] == alone["n"]


def test_paired_draws_take_the_same_documents() -> None:
    """Two figures that move together from document to document have a sharp difference."""
    generator = np.random.default_rng(0)
    level = generator.normal(3, 1, 60)
    sums = {name: np.zeros(60) for name in ("zero", "kl_sae", "kl_zero", "clean")}
    a = {**sums, "n": np.ones(60), "sae": level}
    b = {**a, "sae": level + 0.1}
    from mistudio.ml.evaluation.compare import paired

    only = {"ce_sae": LOSS["ce_sae"]}
    alone = with_intervals(only, a)[1]["ce_sae"]
    assert alone is not None
    assert alone[1] - alone[0] > 0.3
    assert paired(only, a, b)["ce_sae"]["interval"] == pytest.approx([0.1, 0.1])


def test_overlap_of_decoders_equals_brute_force(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(30, 6, generator=generator)
    b = torch.cat((3 * a[:10], -a[10:20], torch.randn(25, 6, generator=generator)))
    unit = [(rows / rows.norm(dim=1, keepdim=True)).double().numpy() for rows in (a, b)]
    cosine = unit[0] @ unit[1].T
    for entries in (1 << 24, 90):  # whole, and in chunks of two rows
        monkeypatch.setattr("mistudio.ml.evaluation.compare.CHUNK_ENTRIES", entries)
        found = decoder_overlap(a, b)
        assert found["mean_a"] == pytest.approx(cosine.max(1).mean(), rel=1e-6)
        assert found["mean_b"] == pytest.approx(cosine.max(0).mean(), rel=1e-6)
        assert found["shared_a"] == pytest.approx((cosine.max(1) >= 0.7).mean())
        assert found["shared_b"] == pytest.approx((cosine.max(0) >= 0.7).mean())
        near_a, near_b = cosine.argmax(1), cosine.argmax(0)
        pairs = [i for i in range(30) if near_b[near_a[i]] == i and cosine[i].max() >= 0.7]
        assert found["pairs"] == len(pairs) >= 10
        assert sum(found["histogram_a"]) == 30
    none = decoder_overlap(a, b[:0])
    assert (none["pairs"], none["mean_a"], none["shared_b"]) == (0, None, None)


def test_no_loss_position_gives_no_loss_figure() -> None:
    found, intervals = with_intervals(LOSS, LossSums(3).per_group())
    assert set(found.values()) == set(intervals.values()) == {None}


def test_zeros_reach_masked_positions_but_reconstructions_do_not(loaded: LoadedModel) -> None:
    seen: list[torch.Tensor] = []
    forwards = PatchedForwards(loaded, hook_place(loaded, 1, "resid_post"))
    ids = torch.tensor([[5, 6, 7, 8]])
    x, logits = forwards.clean(ids)
    keep = torch.tensor([[False, True, True, False]])
    handle = loaded.blocks.modules[2].register_forward_pre_hook(
        lambda _m, inputs, named: seen.append(inputs[0] if inputs else named["hidden_states"]),
        with_kwargs=True,
    )
    forwards.losses(ids, logits, keep, keep, [torch.ones(2, D)])
    handle.remove()
    assert not seen[0].any()
    assert torch.equal(seen[1][0, 1:3], torch.ones(2, D))
    assert torch.equal(seen[1][0, [0, 3]], x[0, [0, 3]])
