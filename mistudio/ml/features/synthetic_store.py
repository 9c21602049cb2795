"""A made-up feature store of any size, with its text, for measuring what reads feature stores.

Words are as frequent as those of a language and densities spread log-normally. Half of the
entries belong to words (a feature fires on a few of them), half fall on any token, some of these
together with the feature's partner (its number with the last bit flipped): so pages, searches,
labels and correlations have something to find. No model and no SAE stands behind it.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.core.atomic import write_json
from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.core.ids import now
from mistudio.ml.data.text_writer import Row
from mistudio.ml.data.token_store import CONTENT
from mistudio.ml.data.token_store import SPECIAL as SPECIAL_TOKEN
from mistudio.ml.data.write_dataset import write_dataset
from mistudio.ml.features.feature_store import KEPT, SPECIAL, VERSION, FeatureStore, relative_to
from mistudio.ml.features.finish import describe_entries
from mistudio.ml.features.logit_lens import BINS
from mistudio.ml.features.partial import CHECKPOINT, PartialStore
from mistudio.ml.features.rows import RowPlan
from mistudio.ml.features.transpose import id_type
from mistudio.ml.features.vocabulary import write_vocabulary

BOS = 0
CHUNK_TOKENS = 1 << 16
DEAD = 0.02  # share of the features that never fire
DENSEST = 0.3
OF_WORDS = 0.5  # share of the entries that a word decides
FIRES = 0.8  # of a word's feature on the word
PARTNER = 0.25  # share of the other entries that bring the partner along


class SyntheticStore(NamedTuple):
    """Folders of a synthetic store: open with `FeatureStore(store, tokens, text)`."""

    store: Path
    tokens: Path
    text: Path
    n_features: int
    n_tokens: int
    entries: int
    store_hash: str

    def open(self) -> FeatureStore:
        """The store, ready to read."""
        return FeatureStore(self.store, self.tokens, self.text)


class _Plan(NamedTuple):
    """How entries are drawn: F features, V vocabulary entries, J features of each word."""

    cumulative_F: NDArray[np.float64]
    per_token: float
    word_features_VJ: NDArray[np.int64]
    strength_F: NDArray[np.float32]
    word_ends_V: NDArray[np.float64]


def write_synthetic(
    folder: Path,
    features: int = 32_768,
    tokens: int = 3_145_728,
    l0: float = 32.0,
    *,
    seed: int = 0,
    context: int = 128,
    vocabulary: int = 20_000,
    top_k: int = 20,
    store: Path | None = None,
) -> SyntheticStore:
    """Write `folder`/store (or `store`), `folder`/tokens, `folder`/text: equal calls, equal bytes.

    `tokens` is rounded down to whole rows of `context`, each a document that begins with BOS;
    `l0` is the mean number of entries of a token that counts, met within a few per cent. Memory is
    that of a chunk of 65,536 tokens. 50 million entries take some 35 seconds of one core, a small
    store (1,024 features, 65,536 tokens, l0 8) less than one.
    """
    chance = np.random.default_rng([seed, 0x5EED])
    rows = max(1, tokens // context)
    places = SyntheticStore(
        store or folder / "store", folder / "tokens", folder, features, 0, 0, ""
    )
    shutil.rmtree(folder, ignore_errors=True)
    places.tokens.mkdir(parents=True)
    words = _words(vocabulary)
    plan = _plan(chance, features, vocabulary, l0)
    ids_RS = _write_tokens(places, chance, plan, words, rows, context)
    partial = PartialStore(folder / ".store.partial", "synthetic", id_type(features))
    _write_entries(partial, chance, plan, ids_RS, features)
    partial.checkpoint()
    partial.close()
    return _finish(places, partial, chance, words, rows, context, top_k, seed)


def _words(size: int) -> list[str]:
    """A text for each vocabulary entry; the first is BOS, a few are not Latin letters."""
    syllables = "ra ti so ke lu mo na vi de po sha ber ton ing est al"  # 16: a digit each
    parts = syllables.split()
    special = ["", "\n", ".", ",", "\t", " é", " 狐", " 🦊", " ابن"]
    found = special[:size]
    for number in range(len(found), size):
        digits = [parts[int(digit, 16)] for digit in f"{number:x}"]
        found.append(" " + "".join(digits))
    return found


def _plan(chance: np.random.Generator, features: int, vocabulary: int, l0: float) -> _Plan:
    density_F = chance.lognormal(0.0, 1.6, features)
    density_F[chance.random(features) < DEAD] = 0.0
    for _ in range(8):  # capping the densest lowers the sum
        density_F = np.minimum(density_F * (l0 / max(density_F.sum(), 1e-30)), DENSEST)
    weights_V = 1.0 / np.arange(4, vocabulary + 4)
    weights_V[BOS] = 0.0
    cumulative_F = np.cumsum(density_F)
    drawn = OF_WORDS * l0 / FIRES
    per_word = max(1, round(drawn))
    word_features_VJ = np.searchsorted(
        cumulative_F, chance.random((vocabulary, per_word)) * cumulative_F[-1], side="right"
    )
    others = max(l0 - per_word * FIRES, 0.0) / (1 + PARTNER)
    return _Plan(
        cumulative_F,
        others,
        np.minimum(word_features_VJ, features - 1),
        chance.lognormal(1.0, 0.5, features).astype(np.float32),
        np.cumsum(weights_V) / weights_V.sum(),
    )


def _write_tokens(
    places: SyntheticStore,
    chance: np.random.Generator,
    plan: _Plan,
    words: list[str],
    rows: int,
    context: int,
) -> NDArray[np.int32]:
    """Text and tokenisation; returns the ids, which stay small (4 bytes a token)."""
    ids_RS = np.empty((rows, context), np.int32)
    for row in range(0, rows, 1024):
        part = chance.random((min(1024, rows - row), context))
        ids_RS[row : row + 1024] = np.searchsorted(plan.word_ends_V, part, side="right")
    np.minimum(ids_RS, len(words) - 1, out=ids_RS)
    ids_RS[:, 0] = BOS
    texts_V = np.array(words, object)
    documents = (("train", Row("".join(texts_V[line].tolist()))) for line in ids_RS)
    write_dataset(places.text, documents, report=SilentReporter(), control=JobControl())
    lengths_V = np.array([len(word) for word in words], np.int32)
    offsets_RS2 = np.lib.format.open_memmap(
        places.tokens / "offsets.npy", mode="w+", dtype=np.int32, shape=(rows, context, 2)
    )
    for row in range(0, rows, 1024):
        lengths = lengths_V[ids_RS[row : row + 1024]]
        ends = np.cumsum(lengths, axis=1)
        offsets_RS2[row : row + 1024] = np.stack([ends - lengths, ends], axis=2)
    offsets_RS2.flush()
    docs_RS = np.repeat(np.arange(rows, dtype=np.int32)[:, None], context, axis=1)
    docs_RS[:, 0] = -1
    mask_RS = np.full((rows, context), CONTENT, np.uint8)
    mask_RS[:, 0] = SPECIAL_TOKEN
    for name, array in (("ids", ids_RS), ("docs", docs_RS), ("mask", mask_RS)):
        np.save(places.tokens / f"{name}.npy", array)
    meta = {
        "rows": rows,
        "context": context,
        "parts": {"train": [0, rows], "calibration": [rows, rows], "evaluation": [rows, rows]},
        "documents": rows,
        "vocab_size": len(words),
        "pad_id": BOS,
        "tokenizer": "synthetic",
        "settings": {"column": ""},
        "settings_hash": "synthetic",
    }
    write_json(places.tokens / "meta.json", meta)
    return ids_RS


def _write_entries(
    partial: PartialStore,
    chance: np.random.Generator,
    plan: _Plan,
    ids_RS: NDArray[np.int32],
    features: int,
) -> None:
    rows, context = ids_RS.shape
    height = max(1, min(CHUNK_TOKENS, ((1 << 32) - 1) // features) // context)
    for row in range(0, rows, height):
        block_RS = ids_RS[row : row + height]
        mask_RS = np.full(block_RS.shape, KEPT, np.uint8)
        mask_RS[:, 0] = SPECIAL
        flat = block_RS.reshape(-1).astype(np.int64)
        token_of, feature_of = _draw(chance, plan, flat)
        kept = flat[token_of] != BOS
        # sorting short integers is far faster than numpy's own search for unique ones
        key = np.sort((token_of[kept] * features + feature_of[kept]).astype(np.uint32))
        key = key[np.diff(key, prepend=~key[:1]) != 0]
        tokens, found = np.divmod(key, np.uint32(features))
        counts_T = np.bincount(tokens, minlength=flat.size)
        noise = chance.standard_normal(key.size, dtype=np.float32)
        values = plan.strength_F[found] * np.exp(noise * np.float32(0.6))
        partial.append(block_RS, mask_RS, counts_T, found, values)
        partial.progress.kept += int((mask_RS == KEPT).sum())
        special = partial.progress.masked.get("special", 0)
        partial.progress.masked["special"] = special + int((mask_RS == SPECIAL).sum())


def _draw(
    chance: np.random.Generator, plan: _Plan, ids_T: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and features of the entries of some tokens; a pair may come twice."""
    size, per_word = ids_T.size, plan.word_features_VJ.shape[1]
    fires = np.flatnonzero(chance.random(size * per_word, dtype=np.float32) < FIRES)
    word_token = fires // per_word
    word_feature = plan.word_features_VJ[ids_T[word_token], fires % per_word]
    count = int(chance.poisson(plan.per_token * size))
    other_token = chance.integers(0, size, count)
    place = chance.random(count) * plan.cumulative_F[-1]
    other = np.searchsorted(plan.cumulative_F, place, side="right")
    other = np.minimum(other, plan.cumulative_F.size - 1)
    both = np.flatnonzero(chance.random(count, dtype=np.float32) < PARTNER)
    partner = np.minimum(other[both] ^ 1, plan.cumulative_F.size - 1)
    return (
        np.concatenate([word_token, other_token, other_token[both]]),
        np.concatenate([word_feature, other, partner]),
    )


def _finish(
    places: SyntheticStore,
    partial: PartialStore,
    chance: np.random.Generator,
    words: list[str],
    rows: int,
    context: int,
    top_k: int,
    seed: int,
) -> SyntheticStore:
    made, state, features = partial.folder, partial.progress, places.n_features
    starts = np.arange(rows, dtype=np.int32)
    plan = RowPlan(np.stack([starts, np.zeros_like(starts)], axis=1), context, rows)
    tables, store_hash = describe_entries(made, features, plan, state, top_k=top_k, seed=seed)
    _write_lens(made, chance, features, len(words))
    write_vocabulary(made / "vocabulary.arrow", ["<bos>", *words[1:]])
    (made / CHECKPOINT).unlink()
    statistics_F, entries = tables.statistics_F, int(tables.statistics_F["count"].sum())
    settings = {"context": context, "rows": rows, "top_k": top_k, "seed": seed, "norm_cut": 10.0}
    manifest = {
        "version": VERSION,
        "n_features": features,
        "n_live": int((statistics_F["count"] > 0).sum()),
        "n_tokens": state.kept,
        "n_all": rows * context,
        "rows": rows,
        "entries": entries,
        "store_hash": store_hash,
        "created_at": now(),
        "row_length": context,
        "rows_available": rows,
        "exponent": state.exponent or 0,
        "clipped": state.clipped,
        "median_norm": 0.0,
        "masked": state.masked,
        "l0": entries / max(state.kept, 1),
        "mean_frequency": float(statistics_F["frequency"].mean()),
        "lens": "stored",
        "settings": settings,
        "key": partial.key,
        "model": "synthetic",
        "hook": "synthetic",
        "tokens_folder": relative_to(places.store, places.tokens),
        "text_folder": relative_to(places.store, places.text),
    }
    write_json(made / "manifest.json", manifest)
    places.store.parent.mkdir(parents=True, exist_ok=True)
    made.replace(places.store)
    return places._replace(n_tokens=state.kept, entries=entries, store_hash=store_hash)


def _write_lens(made: Path, chance: np.random.Generator, features: int, vocabulary: int) -> None:
    """Made-up logits: falling positive, rising negative ones."""
    shape = (features, lens_figures.KEPT)
    logits_FK = -np.sort(-np.abs(chance.normal(1.5, 0.5, shape))).astype(np.float32)
    histogram_FB = np.tile(
        (vocabulary * np.exp(-0.5 * np.linspace(-3, 3, BINS) ** 2) / BINS).astype(np.int32),
        (features, 1),
    )
    arrays = {
        "positive_ids": chance.integers(1, vocabulary, shape, dtype=np.int32),
        "positive_logits": logits_FK,
        "negative_ids": chance.integers(1, vocabulary, shape, dtype=np.int32),
        "negative_logits": -logits_FK,
        "histogram": histogram_FB,
        "low": -logits_FK[:, 0],
        "high": logits_FK[:, 0],
        "skew": chance.normal(0, 0.5, features).astype(np.float32),
        "kurtosis": chance.normal(3, 0.5, features).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(made / f"lens_{name}.npy", array)
