"""A made-up feature set in a library, with the SAE, text and rows that the faces look for."""

from __future__ import annotations

from mistudio.core.atomic import directory_bytes
from mistudio.core.ids import new_id
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import add_sae
from mistudio.store import features
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import DATASETS, FEATURE_SETS, TOKENIZATIONS


def add_synthetic(
    studio: Studio,
    n_features: int = 32_768,
    n_tokens: int = 3_145_728,
    l0: float = 16.0,
    *,
    seed: int = 0,
    width: int = 64,
) -> tuple[SaeRow, FeatureSetRow]:
    """Write a synthetic store, its text and a random SAE of input width `width` into a library.

    Meant for an empty data folder: measurements use it, no model stands behind it.
    """
    from mistudio.ml.features.bench_harvest import random_sae
    from mistudio.ml.features.synthetic_store import write_synthetic

    sae = random_sae(width, n_features, min(n_features, max(1, round(l0))), seed)
    row = add_sae(
        studio,
        sae,
        {"model_name": "synthetic"},
        name="synthetic",
        origin="import",
        model=None,
        layer=0,
        hook="resid_post",
    )
    db = studio.db()
    dataset = DATASETS.insert(db, name="synthetic", source="local", status="ready")
    feature_set_id = new_id("feature_set")
    made = write_synthetic(
        studio.paths.dataset(dataset.id),
        n_features,
        n_tokens,
        l0,
        seed=seed,
        store=studio.paths.feature_set(feature_set_id),
    )
    tokens = TOKENIZATIONS.insert(
        db,
        dataset_id=dataset.id,
        tokenizer_name="synthetic",
        settings_hash="synthetic",
        context=128,
        path=studio.paths.relative(made.tokens),
        status="ready",
    )
    store = made.open()
    found = FEATURE_SETS.insert(
        db,
        id=feature_set_id,
        sae_id=row.id,
        tokenization_id=tokens.id,
        n_tokens=made.n_tokens,
        n_live=int((store.statistics["count"] > 0).sum()),
        store_hash=made.store_hash,
        summary=store.summary,
        path=studio.paths.relative(made.store),
        size_bytes=directory_bytes(made.store),
        status="ready",
    )
    features.add_statistics(db, found.id, store.table_rows())
    return row, found
