"""How long rule labels of many features take, on a made-up store in which many can be named.

Measured is what labelling does behind a harvest, but for loading the model: the classes that
directions promote, rules and their scores, words that neighbours share, and writing it all down.
Nearest directions are known from the harvest.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.ml.features.labels.directions import NEIGHBOURS, enriched
from mistudio.ml.features.labels.make import RuleLabel, label_features
from mistudio.ml.features.labels.promotes import sample_vocabulary
from mistudio.ml.features.labels.strings import strings_of
from mistudio.ml.features.labels.word_lists import WORD_LISTS
from mistudio.ml.features.transpose import id_type

FEATURES = 24_576
INTERPRETABLE = 0.8
WORDS = 50_000  # entries of the vocabulary
WIDTH = 768  # of directions
COMMON = 200  # commonest words, of which features have theirs
PLANTED = 0.7  # share of a feature's activations that are on its own strings
_SYLLABLES = ("ra", "ti", "so", "ke", "lu", "mo", "na", "vi")  # of octal digits
_RANGES = 8  # parts of the text whose entries are sorted by token at a time


def bench_labels(
    features: int = FEATURES,
    rows: int = 24_576,
    length: int = 128,
    l0: float = 32.0,
    folder: Path | None = None,
    seed: int = 0,
    write: Callable[[list[RuleLabel]], object] = lambda _made: None,
) -> list[dict[str, Any]]:
    """One row of plain values: seconds of wall and processor time, of all and by part, and how
    labels score. The store is made in `folder` (a temporary one by default) and is not timed;
    `write` is given the labels and is.

    The share above 0.8 is of made-up features and says nothing of an SAE; it shows that rules are
    fitted and scored.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made:
        place = Path(made)
        own_F3 = write_store(place, features, rows, length, l0, seed)
        vocabulary = made_up_words(WORDS)
        neighbours_FM = _neighbours(own_F3[:, 0], seed)
        generator = torch.Generator().manual_seed(seed)
        direction_FD = torch.randn(features, WIDTH, generator=generator)
        marks = [(time.perf_counter(), time.process_time())]
        strings = strings_of(vocabulary)
        used = np.unique(np.load(place / "ids.npy", mmap_mode="r"))
        ids = sample_vocabulary(used, seed, strings.classes_V)
        unembedding_VD = torch.randn(len(ids), WIDTH, generator=generator)
        promoted = enriched(direction_FD, unembedding_VD, strings.classes_V[ids], seed=seed)
        marks.append((time.perf_counter(), time.process_time()))
        labels = label_features(
            place,
            length,
            rows * length,
            vocabulary,
            strings=strings,
            neighbours_FM=neighbours_FM,
            promoted=promoted,
            clusters=True,
        )
        marks.append((time.perf_counter(), time.process_time()))
        write(labels)
        marks.append((time.perf_counter(), time.process_time()))
        entries = len(np.load(place / "csc_tokens.npy", mmap_mode="r"))
    scores = [label.scores["auroc"] for label in labels if label.chosen]
    known = np.array([score for score in scores if score is not None])
    live = len({label.feature for label in labels})
    wall, processor = np.diff(marks, axis=0).T.tolist()
    return [
        {
            "what": "rule labels and held-out AUROC",
            "features": features,
            "tokens": rows * length,
            "entries": entries,
            "seconds": round(sum(wall), 2),
            "processor_seconds": round(sum(processor), 2),
            "target_seconds": 20.0,
            "cores": os.cpu_count(),
            **{
                f"{part}_{name}": round(seconds, 2)
                for name, each in (("seconds", wall), ("processor_seconds", processor))
                for part, seconds in zip(("promoted", "rules", "writing"), each, strict=True)
            },
            "labels": len(labels),
            "of_neighbours": sum(label.method == "cluster" for label in labels),
            "labelled": live,
            "scored": int(known.size),
            "share_above": round(float((known > INTERPRETABLE).sum() / max(live, 1)), 4),
            "deciles": [round(float(v), 3) for v in np.quantile(known, np.linspace(0, 1, 11))]
            if known.size
            else [],
        }
    ]


def made_up_words(size: int) -> list[str]:
    """A vocabulary of many kinds of tokens: listed words, then digits, endings, names, signs."""
    listed = [f" {word}" for words in WORD_LISTS.values() for word in words.split()]
    found = list(dict.fromkeys(listed))[:size]
    digits = str.maketrans({str(n): part for n, part in enumerate(_SYLLABLES)})
    for number in range(len(found), size):
        word = f"{number:o}".translate(digits)
        kinds = (f" {word}", word, f" {word.title()}", f" {number}", f" {word}", f" {word}")
        signs = (
            f" {word.upper()}",
            f"{chr(33 + number % 15)}{number % 89 * '.'}",
            f" {word}",
            word,
        )
        found.append((*kinds, *signs)[number % 10])
    return found


def _neighbours(word_F: NDArray[np.int64], seed: int) -> NDArray[np.int32]:
    """`NEIGHBOURS` features each, most with the same first word."""
    generator = np.random.default_rng([seed, 1])
    order = np.argsort(word_F, kind="stable")
    place_F = np.empty(len(order), np.int64)
    place_F[order] = np.arange(len(order))
    step_FM = generator.permuted(
        np.tile(np.arange(1, 2 * NEIGHBOURS + 1), (len(order), 1)), axis=1
    )[:, :NEIGHBOURS]
    return order[(place_F[:, None] + step_FM) % len(order)].astype(np.int32)


def write_store(
    folder: Path, features: int, rows: int, length: int, l0: float, seed: int
) -> NDArray[np.int64]:
    """Write the arrays that labels are made from; returns the three own words of each feature.

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
    own_F3 = generator.integers(0, min(COMMON, max(features // 8, 1)), (features, 3))
    tokens, splits = list[NDArray[np.uint32]](), [0]
    for wanted, words in zip(wanted_F.tolist(), own_F3.tolist(), strict=True):
        own = [order[starts[word] : starts[word + 1]] for word in words]
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
    _write_rows(folder, tokens, total)
    return own_F3


def _write_rows(folder: Path, tokens: list[NDArray[np.uint32]], total: int) -> None:
    """The same activations by token."""
    many_T = np.zeros(total, np.int64)
    for own in tokens:
        many_T[own] += 1
    parts = []
    for part in range(_RANGES):
        low, high = part * total // _RANGES, (part + 1) * total // _RANGES
        inside = [own[slice(*own.searchsorted([low, high]))] for own in tokens]
        size_F = [len(own) for own in inside]
        key = np.concatenate(inside).astype(np.uint64) << np.uint64(32)
        key |= np.repeat(np.arange(len(tokens), dtype=np.uint64), size_F)
        key.sort()
        parts.append(key.astype(np.uint32).astype(id_type(len(tokens))))
    np.save(folder / "csr_splits.npy", np.concatenate([[0], np.cumsum(many_T)]))
    np.save(folder / "csr_features.npy", np.concatenate(parts))
