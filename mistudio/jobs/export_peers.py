"""Folders of features in the layouts of Neuronpedia and SAEDashboard, checked after writing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.atomic import atomic_directory
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch, from_os_error
from mistudio.core.events import Reporter
from mistudio.core.feature_export_configs import ExportFeaturesConfig
from mistudio.core.ids import now
from mistudio.jobs import sae_geometry, sae_library
from mistudio.jobs.context import JobContext
from mistudio.jobs.row_files import RowFiles
from mistudio.store import feature_export
from mistudio.store.records import FeatureSetRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.formats.peer_features import PeerFeature, PeerFeatures, Source
    from mistudio.ml.formats.row_schema import Schema

SETS = {
    "resid_post": "res",
    "resid_pre": "respre",
    "resid_mid": "resmid",
    "mlp_out": "mlp",
    "attn_out": "att",
    "attn_z": "att",
    "mlp_in": "tc",
}

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class Written(NamedTuple):
    """What came out: features with a dashboard, those left out because they never fired."""

    features: int
    skipped: int


def write_folder(
    ctx: JobContext,
    config: ExportFeaturesConfig,
    sae: SaeRow,
    found: FeatureSetRow,
    features: Sequence[int],
    store: FeatureStore,
    dataset: str,
    out: Path,
) -> Written:
    """Write `features` in the format that the config names; `out` appears only when all is whole.

    Raises `Mismatch` if it is not known where the SAE reads, `Damaged` if what was written does
    not read back as it should, and what the disk says.
    """
    source = source_of(config, sae, store, dataset)
    reader = _reader(ctx, config, sae, store)
    write = {
        "neuronpedia": _write_bulk,
        "neuronpedia_upload": _write_uploads,
        "saedashboard": _write_dashboards,
    }[config.format]
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInput(f"{out} is there already. Name a folder that is not.")
    try:
        with atomic_directory(out) as folder:
            return write(ctx, sae, found, source, reader, features, folder)
    except OSError as error:
        raise from_os_error(error, f"write {out.name}") from error


def source_of(
    config: ExportFeaturesConfig, sae: SaeRow, store: FeatureStore, dataset: str
) -> Source:
    """Whose features these are; names that the config leaves open are made."""
    from mistudio.ml.formats.peer_features import Source

    if not sae_library.is_placed(sae) or sae.layer is None or sae.hook_in is None:
        raise Mismatch(f"SAE {sae.name!r} does not say which layer and hook it reads.")
    hook = sae.hook_out or sae.hook_in
    return Source(
        model_id=_plain(config.model_id or sae.model_name or "model"),
        layer=sae.layer,
        set_name=_plain(config.set_name or f"{SETS.get(hook, hook)}-mistudio"),
        creator=config.creator or "mistudio",
        hook=hook,
        dataset=dataset or "unknown",
        rows=int(store.summary["rows"]),
        row_length=store.row_length,
        created_at=now(),
    )


def _plain(name: str) -> str:
    """A name that can stand in a path and in an address."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "unnamed"


def _reader(
    ctx: JobContext, config: ExportFeaturesConfig, sae: SaeRow, store: FeatureStore
) -> PeerFeatures:
    from mistudio.ml.formats.peer_features import PeerFeatures, largest_entries

    loaded = sae_library.read_sae(ctx.studio, sae)
    W_dec_FO = loaded.W_dec_FO

    def told(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.2 * done, "comparing directions")

    return PeerFeatures(
        store,
        largest_entries(W_dec_FO),
        sae_geometry.ensure_geometry(ctx.studio, sae, loaded, check=told),
        W_dec_FO if config.vectors else None,
        top=config.examples,
        context=config.context,
    )


def _batches(
    report: Reporter, control: JobControl, reader: PeerFeatures, features: Sequence[int]
) -> Iterator[tuple[int, Iterator[PeerFeature]]]:
    """Numbered batches of features, each read when it is asked for; progress from 20 to 98 %."""
    from mistudio.ml.formats.peer_features import BATCH

    def read(batch: Sequence[int]) -> Iterator[PeerFeature]:
        for index in batch:
            control.check()
            yield reader.feature(index)

    for number, start in enumerate(range(0, len(features), BATCH)):
        share = start / len(features)
        rate = f"{start:,} of {len(features):,} features"
        report.progress(0.2 + 0.78 * share, "writing", rate=rate)
        yield number, read(features[start : start + BATCH])


def _has_fired(feature: PeerFeature) -> bool:
    return any(group.windows for group in feature.groups)


def _fired(found: Iterable[PeerFeature]) -> list[PeerFeature]:
    return [feature for feature in found if _has_fired(feature)]


def _write_bulk(
    ctx: JobContext,
    sae: SaeRow,
    found: FeatureSetRow,
    source: Source,
    reader: PeerFeatures,
    features: Sequence[int],
    folder: Path,
) -> Written:
    return write_bulk(
        source,
        reader,
        features,
        folder,
        key=found.store_hash or "",
        width=sae.d_out,
        labels=lambda numbers: feature_export.labels_of(ctx.db, sae.id, numbers),
        report=ctx.report,
        control=ctx.control,
    )


def write_bulk(
    source: Source,
    reader: PeerFeatures,
    features: Sequence[int],
    folder: Path,
    *,
    key: str,
    width: int,
    labels: Callable[[Sequence[int]], Mapping[int, list[dict[str, Any]]]],
    report: Reporter,
    control: JobControl,
) -> Written:
    """Neuronpedia's bulk layout below `folder`; `key` makes the ids of activations.

    `labels` gives the labels of some features. Rows are checked before they are
    written, and every file is read again.
    """
    from mistudio.ml.formats import neuronpedia as np_layout

    place = folder / source.model_id / source.id
    for part in ("features", "activations", "explanations"):
        (place / part).mkdir(parents=True)
    instruct = bool(re.search(r"(^|[-_.])(it|instruct|chat)([-_.]|$)", source.model_id, re.I))
    lines = np_layout.ActivationLines(source, reader, key)
    silent = 0
    with RowFiles() as files:
        for name, head in np_layout.head_rows(source, instruct, width).items():
            _write_rows(files, place / f"{name}.jsonl", np_layout.HEADS[name], [head])
        for number, batch in _batches(report, control, reader, features):
            name = f"batch-{number}.jsonl.gz"
            rows: list[dict[str, Any]] = []
            numbers: list[int] = []
            told: list[str] = []
            for feature in batch:  # one at a time: its windows are let go before the next ones
                rows.append(np_layout.feature_row(source, feature, reader.vector(feature.number)))
                numbers.append(feature.number)
                told += lines.of(feature)
                silent += not _has_fired(feature)
            _write_rows(files, place / "features" / name, np_layout.FEATURE, rows)
            if told:
                path = place / "activations" / name
                files.write(path, "".join(told), np_layout.ACTIVATION, len(told))
            explained = [
                np_layout.explanation_row(source, index, label)
                for index, each in labels(numbers).items()
                for label in each
            ]
            if explained:
                path = place / "explanations" / name
                _write_rows(files, path, np_layout.EXPLANATION, explained)
    return Written(len(features), silent)


def _write_uploads(
    ctx: JobContext,
    sae: SaeRow,
    found: FeatureSetRow,
    source: Source,
    reader: PeerFeatures,
    features: Sequence[int],
    folder: Path,
) -> Written:
    """Bodies of requests; a feature that never fired has no activation and cannot be sent."""
    from mistudio.ml.formats import neuronpedia_upload as upload

    written = 0
    for number, batch in _batches(ctx.report, ctx.control, reader, features):
        fired = _fired(batch)
        if not fired:
            continue
        labels = feature_export.labels_of(ctx.db, sae.id, [f.number for f in fired])
        body = {
            "modelId": source.model_id,
            "source": source.id,
            "features": [upload.upload_feature(reader, f, labels.get(f.number, [])) for f in fired],
        }
        _write_checked(folder / f"batch-{number}.json", body, upload.UPLOAD)
        written += len(fired)
    if not written:
        raise InvalidInput("None of these features fired; there is nothing to upload.")
    return Written(written, len(features) - written)


def _write_dashboards(
    ctx: JobContext,
    sae: SaeRow,
    found: FeatureSetRow,
    source: Source,
    reader: PeerFeatures,
    features: Sequence[int],
    folder: Path,
) -> Written:
    from mistudio.ml.formats import saedashboard
    from mistudio.ml.formats.peer_features import BATCH

    shown: list[int] = []
    for number, batch in _batches(ctx.report, ctx.control, reader, features):
        fired = _fired(batch)
        if not fired:
            continue
        rows = [saedashboard.feature(source, reader, feature) for feature in fired]
        content = saedashboard.batch_file(source, rows)
        _write_checked(folder / f"batch-{number}.json", content, saedashboard.BATCH_FILE)
        shown += [feature.number for feature in fired]
    if not shown:
        raise InvalidInput("None of these features fired; there is nothing to show.")
    skipped = sorted(set(range(sae.n_latents)) - set(shown))
    path = folder / "skipped_indexes.json"
    _write_checked(path, saedashboard.skipped_file(source, skipped), saedashboard.SKIPPED_FILE)
    settings = {
        "model_id": source.model_id,
        "layer": source.layer,
        "sae_set": source.set_name,
        "sae_path": sae.path,
        "hook_name": source.hook_name,
        "huggingface_dataset_path": source.dataset,
        "n_prompts_total": source.rows,
        "n_tokens_in_prompt": source.row_length,
        "n_features_at_a_time": BATCH,
        "store_hash": found.store_hash,
        "weights_hash": sae.weights_hash,
    }
    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
    (folder / "run_settings.json").write_text(text, encoding="utf-8")
    return Written(len(shown), len(features) - len(shown))


def _write_rows(files: RowFiles, path: Path, schema: Schema, rows: list[dict[str, Any]]) -> None:
    from mistudio.ml.formats.row_schema import require_all

    require_all(schema, rows, path.name)
    lines = [_JSON(row) + "\n" for row in rows]
    files.write(path, "".join(lines), schema, len(rows))


def _write_checked(path: Path, content: dict[str, Any], schema: Schema) -> None:
    from mistudio.ml.formats.row_schema import require

    text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    path.write_text(text, encoding="utf-8")
    require(schema, json.loads(path.read_text(encoding="utf-8")), path.name)
