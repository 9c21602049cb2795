"""What the Features tab knows of the chosen SAE, read in one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistudio.core.units import format_count
from mistudio.jobs.harvest_source import fitting_sets
from mistudio.store.features import feature_sets, newest_set
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
    sets: tuple[tuple[str, str], ...] = ()
    """id and title of every finished feature set, the one in use first"""
    stored: tuple[tuple[str, str], ...] = ()
    """id and name of every activation set that the SAE could be fed from"""
    rate: float | None = None
    """tokens per second of the last harvest of this SAE"""


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
        tuple((row.id, set_title(row, _text_of(db, row))) for row in feature_sets(db, sae.id)),
        tuple((row.id, f"{row.name} ({row.dtype})") for row in fitting_sets(db, sae)),
        _rate(found),
    )


def set_title(found: FeatureSetRow, text: str) -> str:
    """How a feature set reads in a list: text, tokens, context, origin, date."""
    parts = (
        text or "text deleted",
        f"{format_count(found.n_tokens)} tokens",
        f"context {(found.summary or {}).get('row_length', found.config.get('context'))}",
        "from stored activations" if found.config.get("activations") else "",
        "truncated" if (found.summary or {}).get("truncated") else "",
        "free shapes" if (found.summary or {}).get("fast") else "",
        found.created_at[:16].replace("T", " "),
    )
    return " · ".join(part for part in parts if part)


def remarks(found: FeatureSetRow | None) -> list[str]:
    """What must be known of a feature set: tokens left out, free shapes, a truncated store."""
    summary = (found.summary or {}) if found else {}
    said = []
    masked = {name: n for name, n in (summary.get("masked") or {}).items() if n}
    if summary.get("n_all"):
        reasons = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in masked.items())
        left_out = f" ({reasons} left out)" if reasons else ""
        said.append(f"{summary['n_tokens']:,} of {summary['n_all']:,} tokens count{left_out}")
    truncated = summary.get("truncated")
    if truncated:
        said.append(
            f"truncated: {truncated['tokens']:,} tokens keep only their "
            f"{truncated['most_entries']:,} strongest latents; counts, sums and maxima are exact"
        )
    if summary.get("fast"):
        said.append(
            f"read with free shapes, {summary['tile_rows']:,} rows at a time: the last bits of the "
            "activations depend on that number"
        )
    return said


def fit_warning(found: FeatureSetRow | None) -> str:
    """Why the SAE may not fit what it was given, "" without a doubt."""
    return str((((found.summary or {}) if found else {}).get("fit") or {}).get("warning") or "")


def _rate(found: FeatureSetRow | None) -> float | None:
    seconds = float((found.summary or {}).get("seconds") or 0) if found else 0.0
    return (found.n_tokens or 0) / seconds if found and seconds else None


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
