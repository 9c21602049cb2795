"""A feature store written straight from dense activations, without model or text."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mistudio.core.atomic import write_json
from mistudio.ml.features.arrays import open_array
from mistudio.ml.features.feature_store import CSC, KEPT, SPECIAL, TABLES, VERSION
from mistudio.ml.features.statistics import Columns, describe
from mistudio.ml.features.transpose import id_type, transpose
from mistudio.ml.features.vocabulary import write_vocabulary


def write_plain_store(
    folder: Path,
    acts_TF: np.ndarray,
    kept_T: np.ndarray,
    *,
    exponent: int = 0,
    row_length: int = 10,
    ids_T: np.ndarray | None = None,
) -> None:
    """Write a store of the stored values `acts_TF` (fp16 numbers, 0 where not kept).

    Token ids are 0..4 in turn unless given; there is neither lens nor text.
    """
    folder.mkdir(parents=True)
    tokens, features = acts_TF.shape
    ids_T = np.arange(tokens) % 5 if ids_T is None else ids_T
    token, feature = np.nonzero(acts_TF)
    values = acts_TF[token, feature].astype(np.float16)
    splits = np.concatenate([[0], np.cumsum(np.bincount(token, minlength=tokens))])
    ids = feature.astype(id_type(features))
    for name, array in (
        ("csr_splits", splits.astype(np.int64)),
        ("csr_features", ids),
        ("csr_values", values),
        ("ids", ids_T.astype(np.int32)),
        ("mask", np.where(kept_T, KEPT, SPECIAL).astype(np.uint8)),
        ("rows", np.stack([np.arange(tokens // row_length), np.zeros(tokens // row_length)], 1)),
    ):
        np.save(folder / f"{name}.npy", array)
    transpose(folder, splits, ids, values, features)
    columns = Columns(*(open_array(folder / f"{n}.npy") for n in CSC), exponent, row_length)
    kept = int(kept_T.sum())
    tables = describe(columns, ids_T.astype(np.int32), kept, top_k=20, seed=0)
    for field, name in TABLES.items():
        np.save(folder / f"{name}.npy", getattr(tables, field))
    write_vocabulary(folder / "vocabulary.arrow", [f" w{i}" for i in range(ids_T.max() + 1)])
    manifest = {
        "version": VERSION,
        "n_features": features,
        "n_tokens": kept,
        "n_all": tokens,
        "rows": tokens // row_length,
        "row_length": row_length,
        "exponent": exponent,
        "store_hash": "plain",
        "l0": values.size / kept,
        "lens": "no model",
        "settings": {"seed": 0},
        "tokens_folder": "..",
        "text_folder": "..",
    }
    write_json(folder / "manifest.json", manifest)
