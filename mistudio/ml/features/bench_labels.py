"""How long rule labels of many features take, on a made-up store in which many can be named."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from mistudio.ml.features.labels.make import label_features
from mistudio.ml.features.labels.strings import strings_of

INTERPRETABLE = 0.8
WORDS = 50_000  # entries of the vocabulary
COMMON = 200  # commonest words, of which features have theirs
NEIGHBOURS = 4
PLANTED = 0.7  # share of a feature's activations that are on its own strings


def bench_labels(
    features: int = 24_576,
    rows: int = 24_576,
    length: int = 128,
    l0: float = 32.0,
    folder: Path | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row of plain values: seconds of wall and processor time, and how labels
    score. The store is written to `folder` (a temporary one by default) and is not timed.

    The share above 0.8 is of made-up features and says nothing of an SAE; it shows that rules are
    fitted and scored.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        entries = write_store(place, features, rows, length, l0, seed)
        vocabulary = [f" word{i}" for i in range(WORDS)]
        generator = np.random.default_rng([seed, 1])
        neighbours = generator.integers(0, features, (features, NEIGHBOURS)).astype(np.int32)
        began, used = time.perf_counter(), time.process_time()
        strings = strings_of(vocabulary)
        labels = label_features(
            place, length, rows * length, vocabulary, strings=strings, neighbours_FM=neighbours
        )
        seconds, processor = time.perf_counter() - began, time.process_time() - used
    scores = [label.scores["auroc"] for label in labels if label.chosen]
    known = np.array([score for score in scores if score is not None])
    live = len({label.feature for label in labels})
    return [
        {
            "what": "rule labels and held-out AUROC",
            "features": features,
            "tokens": rows * length,
            "entries": entries,
            "seconds": round(seconds, 2),
            "processor_seconds": round(processor, 2),
            "target_seconds": 20.0,
            "cores": os.cpu_count(),
            "labelled": live,
            "scored": int(known.size),
            "share_above": round(float((known > INTERPRETABLE).sum() / max(live, 1)), 4),
            "deciles": [round(float(v), 3) for v in np.quantile(known, np.linspace(0, 1, 11))]
            if known.size
            else [],
        }
    ]


def write_store(folder: Path, features: int, rows: int, length: int, l0: float, seed: int) -> int:
    """Write the arrays that labels are made from; returns the number of activations.

    Words are Zipf-distributed. Feature sizes are log-normal with `l0` active features per token in
    the mean; `PLANTED` of a feature's activations are on three words of its own.
    """
    generator = np.random.default_rng(seed)
    total = rows * length
    rank = np.arange(1, WORDS + 1)
    ids_T = generator.choice(WORDS, total, p=(1 / rank) / (1 / rank).sum()).astype(np.int32)
    order = np.argsort(ids_T, kind="stable")
    starts = np.searchsorted(ids_T[order], np.arange(WORDS + 1))
    weight_F = np.exp(generator.standard_normal(features))
    wanted_F = (weight_F / weight_F.sum() * total * l0).astype(np.int64)
    wanted_F = np.clip(wanted_F, 1, total // 4)
    tokens, splits = [], [0]
    for wanted in wanted_F.tolist():
        own = [
            order[starts[word] : starts[word + 1]]
            for word in generator.integers(0, COMMON, 3).tolist()
        ]
        most = int(PLANTED * wanted)
        planted = np.concatenate(own)
        planted = generator.choice(planted, min(most, planted.size), replace=False)
        other = generator.integers(0, total, wanted - planted.size)
        tokens.append(np.unique(np.concatenate([planted, other])).astype(np.uint32))
        splits.append(splits[-1] + tokens[-1].size)
    values = generator.uniform(0.1, 8.0, splits[-1]).astype(np.float16)
    for name, array in (
        ("ids", ids_T),
        ("mask", np.zeros(total, np.uint8)),
        ("csc_splits", np.array(splits, np.int64)),
        ("csc_tokens", np.concatenate(tokens)),
        ("csc_values", values),
    ):
        np.save(folder / f"{name}.npy", array)
    return splits[-1]
