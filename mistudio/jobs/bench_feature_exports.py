"""Exports of a synthetic feature store: seconds and bytes, against what they should take."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from mistudio.jobs.feature_report import write_report
from mistudio.store.feature_export import Written

if TYPE_CHECKING:
    import torch

    from mistudio.ml.sae.base import SparseAutoencoder

REPORT_FEATURES = 200
REPORT_LIMITS = (3.0, 8_000_000)  # seconds, bytes
BULK_LIMIT = 60.0  # seconds for BULK_FEATURES
BULK_FEATURES = 24_576


def bench_feature_exports(
    folder: Path, *, features: int = 2048, rows: int = 2048, l0: int = 32, width: int = 576
) -> list[dict[str, Any]]:
    """Write a store of `features` into a new folder below `folder`, time two exports of it.

    Rows: the HTML report of 200 features, and Neuronpedia's bulk layout, whose seconds for 24,576
    features are extrapolated from `features` and said to be so; comparing the directions of all
    24,576 is measured and added. The store is deleted again.
    """
    place = Path(tempfile.mkdtemp(prefix="bench-exports-", dir=folder))
    from mistudio.ml.features.synthetic_text_store import synthetic_text_store

    try:
        store: Any = synthetic_text_store(place, features, rows, l0)
        return [_report(store, place), _bulk(store, place, features, width)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _report(store: Any, place: Path) -> dict[str, Any]:
    out = place / "report.html"
    shown = [(feature, Written(label=f"feature {feature}")) for feature in range(REPORT_FEATURES)]
    started, cpu = time.perf_counter(), time.process_time()
    write_report(out, "Bench", {}, store, shown, examples=10, context=16)
    seconds, size = time.perf_counter() - started, out.stat().st_size
    return {
        "what": f"HTML report, {REPORT_FEATURES} features",
        "features": REPORT_FEATURES,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "bytes": size,
        "goal": f"{REPORT_LIMITS[0]:g} s, {REPORT_LIMITS[1]:,} bytes",
        "met": seconds <= REPORT_LIMITS[0] and size <= REPORT_LIMITS[1],
        "extrapolated": False,
    }


def _bulk(store: Any, place: Path, features: int, width: int) -> dict[str, Any]:
    import torch

    from mistudio.core.ids import now
    from mistudio.jobs.export_peers import write_bulk
    from mistudio.ml.features.geometry import measure_geometry
    from mistudio.ml.formats.peer_features import PeerFeatures, Source, largest_entries

    W_dec_FO = torch.randn(features, width, generator=torch.Generator().manual_seed(0))
    source = Source("m", 3, "res-x", "me", "resid_post", "text", 1, store.row_length, now())
    # what the first use of it loads is no part of what a feature takes
    measure_geometry(_decoder(torch.eye(2)))
    geometry_F = measure_geometry(_decoder(W_dec_FO))
    # comparing directions grows with the square of the features: it is timed in full
    every_FO = torch.randn(BULK_FEATURES, width, generator=torch.Generator().manual_seed(0))
    started = time.perf_counter()
    measure_geometry(_decoder(every_FO))
    directions = time.perf_counter() - started
    del every_FO
    started, cpu = time.perf_counter(), time.process_time()
    entries = largest_entries(W_dec_FO)
    reader = PeerFeatures(store, entries, geometry_F, None, top=10, context=16)
    out = place / "bulk"
    write_bulk(
        source,
        reader,
        range(features),
        out,
        key=store.store_hash,
        width=width,
        labels=lambda _features: {},
        report=SilentReporter(),
        control=JobControl(),
    )
    seconds = time.perf_counter() - started
    whole = directions + seconds * BULK_FEATURES / features
    return {
        "what": f"Neuronpedia bulk, {BULK_FEATURES:,} features",
        "features": features,
        "seconds": round(whole, 1),
        "measured_seconds": round(seconds, 2),
        "directions_seconds": round(directions, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "bytes": sum(f.stat().st_size for f in out.rglob("*") if f.is_file()),
        "goal": f"{BULK_LIMIT:g} s",
        "met": whole <= BULK_LIMIT,
        "extrapolated": features != BULK_FEATURES,
    }


def _decoder(W_dec_FO: torch.Tensor) -> SparseAutoencoder:
    """An SAE of which only the decoder matters."""
    import torch

    from mistudio.ml.sae.base import SparseAutoencoder

    zeros_F, zeros_O = (torch.zeros(size) for size in W_dec_FO.shape)
    return SparseAutoencoder(W_dec_FO.T, zeros_F, W_dec_FO, zeros_O, "standard")
