"""Exports of a synthetic feature store: seconds and bytes, against what they should take."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.jobs.feature_report import write_report
from mistudio.store.feature_export import Written

REPORT_FEATURES = 200
REPORT_LIMITS = (3.0, 8_000_000)  # seconds, bytes
BULK_LIMIT = 60.0  # seconds for BULK_FEATURES
BULK_FEATURES = 24_576


def bench_feature_exports(
    folder: Path, *, features: int = 2048, rows: int = 2048, l0: int = 32, width: int = 576
) -> list[dict[str, Any]]:
    """Write a store of `features` into a new folder below `folder`, time two exports of it.

    Rows: the HTML report of 200 features, and Neuronpedia's bulk layout, whose seconds for 24,576
    features are extrapolated from `features` and said to be so. The store is deleted again.
    """
    place = Path(tempfile.mkdtemp(prefix="bench-exports-", dir=folder))
    try:
        store = _synthetic_store(place, features, rows, l0)
        return [_report(store, place), _bulk(store, place, features, width)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _report(store: Any, place: Path) -> dict[str, Any]:
    out = place / "report.html"
    shown = [(feature, Written(label=f"feature {feature}")) for feature in range(REPORT_FEATURES)]
    started, cpu = time.perf_counter(), time.process_time()
    write_report(out, "Bench", {}, store, shown, examples=10, context=16)
    seconds, size = time.perf_counter() - started, out.stat().st_size
    return {
        "what": f"HTML report, {REPORT_FEATURES} features",
        "features": REPORT_FEATURES,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "bytes": size,
        "goal": f"{REPORT_LIMITS[0]:g} s, {REPORT_LIMITS[1]:,} bytes",
        "met": seconds <= REPORT_LIMITS[0] and size <= REPORT_LIMITS[1],
        "extrapolated": False,
    }


def _bulk(store: Any, place: Path, features: int, width: int) -> dict[str, Any]:
    import torch

    from mistudio.core.ids import now
    from mistudio.jobs.export_peers import write_bulk
    from mistudio.ml.features.decoder_rows import largest_entries, nearest_rows
    from mistudio.ml.formats.peer_features import PeerFeatures, Source

    W_dec_FO = torch.randn(features, width, generator=torch.Generator().manual_seed(0))
    source = Source("m", 3, "res-x", "me", "resid_post", "text", 1, store.row_length, now())
    started, cpu = time.perf_counter(), time.process_time()
    entries, nearest = largest_entries(W_dec_FO), nearest_rows(W_dec_FO)
    directions = time.perf_counter() - started
    reader = PeerFeatures(store, entries, nearest, None, top=10, context=16)
    out = place / "bulk"
    write_bulk(
        source,
        reader,
        range(features),
        out,
        key=store.store_hash,
        width=width,
        labels=lambda _features: {},
        report=SilentReporter(),
        control=JobControl(),
    )
    seconds = time.perf_counter() - started
    # comparing directions grows with the square of the features, the rest with their number
    times = BULK_FEATURES / features
    whole = directions * times**2 + (seconds - directions) * times
    return {
        "what": f"Neuronpedia bulk, {BULK_FEATURES:,} features",
        "features": features,
        "seconds": round(whole, 1),
        "measured_seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()),
        "goal": f"{BULK_LIMIT:g} s",
        "met": whole <= BULK_LIMIT,
        "extrapolated": features != BULK_FEATURES,
    }


def _synthetic_store(place: Path, features: int, rows: int, l0: int) -> Any:
    """A store over random words with about `l0` features a token, frequencies over two decades."""
    import numpy as np

    from mistudio.ml.data.token_store import CONTENT
    from mistudio.ml.data.write_dataset import write_text_store
    from mistudio.ml.features.feature_store import VERSION, FeatureStore
    from mistudio.ml.features.statistics import Columns, describe
    from mistudio.ml.features.transpose import transpose
    from mistudio.ml.features.vocabulary import write_vocabulary

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
    columns = Columns(
        *(np.load(folder / f"csc_{name}.npy") for name in ("splits", "tokens", "values")), 0, length
    )
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
    import numpy as np

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
