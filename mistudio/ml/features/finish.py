"""Turns a row store that has been read to its end into a finished feature store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mistudio.core.atomic import fsync_path, write_json
from mistudio.core.control import JobControl
from mistudio.core.errors import StudioError
from mistudio.core.events import Reporter, SilentReporter
from mistudio.core.ids import now
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features.arrays import hash_files, open_array
from mistudio.ml.features.exact_counts import ExactCounts
from mistudio.ml.features.feature_store import CSC, TABLES, VERSION, relative_to
from mistudio.ml.features.harvest_settings import HarvestSettings
from mistudio.ml.features.logit_lens import LogitLens, logit_lens
from mistudio.ml.features.partial import CHECKPOINT, PartialStore, Progress
from mistudio.ml.features.rows import RowPlan
from mistudio.ml.features.statistics import Columns, FeatureTables, describe
from mistudio.ml.features.transpose import transpose
from mistudio.ml.features.vocabulary import token_texts, write_vocabulary
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

SORTING, DESCRIBING, LENS = 0.85, 0.90, 0.94  # where each phase begins, of the whole
CSR = ("csr_splits", "csr_features", "csr_values")


class HarvestFacts(NamedTuple):
    """What a harvest found. `n_tokens` counts kept tokens, `n_all` also the masked ones."""

    n_features: int
    n_live: int
    n_tokens: int
    n_all: int
    rows: int
    entries: int
    store_hash: str
    seconds: float
    whole: bool = True  # whether the seconds are those of all of it, not of the rest only


def finish(
    store: PartialStore,
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    text: TextStore,
    plan: RowPlan,
    tile_rows: int,
    settings: HarvestSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
    written: HookPoint,
) -> HarvestFacts:
    """Sort, describe, look through the lens, hash, and rename to `folder`.

    `written` is where the SAE writes. `tile_rows` is how many rows went through the model at once.
    """
    made, state = store.folder, store.progress
    tables, store_hash = describe_entries(
        made,
        sae.n_latents,
        plan,
        state,
        top_k=settings.top_k,
        seed=settings.seed,
        report=report,
        check=control.check,
        exact=store.exact,
    )
    lens = _write_lens(made, loaded, sae, report, control, written)
    statistics_F = tables.statistics_F
    entries = int(statistics_F["count"].sum())
    facts = HarvestFacts(
        n_features=sae.n_latents,
        n_live=int((statistics_F["count"] > 0).sum()),
        n_tokens=state.kept,
        n_all=state.kept + sum(state.masked.values()),
        rows=len(plan.rows_R2),
        entries=entries,
        store_hash=store_hash,
        seconds=0.0,
    )
    if state.truncated_tokens:
        report.note(
            f"{state.truncated_tokens:,} tokens have more than {settings.most_entries:,} active "
            f"latents: only the strongest are kept of them. Counts, sums and maxima are exact; "
            "examples, intervals, quantiles and histograms come from what is kept."
        )
    if state.clipped:
        report.note(f"{state.clipped:,} activations were too large and are shown clipped.")
    manifest = {
        "version": VERSION,
        **facts._asdict(),
        "created_at": now(),
        "row_length": plan.length,
        "tile_rows": tile_rows,
        "fast": settings.fast,
        "rows_available": plan.available,
        "exponent": state.exponent or 0,
        "clipped": state.clipped,
        "median_norm": state.median_norm,
        "median_norm_out": state.median_norm_out,
        "masked": state.masked,
        "fit": state.fit,
        "truncated": {
            "most_entries": settings.most_entries,
            "tokens": state.truncated_tokens,
            "dropped": state.dropped_entries,
        }
        if state.truncated_tokens
        else None,
        "l0": entries / max(state.kept, 1),
        "mean_frequency": float(statistics_F["frequency"].mean()),
        "lens": lens,
        "settings": settings.stored(),
        "key": store.key,
        "model": loaded.facts.name,
        "hook": str(sae.metadata.get("hook_name", "")),
        "tokens_folder": relative_to(folder, tokens.folder),
        "text_folder": relative_to(folder, text.folder),
    }
    for name in ("seconds", "whole"):
        manifest.pop(name)
    for leftover in (made / CHECKPOINT, *made.glob("exact-*.npy")):
        leftover.unlink(missing_ok=True)
    write_json(made / "manifest.json", manifest)
    _publish(made, folder)
    return facts


def describe_entries(
    made: Path,
    features: int,
    plan: RowPlan,
    state: Progress,
    *,
    top_k: int,
    seed: int,
    report: Reporter | None = None,
    check: Callable[[], None] = lambda: None,
    exact: ExactCounts | None = None,
) -> tuple[FeatureTables, str]:
    """Write column store, rows and tables beside a row store; returns tables and store hash."""
    report = report or SilentReporter()
    report.progress(SORTING, "Sorting by feature")
    splits, ids, values = (
        open_array(made / f"csr_{n}.npy") for n in ("splits", "features", "values")
    )
    transpose(made, splits, ids, values, features, check=check)
    report.progress(DESCRIBING, "Describing features")
    by_feature = [open_array(made / f"{name}.npy") for name in CSC]
    column = Columns(by_feature[0], by_feature[1], by_feature[2], state.exponent or 0, plan.length)
    tables = describe(
        column,
        open_array(made / "ids.npy"),
        max(state.kept, 1),
        top_k=top_k,
        seed=seed,
        check=check,
    )
    if exact is not None and state.truncated_tokens:
        exact.apply(tables.statistics_F, max(state.kept, 1))
    for field, name in TABLES.items():
        np.save(made / f"{name}.npy", getattr(tables, field))
    np.save(made / "rows.npy", plan.rows_R2)
    hashed = ("rows", "ids", "mask", *CSR, *CSC, *TABLES.values())
    return tables, hash_files(made, [f"{name}.npy" for name in hashed])


def _write_lens(
    made: Path,
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    report: Reporter,
    control: JobControl,
    written: HookPoint,
) -> str:
    """Store the lens and the vocabulary; "stored", or the sentence why there is no lens."""

    def check(done: float) -> None:
        control.check()
        report.progress(LENS + (1 - LENS) * done, "Logit lens")

    size = loaded.facts.vocab_size
    try:
        lens = logit_lens(sae, loaded, written=written, check=check)
    except StudioError as error:
        report.note(error.sentence, level="warning")
        outcome = error.sentence
    else:
        outcome = "stored"
        for name in LogitLens._fields:
            np.save(made / f"lens_{name.rpartition('_')[0]}.npy", getattr(lens, name))
        size = max(size, len(loaded.blocks.unembedding.weight))  # type: ignore[union-attr, arg-type]
    write_vocabulary(made / "vocabulary.arrow", token_texts(loaded.tokenizer, size))
    return outcome


def published(folder: Path, key: str) -> HarvestFacts | None:
    """The facts of a finished store that an earlier attempt with this key left, if there is one.

    The folder got its name when all of it was on the disk, so a manifest stands for a whole store.
    A store of another key is in the way of the new one, and goes.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    if manifest.get("key") != key:
        shutil.rmtree(folder)
        return None
    names = [name for name in HarvestFacts._fields if name not in ("seconds", "whole")]
    return HarvestFacts(**{name: manifest[name] for name in names}, seconds=0.0, whole=False)


def _publish(made: Path, folder: Path) -> None:
    """Put every file on disk, then give the folder its name."""
    for item in made.iterdir():
        fsync_path(item)
    fsync_path(made)
    made.replace(folder)
    fsync_path(folder.parent)
