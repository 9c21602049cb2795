"""Activation sets for display: an estimate before extracting, the statistics afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import directory_bytes
from mistudio.core.errors import Damaged, InUse, NotFound, StudioError
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.units import format_bytes, format_duration
from mistudio.jobs.extraction_plan import free_room, plan_extraction
from mistudio.jobs.runner import Studio
from mistudio.store.records import ActivationSetRow
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, MODELS, TOKENIZATIONS

if TYPE_CHECKING:
    import numpy as np

_LONG_S = 3600
_LARGE_BYTES = 50 * 10**9
_AROUND = 12  # tokens of context shown on either side of a strong one


@dataclass(frozen=True)
class ExtractEstimate:
    """What an extraction would take."""

    rows: int
    tokens: int
    """per layer and hook"""
    layers: list[int]
    hooks: list[str]
    dtype: str
    """fp16, bf16 or fp32: what "auto" means here"""
    bytes: int
    free: int
    """bytes that may be used: free on the disk less what is kept free"""
    seconds: float | None
    """None until a probe has measured the rate"""
    warning: str
    """"" or sentences: long, large, layers left out"""
    refusal: str
    """"" or the sentence that says why it cannot start"""


@dataclass(frozen=True)
class OutlierDimension:
    """A dimension whose mean or spread is far from the others'."""

    dimension: int
    mean: float
    std: float
    times: float
    """|mean| or std as a multiple of its median over dimensions, whichever is larger"""


@dataclass(frozen=True)
class SinkPosition:
    """A position whose tokens are far stronger than the rest."""

    position: int
    median_norm: float
    times: float
    """of the median norm over all tokens"""


@dataclass(frozen=True)
class TokenPlace:
    """One of the strongest tokens of a layer and hook."""

    norm: float
    token_id: int
    row: int
    position: int


@dataclass(frozen=True)
class StrongToken:
    """A strong token in its text; the texts are "" if the dataset is gone."""

    place: TokenPlace
    before: str
    text: str
    after: str
    special: bool


@dataclass(frozen=True)
class HookStatistics:
    """What was measured at one layer and hook, over all stored tokens with finite values."""

    layer: int
    hook: str
    width: int
    tokens: int
    non_finite: int
    """tokens with a value that is not finite; they are stored, but not measured"""
    clipped: int
    """values beyond what fp16 holds, stored as its largest number"""
    norm_mean: float
    norm_median: float
    """from a histogram, exact to about 2 %"""
    norm_min: float
    norm_max: float
    norm_edges_B: np.ndarray
    """edges of the histogram's bins, one more than counts, evenly spaced in the logarithm"""
    norm_counts_B: np.ndarray
    near_zero_below: float
    """values smaller than this count as near zero: 1 % of the root mean square at the start"""
    near_zero_share: float
    mean_D: np.ndarray
    variance_D: np.ndarray
    outliers: list[OutlierDimension]
    """strongest first"""
    strongest: list[TokenPlace]
    """largest norm first"""
    sinks: list[SinkPosition]
    """by position"""


@dataclass(frozen=True)
class SetPage:
    """Everything a browser shows of one set; `hooks` is empty unless it is completed."""

    row: ActivationSetRow
    model: str
    """the model's name, "" if it is gone"""
    dataset: str
    """name of the dataset behind the tokens, "" if it is gone"""
    folder: Path
    hooks: list[HookStatistics]
    seconds: float | None
    """duration of the extraction"""
    tokens_per_s: float | None
    peak_memory_bytes: int | None
    kept_bytes: int
    """of an unfinished set: what is kept for going on"""


def estimate(
    studio: Studio, config: ExtractConfig, tokens_per_s: float | None = None
) -> ExtractEstimate:
    """Size at once; time if a probe's rate (tokens per second, all hooks) is given.

    Never raises: what does not fit together becomes the refusal.
    """
    free, spare = free_room(studio)
    usable = max(0, free - spare)
    try:
        plan = plan_extraction(studio, config)
    except (StudioError, ValueError) as error:
        sentence = str(error) if isinstance(error, StudioError) else "Write layers as 0,6,11."
        return ExtractEstimate(
            0, 0, [], list(config.hooks), config.dtype, 0, usable, None, "", sentence
        )
    seconds = plan.tokens / tokens_per_s if tokens_per_s and plan.tokens else None
    warnings = [plan.dropped] if plan.dropped else []
    if seconds is not None and seconds > _LONG_S:
        warnings.append(f"This takes about {format_duration(seconds)}.")
    if plan.bytes > _LARGE_BYTES:
        warnings.append(f"This writes {format_bytes(plan.bytes)}.")
    refusal = "" if plan.hooks else "Choose at least one hook."
    if not refusal:
        refusal = no_room(plan.bytes, usable)
    return ExtractEstimate(
        plan.rows,
        plan.tokens,
        plan.layers,
        plan.hooks,
        plan.dtype,
        plan.bytes,
        usable,
        seconds,
        " ".join(warnings),
        refusal,
    )


def no_room(needed: int, usable: int) -> str:
    """The sentence that refuses to write so much, "" if there is room."""
    if needed <= usable:
        return ""
    return (
        f"Needs {format_bytes(needed)}, {format_bytes(usable)} are free. Choose fewer rows, layers "
        "or hooks, or free some space."
    )


def sets(studio: Studio) -> list[ActivationSetRow]:
    """Every activation set, newest first."""
    return ACTIVATION_SETS.select(studio.db())


def set_page(studio: Studio, set_id: str) -> SetPage:
    """One set with the statistics of each layer and hook.

    Raises `NotFound`, or `Damaged` if the statistics of a completed set cannot be read.
    """
    row = ACTIVATION_SETS.get(studio.db(), set_id)
    names = _names(studio, row)
    folder = studio.paths.activations(row.id)
    if row.status != "completed":
        kept = directory_bytes(partial_folder(studio, row.id))
        return SetPage(row, *names, folder, [], None, None, None, kept)
    try:
        found = json.loads((folder / "statistics.json").read_text("utf-8"))
        hooks = [_statistics(values) for values in found["hooks"].values()]
        run = found["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"The statistics of {row.name!r} cannot be read; extract the set again.",
            details=str(error),
        ) from error
    return SetPage(
        row,
        *names,
        folder,
        hooks,
        run["seconds"],
        run["tokens_per_s"],
        run["peak_memory_bytes"],
        0,
    )


def strong_tokens(
    studio: Studio, page: SetPage, layer: int, hook: str, limit: int = 100
) -> list[StrongToken]:
    """The strongest tokens of a layer and hook with the text around them.

    Raises `NotFound` if the set has no such layer and hook.
    """
    found = [h for h in page.hooks if (h.layer, h.hook) == (layer, hook)]
    if not found:
        raise NotFound(f"{page.row.name!r} holds nothing of layer {layer}, {hook}.")
    places = found[0].strongest[:limit]
    tokens_row = TOKENIZATIONS.find(studio.db(), page.row.tokenization_id or "")
    if tokens_row is None:
        return [StrongToken(place, "", "", "", False) for place in places]
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.data.token_store import SPECIAL, TokenStore

    try:
        tokens = TokenStore(studio.paths.absolute(tokens_row.path or ""))
        text = TextStore(studio.paths.dataset(tokens_row.dataset_id))
    except (NotFound, Damaged):
        return [StrongToken(place, "", "", "", False) for place in places]
    shown: list[StrongToken] = []
    for place in places:
        at = place.position
        shown.append(
            StrongToken(
                place,
                tokens.span_text(text, place.row, at - _AROUND, at),
                tokens.span_text(text, place.row, at, at + 1),
                tokens.span_text(text, place.row, at + 1, at + 1 + _AROUND),
                int(tokens.mask[place.row, at]) == SPECIAL,
            )
        )
    return shown


def completed_set(studio: Studio, wanted: str) -> ActivationSetRow:
    """The completed set with this id or name, or the newest for `last`.

    Raises `NotFound`, or `InUse` for one that is not complete.
    """
    if wanted == "last":
        found = ACTIVATION_SETS.select(studio.db(), "status = 'completed'", limit=1)
        if not found:
            raise NotFound("There is no activation set yet. Extract one first.")
        return found[0]
    row = ACTIVATION_SETS.named(studio.db(), wanted)
    if row.status != "completed":
        raise InUse(f"Activation set {row.name!r} is not complete ({row.status}).")
    return row


def partial_folder(studio: Studio, set_id: str) -> Path:
    """Where an extraction works; the folder takes the set's name when everything is there."""
    final = studio.paths.activations(set_id)
    return final.with_name(f".{final.name}.part")


def remove_files(studio: Studio, set_id: str) -> None:
    """Remove what a set has on disk, finished or not."""
    for folder in (studio.paths.activations(set_id), partial_folder(studio, set_id)):
        shutil.rmtree(folder, ignore_errors=True)


def _names(studio: Studio, row: ActivationSetRow) -> tuple[str, str]:
    db = studio.db()
    model = MODELS.find(db, row.model_id or "")
    tokens = TOKENIZATIONS.find(db, row.tokenization_id or "")
    dataset = DATASETS.find(db, tokens.dataset_id) if tokens else None
    return (model.name if model else ""), (dataset.name if dataset else "")


def _statistics(values: dict[str, Any]) -> HookStatistics:
    import numpy as np

    return HookStatistics(
        layer=values["layer"],
        hook=values["hook"],
        width=values["width"],
        tokens=values["tokens"],
        non_finite=values["non_finite"],
        clipped=values["clipped"],
        norm_mean=values["norm_mean"],
        norm_median=values["norm_median"],
        norm_min=values["norm_min"],
        norm_max=values["norm_max"],
        norm_edges_B=np.array(values["norm_edges"], dtype=np.float64),
        norm_counts_B=np.array(values["norm_counts"], dtype=np.int64),
        near_zero_below=values["near_zero_below"],
        near_zero_share=values["near_zero_share"],
        mean_D=np.array(values["mean"], dtype=np.float64),
        variance_D=np.array(values["variance"], dtype=np.float64),
        outliers=[OutlierDimension(**item) for item in values["outliers"]],
        strongest=[TokenPlace(**item) for item in values["strongest"]],
        sinks=[SinkPosition(**item) for item in values["sinks"]],
    )
