"""What a steering card shows of its source: label, SAE, scale, how strong a push is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistudio.core.errors import StudioError
from mistudio.core.sae_readings import steers_by
from mistudio.core.steering_spec import Direction, Feature, Source
from mistudio.jobs import vector_library
from mistudio.jobs.runner import Studio
from mistudio.store.features import FeatureRow, feature_rows, newest_set
from mistudio.store.records import FeatureSetRow, SaeRow, SteeringVectorRow
from mistudio.store.tables import MODELS, SAES, STEERING_VECTORS

STREAM_NORM = "stream_norm"  # in a vector's report: the median norm where it acts, if measured


@dataclass(frozen=True)
class CardFacts:
    """A source as a card shows it. `push` is |d| / M, the share of the median residual norm M that
    an activation of 1 adds; None where the files do not say. `layers`: how many the model has, 0
    where that is not known."""

    source: Source
    sae: SaeRow | None = None
    found: FeatureRow | None = None
    push: float | None = None
    vector: SteeringVectorRow | None = None
    layers: int = 0

    @property
    def layer(self) -> int | None:
        """The layer that it acts at, None where that is not known."""
        if isinstance(self.source, Direction) and self.source.layer is not None:
            return self.source.layer
        known = self.vector or self.sae
        return known.layer if known else None

    @property
    def model_id(self) -> str:
        """The model that the source belongs to, "" if it is not known."""
        known = self.sae or self.vector
        return (known.model_id if known else "") or ""

    @property
    def maximum(self) -> float:
        """The largest activation that was seen, 0 if none is known."""
        return self.found.max if self.found else 0.0

    @property
    def short(self) -> str:
        """How the card is headed."""
        return f"#{self.source.index}" if isinstance(self.source, Feature) else "vector"

    @property
    def title(self) -> str:
        """The label of a feature, else its top tokens; the name of a vector."""
        if not isinstance(self.source, Feature):
            return self.vector.name if self.vector else self.source.name
        known = self.found
        return (known.label or known.top_tokens if known else "") or "no label"

    @property
    def place(self) -> str:
        """Layer and hook that it acts at."""
        if self.vector is not None:
            return f"layer {self.vector.layer} · {self.vector.hook}"
        if self.sae is None or self.sae.layer is None:
            return ""
        return f"layer {self.sae.layer} · {self.sae.hook_out or self.sae.hook_in or '?'}"

    @property
    def added(self) -> str:
        """What it adds, where that is not what the feature itself does; "" elsewhere."""
        return steers_by(self.sae.config) if self.sae is not None else ""

    @property
    def weight(self) -> float | None:
        """|d| of the source in median norms at its largest activation."""
        return self.push * self.maximum if self.push and self.maximum else None


def unknown_feature(index: int) -> FeatureRow:
    """A latent of which nothing is known, as features were not found yet."""
    return FeatureRow(index, None, None, None, False, False, 0, 0.0, 0, 0.0, 0.0, "", "", "", "[]")


def read_cards(studio: Studio, sources: Sequence[Source]) -> list[CardFacts]:
    """Facts of every source that is in the library, in order; the others are left out."""
    db, found = studio.db(), list[CardFacts]()
    saes: dict[str, tuple[SaeRow, FeatureSetRow | None, float | None] | None] = {}
    for source in sources:
        if not isinstance(source, Feature):
            found += _vector_facts(studio, source)
            continue
        if source.sae not in saes:
            row = SAES.find(db, source.sae)
            chosen = newest_set(db, row.id) if row else None
            saes[source.sae] = (row, chosen, _median_norm(studio, row, chosen)) if row else None
        known = saes[source.sae]
        if known is None or source.index >= known[0].n_latents:
            continue
        sae, chosen, median = known
        rows = feature_rows(db, chosen, [source.index]) if chosen else []
        row_norm = _decoder_norm(studio, sae, source.index)
        push = row_norm / median if row_norm and median else None
        row = rows[0] if rows else unknown_feature(source.index)
        found.append(CardFacts(source, sae, row, push, layers=_layers(studio, sae.model_id)))
    return found


def _layers(studio: Studio, model_id: str | None) -> int:
    model = MODELS.find(studio.db(), model_id) if model_id else None
    return (model.num_layers or 0) if model else 0


def _vector_facts(studio: Studio, source: Direction) -> list[CardFacts]:
    """Those of a vector, none if it is not in the library."""
    try:
        row = vector_library.find_one(studio, source.name)
    except StudioError:
        return []
    median = median_norm_at(studio, row.model_id, row.layer, row.hook)
    push = row.norm / median if median else None
    return [CardFacts(source, push=push, vector=row, layers=_layers(studio, row.model_id))]


def median_norm_at(studio: Studio, model_id: str | None, layer: int, hook: str) -> float | None:
    """The median residual norm at a place, as an SAE that writes there or a vector knows it."""
    where = "model_id = ? AND layer = ? AND COALESCE(hook_out, hook_in) = ?"
    for sae in SAES.select(studio.db(), where, [model_id, layer, hook]):
        found = _median_norm(studio, sae, newest_set(studio.db(), sae.id))
        if found:
            return found
    where = "model_id = ? AND layer = ? AND hook = ?"
    for vector in STEERING_VECTORS.select(studio.db(), where, [model_id, layer, hook]):
        found = (vector.report or {}).get(STREAM_NORM)
        if found:
            return float(found)
    return None


def _median_norm(studio: Studio, sae: SaeRow, chosen: FeatureSetRow | None) -> float | None:
    """M at the place that the SAE writes to: of its feature set, else of its training."""
    name = "median_norm" if sae.encoder_type == "sae" else "median_norm_out"
    summary: dict[str, Any] = (chosen.summary if chosen else None) or {}
    known = summary.get(name)
    if not known and sae.path:
        try:
            text = (studio.paths.absolute(sae.path) / "cfg.json").read_text("utf-8")
            told: dict[str, Any] = json.loads(text).get("metadata") or {}
            known = told.get(name)
        except (OSError, ValueError, AttributeError):
            known = None
    if not known and sae.path:  # measured by a run, where the files came without
        try:
            beside = studio.paths.absolute(sae.path) / "median_norm.json"
            known = json.loads(beside.read_text("utf-8")).get(name)
        except (OSError, ValueError, AttributeError):
            return None
    return float(known) if isinstance(known, (int, float)) and known > 0 else None


def _decoder_norm(studio: Studio, sae: SaeRow, index: int) -> float | None:
    """|d| of a latent, None for files that numpy cannot read (such as 16-bit ones)."""
    from safetensors import SafetensorError, safe_open

    reader: Any = safe_open  # its types are not known
    path = studio.paths.absolute(sae.path) / "sae_weights.safetensors" if sae.path else None
    if path is None or not path.is_file():
        return None
    try:
        with reader(str(path), framework="numpy") as weights:
            row_D: np.ndarray = weights.get_slice("W_dec")[index : index + 1]
    except (OSError, TypeError, ValueError, SafetensorError):
        return None
    return float(np.linalg.norm(row_D.astype(np.float64)))
