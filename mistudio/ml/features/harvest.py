"""Finds features: one pass over a tokenisation into a feature store.

Rows are read in tiles of one fixed shape (the last is filled up), because a matrix product's
last bits depend on its shape: so a store depends neither on how many rows there are behind a
tile nor on the batch, which groups tiles, nor on interruptions. In the fast mode a batch is one
tile of its own shape instead. Memory is that of one tile plus one block of entries.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.control import JobControl
from mistudio.core.errors import Left, Mismatch, OutOfMemory, from_os_error
from mistudio.core.events import Reporter
from mistudio.core.units import format_count
from mistudio.ml.activations.shards import ActivationSet
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features.feature_store import EXTREME, KEPT, LISTED, NOT_FINITE, SPECIAL
from mistudio.ml.features.finish import HarvestFacts, finish, published
from mistudio.ml.features.fit_check import measure_fit
from mistudio.ml.features.harvest_masks import REFERENCE_TOKENS, median_norms, store_mask
from mistudio.ml.features.harvest_settings import HarvestSettings
from mistudio.ml.features.partial import PartialStore, partial_folder
from mistudio.ml.features.rows import RowBlock, RowPlan, plan_rows, read_block
from mistudio.ml.features.sources import LiveSource, Source, StoredSource
from mistudio.ml.features.transpose import id_type
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder

TILE_TOKENS = {"cpu": 2048, "cuda": 8192}
TILE_ENTRIES = 1 << 27  # pre-activations of one tile at most
READING = 0.85  # share of the whole that reading takes, for the progress bar
_Pair = tuple[torch.Tensor, torch.Tensor]  # what an SAE reads, and what it is to give
REASONS = {SPECIAL: "special", EXTREME: "extreme", NOT_FINITE: "not_finite"}
AT_LISTED = "at_skipped_positions"  # of `LISTED`, told only where there are such tokens


class _Tile(NamedTuple):
    """Rows read and encoded; T tokens row by row."""

    ids_RS: NDArray[np.int32]
    mask_RS: NDArray[np.uint8]
    counts_T: NDArray[np.int64]
    features: NDArray[np.integer]
    values: NDArray[np.float32]


def harvest(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    layer: int,
    hook: str,
    tokens: TokenStore,
    text: TextStore,
    settings: HarvestSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
    hook_out: str | None = None,
    stored: ActivationSet | None = None,
    expected_ev: float | None = None,
) -> HarvestFacts:
    """Read rows, encode them once and write a finished feature store to `folder`.

    With `stored` the activations are read from that set instead of running the model. A warning
    is told if the SAE explains on a sample less than `expected_ev`, its known explained variance,
    by more than .05: then the model, the hook or the scale of its input is another one.

    Of a transcoder `hook_out` is what it gives: a token counts if it did in training, by both.
    An attempt that a kill or a crash of the machine cut off goes on from its last checkpoint and
    ends with the same bytes; one that was cut off after `folder` appeared is taken as it is.
    Raises `Mismatch` if model, SAE and tokens do not belong together,
    `DiskFull` and `Cancelled`; after any error nothing is left behind.
    """
    partial = partial_folder(folder)
    try:
        source: Source = (
            LiveSource(loaded, layer, hook, hook_out or hook)
            if stored is None
            else StoredSource(stored, tokens, layer, hook, hook_out or hook, loaded.device)
        )
        return harvest_from(
            source, loaded, sae, tokens, text, settings, folder, report, control, expected_ev
        )
    except Left:
        raise  # what was written up to the last checkpoint is gone on with
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise from_os_error(error, "write the feature set") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def harvest_from(
    source: Source,
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    text: TextStore,
    settings: HarvestSettings,
    folder: Path,
    report: Reporter,
    control: JobControl,
    expected_ev: float | None = None,
) -> HarvestFacts:
    """`harvest` from any source; what an error leaves in the partial folder stays."""
    began = time.monotonic()
    sae = sae.to(loaded.device)
    length = min(settings.context, tokens.context)
    usable_T = source.usable(tokens, length)
    plan = plan_rows(tokens.mask, settings.context, settings.rows, settings.seed, usable_T)
    plan = plan._replace(skipped=settings.skip_positions)
    _check(source, loaded, sae, tokens, plan)
    steps = steps_of(loaded.device, plan.length, sae.n_latents, settings)
    key = _key(source, loaded, sae, tokens, settings, plan, steps)
    before = published(folder, key)
    if before is not None:
        report.progress(1.0, "Ready")
        return before
    exact = sae.most_active is None or sae.most_active > settings.most_entries
    store = PartialStore(
        partial_folder(folder),
        key,
        id_type(sae.n_latents),
        row_length=plan.length,
        exact_features=sae.n_latents if exact else 0,
        most_entries=settings.most_entries,
    )
    whole = store.progress.tiles == 0
    try:
        seen: list[_Pair] = []
        if whole:
            seen = _look_first(
                source, sae, tokens, plan, steps, store, settings, report, expected_ev
            )
        _read(source, sae, tokens, plan, steps, store, settings, report, control, seen)
    except Left:
        store.checkpoint()
        store.close(finished=False)
        raise
    except BaseException:
        store.close(finished=False)
        raise
    store.close()
    facts = finish(
        store,
        loaded,
        sae,
        tokens,
        text,
        plan,
        steps.height,
        settings,
        folder,
        report,
        control,
        source.written,
    )
    facts = facts._replace(seconds=time.monotonic() - began, whole=whole)
    report.progress(1.0, "Ready")
    return facts


def _look_first(
    source: Source,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    plan: RowPlan,
    steps: Steps,
    store: PartialStore,
    settings: HarvestSettings,
    report: Reporter,
    expected_ev: float | None,
) -> list[_Pair]:
    """The median norms, and whether the SAE fits what it is given; returns the first tiles."""
    state = store.progress
    state.median_norm, state.median_norm_out = median_norms(
        source, sae, tokens, plan, steps.height, filled=steps.filled
    )
    norms = (state.median_norm, state.median_norm_out)
    seen: list[_Pair] = []
    sample: list[_Pair] = []
    first = min(len(plan.rows_R2), -(-REFERENCE_TOKENS // plan.length))
    for index in range(-(-first // steps.height)):
        block = read_block(tokens, plan, steps.height, index, filled=steps.filled)
        with torch.inference_mode():
            x_RSD, y_RSO = source(block)
            mask_RS = store_mask(
                x_RSD, y_RSO, block.mask_RS, norms, settings.norm_cut, settings.mask_special
            )
            keep_RS = torch.from_numpy(mask_RS == KEPT).to(x_RSD.device)
            sample.append((sae.in_context(x_RSD)[keep_RS], y_RSO[keep_RS]))
        seen.append((x_RSD, y_RSO))
    fit = measure_fit(sae, sample, expected_ev)
    state.fit = {"ev": fit.ev, "n": fit.n, "expected": expected_ev, "warning": fit.warning}
    if fit.warning:
        report.note(fit.warning, level="warning")
    return seen


def _read(
    source: Source,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    plan: RowPlan,
    steps: Steps,
    store: PartialStore,
    settings: HarvestSettings,
    report: Reporter,
    control: JobControl,
    seen: list[_Pair],
) -> None:
    """The pass itself: step after step into the partial store, from where it stands.

    `seen` holds the activations of the first tiles, as far as they were read already. Tiles enter
    the store one by one, since its scale is that of the first.
    """
    state, height = store.progress, steps.height
    total = -(-len(plan.rows_R2) // height)
    if state.tiles:
        report.note(f"Going on after {state.tiles * height:,} of {len(plan.rows_R2):,} rows.")
    first, began, saved = state.tiles, time.monotonic(), time.monotonic()
    while state.tiles < total:
        control.check()
        for _ in range(min(steps.tiles, total - state.tiles)):
            block = read_block(tokens, plan, height, state.tiles, filled=steps.filled)
            rows = len(block.rows_R2)
            norms = (state.median_norm, state.median_norm_out)
            given = seen.pop(0) if seen else None
            tile = _encode(source, sae, block, rows, norms, settings, given)
            store.append(*tile)
            state.kept += int((tile.mask_RS == KEPT).sum())
            for code, reason in REASONS.items():
                count = int((tile.mask_RS == code).sum())
                state.masked[reason] = state.masked.get(reason, 0) + count
            if listed := int((tile.mask_RS == LISTED).sum()):
                state.masked[AT_LISTED] = state.masked.get(AT_LISTED, 0) + listed
            state.tiles += 1
        seconds = time.monotonic() - began
        rate = (state.tiles - first) * height * plan.length / max(seconds, 1e-9)
        left = (total - state.tiles) * height * plan.length / max(rate, 1e-9)
        report.progress(
            READING * state.tiles / total,
            "Reading rows",
            rate=f"{format_count(rate)} tokens/s",
            eta_s=left,
        )
        if time.monotonic() - saved >= settings.checkpoint_s:
            store.checkpoint()
            saved = time.monotonic()
    store.checkpoint()


@torch.inference_mode()
def _encode(
    source: Source,
    sae: SparseAutoencoder,
    block: RowBlock,
    rows: int,
    norms: tuple[float, float],
    settings: HarvestSettings,
    given: _Pair | None,
) -> _Tile:
    """Forward and encode one tile; entries of masked tokens are dropped."""
    x_BSD, y_BSO = given or source(block)
    mask_RS = store_mask(
        x_BSD, y_BSO, block.mask_RS, norms, settings.norm_cut, settings.mask_special
    )
    x_TD = sae.in_context(x_BSD).flatten(0, 1)
    if (mask_RS == NOT_FINITE).any():
        x_TD = torch.where(x_TD.isfinite().all(1, keepdim=True), x_TD, 0.0)
    codes = sae.encode_sparse(x_TD)
    counts_T = np.diff(codes.row_splits.cpu().numpy())
    kept_T = mask_RS.reshape(-1) == KEPT
    entry = np.repeat(kept_T, counts_T)
    counts_T = np.where(kept_T, counts_T, 0)[: rows * block.ids_RS.shape[1]]
    return _Tile(
        block.ids_RS[:rows],
        mask_RS[:rows],
        counts_T,
        codes.ids.cpu().numpy()[entry],
        codes.values.float().cpu().numpy()[entry],
    )


class Steps(NamedTuple):
    """How rows go through model and encoder."""

    height: int
    """rows of one forward pass"""
    tiles: int
    """passes between two looks at the job's control"""
    filled: bool
    """whether the last tile is filled up, so that all have one shape"""


def steps_of(device: torch.device, length: int, latents: int, settings: HarvestSettings) -> Steps:
    """Whole tiles of the device's height; in the fast mode one tile of the batch's own."""
    height = tile_height(device, length, latents)
    if settings.fast:
        return Steps(settings.batch_size or height, 1, filled=False)
    return Steps(height, max(1, -(-settings.batch_size // height)), filled=True)


def tile_height(device: torch.device, length: int, latents: int) -> int:
    """Rows of a tile: the same for all tiles of a store."""
    limit = min(TILE_TOKENS.get(device.type, 2048), max(1, TILE_ENTRIES // latents))
    return max(1, limit // length)


def _check(
    source: Source, loaded: LoadedModel, sae: SparseAutoencoder, tokens: TokenStore, plan: RowPlan
) -> None:
    facts = loaded.facts
    if sae.d_in != source.d_in:
        raise Mismatch(
            f"The SAE reads activations of width {sae.d_in:,}, {source.path} of {facts.name} "
            f"gives {source.d_in:,}; choose the model it was trained on."
        )
    if facts.max_positions and plan.length > facts.max_positions:
        raise Mismatch(
            f"Rows of {plan.length:,} tokens are longer than {facts.name} can read "
            f"({facts.max_positions:,}); choose a smaller context."
        )
    if len({position for position in plan.skipped if position < plan.length}) == plan.length:
        raise Mismatch(
            f"This SAE leaves out all positions of a row of {plan.length:,} tokens; choose a "
            "longer context."
        )
    if len(plan.rows_R2) * plan.length >= 1 << 32:
        raise OutOfMemory(
            "More than 4.2 billion tokens do not fit into one feature set; read fewer rows."
        )
    if not len(plan.rows_R2) or int(tokens.meta["vocab_size"]) > facts.vocab_size:
        raise Mismatch(
            f"These tokens do not belong to {facts.name}; tokenise the dataset for this model."
        )


def _key(
    source: Source,
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    tokens: TokenStore,
    settings: HarvestSettings,
    plan: RowPlan,
    steps: Steps,
) -> str:
    """SHA-256 of everything that decides the bytes of a store."""
    digest = hashlib.sha256()
    values = settings.stored() | {"checkpoint_s": None}
    values.pop("batch_size")  # it is the height where it matters
    if not values["fast"]:  # as the settings were before there was a choice
        values.pop("fast")
    facts = loaded.facts
    parts = {
        "settings": values,
        "height": steps.height,
        "model": [facts.name, facts.architecture, facts.params_count, str(loaded.dtype)],
        "device": loaded.device.type,
        "hook": source.name,
        "origin": source.origin,
        "tokens": tokens.meta.get("settings_hash"),
        "torch": torch.__version__,
        "sae": [sae.architecture, sae.k, sae.apply_b_dec_to_input],
    }
    if sae.token_norm:
        parts["token_norm"] = sae.token_norm
    if sae.pursuit is not None:
        parts["pursuit"] = asdict(sae.pursuit)
    tensors = [sae.W_enc_DF, sae.b_enc_F, sae.W_dec_FO, sae.b_dec_O, sae.threshold_F]
    if sae.context is not None:
        parts["context"] = [sae.context.heads, sae.context.factor, sae.context.least]
        tensors += [t for layer in sae.context.layers for t in layer.tensors]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    digest.update(plan.rows_R2.tobytes())
    for tensor in tensors:
        if tensor is not None:
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
