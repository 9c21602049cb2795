"""Every kind of job: its lane, its settings, its function."""

from __future__ import annotations

from typing import Any

from mistudio.core.config import Config
from mistudio.core.configs import DemoConfig
from mistudio.jobs import demo
from mistudio.jobs.context import JobKind
from mistudio.jobs.data_kinds import DATA_KINDS
from mistudio.jobs.feature_kinds import FEATURE_KINDS
from mistudio.jobs.sae_kinds import SAE_KINDS
from mistudio.store.connection import Db
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, MODELS, SAES, TOKENIZATIONS, TRAININGS

TABLES = {
    "sae": SAES,
    "activations": ACTIVATION_SETS,
    "dataset": DATASETS,
    "model": MODELS,
    "training": TRAININGS,
}

JOB_KINDS: dict[str, JobKind] = {
    known.kind: known
    for known in (
        *DATA_KINDS,
        *SAE_KINDS,
        *FEATURE_KINDS,
        JobKind("demo", "gpu", "Run the sample", DemoConfig, demo.run),
    )
}


_SUBJECTS = ("name", "path", "repo", "sae", "activations", "dataset", "model")


def title_of(db: Db, known: JobKind, config: Config) -> str:
    """What a job is called in lists: its noun and the name of the thing it works on."""
    for name in (known.subject, *_SUBJECTS):
        value: Any = getattr(config, name, "") if name else ""
        if value and value != "last":
            row = TABLES[name].find(db, str(value)) if name in TABLES else None
            if row is None and name == "dataset":
                tokens = TOKENIZATIONS.find(db, str(value))
                row = DATASETS.find(db, tokens.dataset_id) if tokens else None
            short = row.name if row else str(value).rstrip("/").rsplit("/", 1)[-1]
            return f"{known.noun} {short}"
    return known.noun.removesuffix(" of")
