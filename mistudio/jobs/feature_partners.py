"""Which features go together with one: co-activation, decoder neighbours, hints of absorption.

Figures are kept with the SAE; labels and tokens of the partners are read anew each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import Mismatch, NotFound
from mistudio.core.units import EM_DASH, format_count
from mistudio.jobs import feature_analyses, feature_pages, sae_geometry
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES

if TYPE_CHECKING:
    from mistudio.ml.features.coactivation import CoActivation
    from mistudio.ml.features.feature_store import FeatureStore

KIND, VERSION = "coactivation", 1
TOP = 20
SHOWN = ("pearson", "pmi", "jaccard")
"""measures that a list goes by, the usual one first"""
NAMES = {"pearson": "Pearson", "pmi": "PMI", "jaccard": "Jaccard"}


@dataclass(frozen=True)
class Partner:
    """A feature that shares tokens with the one shown; measures as in `coactivation.MEASURES`.

    `count` are its own tokens, `shared` those on which both are active.
    """

    feature: int
    count: int
    shared: int
    measures: dict[str, float | None]
    label: str = ""
    top_tokens: str = ""


@dataclass(frozen=True)
class Neighbour:
    """A feature by the cosine of decoder rows; the cosine of a row without a length is None."""

    feature: int
    cosine: float | None
    label: str = ""
    top_tokens: str = ""


@dataclass(frozen=True)
class Hint:
    """A neighbour that may have absorbed the feature: it fires where one would expect this one.

    `cosine` of the decoder rows; `p` the share of the neighbour's `tokens` on which this
    feature is active too; `windows` of its `examples` strongest windows hold a top token of this
    feature.
    """

    feature: int
    cosine: float
    tokens: int
    p: float
    windows: int
    examples: int
    label: str = ""
    top_tokens: str = ""


@dataclass(frozen=True)
class Correlations:
    """A feature's partners by each measure of `SHOWN`, and what the figures rest on."""

    feature: int
    n_tokens: int
    count: int
    partners: dict[str, list[Partner]]
    hints: list[Hint]
    made_at: str
    truncated: bool
    """whether the store lacks the weakest activations, so that counts are lower bounds"""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


def correlations(studio: Studio, sae: SaeRow, index: int, *, anew: bool = False) -> Correlations:
    """Partners over the whole SAE by each measure, and hints of absorption; `anew` counts again."""
    found = feature_pages.feature_set(studio, sae)
    store = feature_pages.open_store(studio, found)
    store.flags(index)  # refuses a feature that does not exist
    kept = feature_analyses.kept(
        studio,
        sae,
        found,
        KIND,
        VERSION,
        {"top": TOP},
        lambda: _count(studio, sae, store, index),
        feature=index,
        anew=anew,
    )
    result: Mapping[str, Any] = kept.result
    named = {line["feature"] for line in (*result["partners"], *result["hints"])}
    words = _words(studio, sae, named)
    by_index = {
        line["feature"]: Partner(**line, **words.get(line["feature"], {}))
        for line in result["partners"]
    }
    return Correlations(
        feature=index,
        n_tokens=found.n_tokens or 0,
        count=result["count"],
        partners={name: [by_index[i] for i in result["order"][name]] for name in SHOWN},
        hints=[Hint(**line, **words.get(line["feature"], {})) for line in result["hints"]],
        made_at=kept.made_at,
        truncated=bool(store.summary.get("truncated")),
    )


def neighbours(
    studio: Studio, sae: SaeRow, index: int, *, other: SaeRow | None = None, top: int = 10
) -> list[Neighbour]:
    """Features by falling cosine to a feature's decoder row, in the same SAE or in another one."""
    from mistudio.ml.features.decoder_rows import (
        KEPT_NEIGHBOURS,
        MOST_NEIGHBOURS,
        Neighbours,
        open_rows,
    )
    from mistudio.ml.features.decoder_rows import neighbours as search

    check_index(sae, index)
    top = max(1, min(top, MOST_NEIGHBOURS))
    within = sae if other is None else other
    kept = sae_geometry.kept_geometry(studio, within)
    if kept is not None and within is sae and top <= KEPT_NEIGHBOURS:
        line = kept[index]
        known = line["nearest"] >= 0
        found = Neighbours(line["nearest"][known][:top], line["cosine"][known][:top])
    else:
        require_one_stream(sae, within)
        own = open_rows(sae_geometry.weights_of(studio, sae))
        rows = own if within is sae else open_rows(sae_geometry.weights_of(studio, within))
        found = search(
            rows,
            own[index],
            top,
            leave_out=index if within is sae else -1,
            lengths_F=None if kept is None else kept["norm"],
        )
    words = _words(studio, within, found.features.tolist())
    pairs = zip(found.features.tolist(), found.cosines.tolist(), strict=True)
    return [
        Neighbour(feature, cosine if cosine == cosine else None, **words.get(feature, {}))
        for feature, cosine in pairs
    ]


def comparable(studio: Studio, sae: SaeRow) -> list[SaeRow]:
    """Other SAEs whose decoder rows are directions of the same stream."""
    rows = SAES.select(studio.db(), "id != ? AND status = 'ready'", [sae.id])
    return [row for row in rows if _stream(row) == _stream(sae)]


def require_one_stream(sae: SaeRow, other: SaeRow) -> None:
    """Raise `Mismatch` unless both SAEs write into the same stream."""
    if _stream(sae) != _stream(other):
        raise Mismatch(
            f"SAE {other.name!r} writes into another stream than {sae.name!r}; choose one of the "
            "same model, layer and hook."
        )


def _stream(row: SaeRow) -> tuple[object, ...]:
    model = row.model_id or row.model_name
    return model, row.layer, row.hook_out or row.hook_in, row.d_out


def check_index(sae: SaeRow, index: int) -> None:
    """Raise `NotFound` for a feature that the SAE does not have."""
    if not 0 <= index < sae.n_latents:
        raise NotFound(
            f"Feature {index:,} does not exist; the SAE has {sae.n_latents:,} latents "
            f"(0 to {sae.n_latents - 1:,})."
        )


def _words(studio: Studio, sae: SaeRow, indices: Iterable[int]) -> dict[int, dict[str, Any]]:
    """Label and top tokens of features, as far as their SAE has a feature set."""
    found = features.newest_set(studio.db(), sae.id)
    if found is None:
        return {}
    rows = features.feature_rows(studio.db(), found, list(indices))
    return {row.index: {"label": row.label or "", "top_tokens": row.top_tokens} for row in rows}


def _count(studio: Studio, sae: SaeRow, store: FeatureStore, index: int) -> dict[str, Any]:
    """The analysis itself, as plain JSON values."""
    from mistudio.ml.features.coactivation import coactivation, measures, strongest

    found = coactivation(store, index)
    values = measures(store, found)
    order = {name: strongest(found, values[name], TOP) for name in SHOWN}
    union = sorted({feature for listed in order.values() for feature in listed})
    partners = [
        {
            "feature": j,
            "count": int(store.statistics["count"][j]),
            "shared": int(found.shared_F[j]),
            "measures": {name: _number(part[j]) for name, part in values.items()},
        }
        for j in union
    ]
    return {
        "count": int(store.statistics["count"][index]),
        "partners": partners,
        "order": order,
        "hints": _hints(studio, sae, store, found),
    }


def _hints(
    studio: Studio, sae: SaeRow, store: FeatureStore, found: CoActivation
) -> list[dict[str, Any]]:
    from mistudio.ml.features.absorption import absorption_hints
    from mistudio.ml.features.decoder_rows import MOST_NEIGHBOURS, open_rows
    from mistudio.ml.features.decoder_rows import neighbours as search

    rows = open_rows(sae_geometry.weights_of(studio, sae))
    kept = sae_geometry.kept_geometry(studio, sae)
    near = search(
        rows,
        rows[found.feature],
        MOST_NEIGHBOURS,
        leave_out=found.feature,
        lengths_F=None if kept is None else kept["norm"],
    )
    return [hint._asdict() for hint in absorption_hints(store, found, near)]


def _number(value: float) -> float | None:
    return float(value) if value == value else None


def correlation_lines(found: Correlations, measure: str) -> list[str]:
    """Partners and hints as text for a terminal."""
    listed = found.partners[measure]
    out = [
        f"Feature {found.feature} fires on {format_count(found.count)} of "
        f"{format_count(found.n_tokens)} tokens; by {NAMES[measure]} over all features:"
    ]
    out += [
        f"  #{p.feature:<7} {_written(p.measures[measure]):>8}  together {p.shared:>9,}  "
        f"P(j|i) {_written(p.measures['p_j_i'])}  {p.label or p.top_tokens}"
        for p in listed
    ]
    if not listed:
        out.append("  no feature is active on the same tokens")
    for hint in found.hints:
        out.append(
            f"hint: #{hint.feature} may have absorbed it: cosine {hint.cosine:.3f}, active "
            f"together on {100 * hint.p:.2f} % of its {hint.tokens:,} tokens, "
            f"{hint.windows} of {hint.examples} of its strongest windows hold the top tokens"
        )
    return out


def neighbour_lines(found: Sequence[Neighbour]) -> list[str]:
    """Neighbours as text for a terminal."""
    return [f"  #{n.feature:<7} {_written(n.cosine):>8}  {n.label or n.top_tokens}" for n in found]


def _written(value: float | None) -> str:
    return EM_DASH if value is None else f"{value:.4f}"
