"""What the Features tab knows of the chosen SAE, read in one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistudio.store.features import newest_set
from mistudio.store.labels import Interpretability, interpretability
from mistudio.store.records import FeatureSetRow, JobRow, SaeRow
from mistudio.store.tables import DATASETS, JOBS, TOKENIZATIONS

MEAN_RATE = (
    "SELECT AVG(frequency), SUM(count > 0), COUNT(*) FROM feature_statistics "
    "WHERE feature_set_id = ?"
)
TRAINED_ON = (
    "SELECT d.name FROM training_datasets t JOIN tokenizations k ON k.id = t.tokenization_id "
    "JOIN datasets d ON d.id = k.dataset_id WHERE t.training_id = ? LIMIT 1"
)


@dataclass(frozen=True)
class Overview:
    """An SAE, its newest finished feature set, and the harvest that is under way."""

    sae: SaeRow
    feature_set: FeatureSetRow | None
    live: int
    features: int
    mean_rate: float | None
    """mean over all features of the share of tokens on which each fires"""
    read_text: str
    """name of the dataset that the feature set was read from"""
    trained_on: str
    job: JobRow | None
    datasets: tuple[tuple[str, str], ...]
    """id and name of every ready dataset"""
    interpretable: Interpretability | None = None
    """how the chosen labels score"""


def read_overview(db: Any, sae: SaeRow) -> Overview:
    """Read it all; called in the query thread."""
    found = newest_set(db, sae.id)
    mean_rate, live, features = None, 0, sae.n_latents
    if found is not None:
        mean_rate, live, features = db.execute(MEAN_RATE, [found.id]).fetchone()
    trained = db.execute(TRAINED_ON, [sae.training_id]).fetchone() if sae.training_id else None
    datasets = DATASETS.select(db, "status = 'ready'")
    return Overview(
        sae,
        found,
        live or 0,
        features,
        mean_rate,
        _text_of(db, found),
        trained[0] if trained else "",
        active_harvest(db, sae.id),
        tuple((row.id, row.name) for row in datasets),
        interpretability(db, found) if found is not None else None,
    )


def _text_of(db: Any, found: FeatureSetRow | None) -> str:
    tokens = TOKENIZATIONS.find(db, found.tokenization_id or "") if found else None
    dataset = DATASETS.find(db, tokens.dataset_id) if tokens else None
    return dataset.name if dataset else ""


def active_harvest(db: Any, sae_id: str) -> JobRow | None:
    """The unfinished harvest or labelling of an SAE, if there is one."""
    jobs = JOBS.select(
        db,
        "kind IN ('harvest', 'label_features') "
        "AND status IN ('queued', 'running', 'paused', 'interrupted')",
    )
    return next((job for job in jobs if job.config.get("sae") == sae_id), None)
