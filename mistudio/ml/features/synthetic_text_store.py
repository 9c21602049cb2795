"""A feature store over random words, with its text and tokens, for measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mistudio.ml.data.token_store import CONTENT
from mistudio.ml.data.write_dataset import write_text_store
from mistudio.ml.features.feature_store import VERSION, FeatureStore
from mistudio.ml.features.statistics import Columns, describe
from mistudio.ml.features.transpose import transpose
from mistudio.ml.features.vocabulary import write_vocabulary


def synthetic_text_store(place: Path, features: int, rows: int, l0: int) -> FeatureStore:
    """A store over random words with about `l0` features a token, frequencies over two decades."""
    rng, length = np.random.default_rng(0), 128
    vocabulary = [f" word{number}" for number in range(5000)]
    ids = rng.integers(0, len(vocabulary), (rows, length)).astype(np.int32)
    texts, offsets = [], np.zeros((rows, length, 2), np.int32)
    for row, line in enumerate(ids.tolist()):
        words = [vocabulary[token] for token in line]
        ends = np.cumsum([len(word) for word in words])
        offsets[row, :, 1], offsets[row, 1:, 0] = ends, ends[:-1]
        texts.append("".join(words))
    write_text_store(place / "text", texts)
    tokens, folder = place / "tokens", place / "store"
    for made in (tokens, folder):
        made.mkdir()
    docs = np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], ids.shape)
    mask = np.full(ids.shape, CONTENT, np.uint8)
    for name, array in (("ids", ids), ("offsets", offsets), ("docs", docs), ("mask", mask)):
        np.save(tokens / f"{name}.npy", array)
    meta = {"rows": rows, "context": length, "parts": {}, "settings": {}, "pad_id": 0}
    (tokens / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    weight = np.logspace(0, -2, features)
    counts = rng.binomial(rows * length, np.minimum(weight / weight.sum() * l0, 1.0))
    entries = int(counts.sum())
    owner = np.repeat(np.arange(features), counts)
    token = rng.integers(0, rows * length, entries)
    key = np.unique(token * features + owner)
    token, owner = key // features, (key % features).astype(np.uint16)
    splits = np.concatenate([[0], np.cumsum(np.bincount(token, minlength=rows * length))])
    values = rng.gamma(2.0, 2.0, len(owner)).astype(np.float16)
    for name, array in (("splits", splits), ("features", owner), ("values", values)):
        np.save(folder / f"csr_{name}.npy", array)
    transpose(folder, splits, owner, values, features)
    csc = [np.load(folder / f"csc_{name}.npy") for name in ("splits", "tokens", "values")]
    columns = Columns(csc[0], csc[1], csc[2], 0, length)
    tables = describe(columns, ids, rows * length, top_k=20, seed=0)
    for name, array in tables._asdict().items():
        np.save(folder / f"{name.rpartition('_')[0]}.npy", array)
    np.save(folder / "ids.npy", ids.reshape(-1))
    np.save(folder / "mask.npy", mask.reshape(-1))
    np.save(folder / "rows.npy", np.stack([np.arange(rows), np.zeros(rows)], 1).astype(np.int32))
    _write_lens(folder, features, len(vocabulary))
    write_vocabulary(folder / "vocabulary.arrow", vocabulary)
    manifest = {
        "version": VERSION,
        "n_features": features,
        "n_tokens": rows * length,
        "n_all": rows * length,
        "rows": rows,
        "row_length": length,
        "exponent": 0,
        "store_hash": "0" * 64,
        "lens": "stored",
        "settings": {"seed": 0},
        "tokens_folder": "../tokens",
        "text_folder": "../text",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return FeatureStore(folder)


def _write_lens(folder: Path, features: int, vocabulary: int) -> None:
    rng = np.random.default_rng(1)
    for side, sign in (("positive", 1), ("negative", -1)):
        chosen = rng.integers(0, vocabulary, (features, 10)).astype(np.int32)
        logits = sign * np.sort(rng.random((features, 10)), 1)[:, ::-1]
        np.save(folder / f"lens_{side}_ids.npy", chosen)
        np.save(folder / f"lens_{side}_logits.npy", logits.astype(np.float32))
    counts = rng.multinomial(vocabulary, np.full(50, 0.02), features).astype(np.int32)
    np.save(folder / "lens_histogram.npy", counts)
    for name, value in (("low", -1.0), ("high", 1.0), ("skew", 0.0), ("kurtosis", 3.0)):
        np.save(folder / f"lens_{name}.npy", np.full(features, value, np.float32))
