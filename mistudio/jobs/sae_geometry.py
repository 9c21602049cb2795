"""What an SAE's weights say of its features: measured once, kept beside the weights.

The file's name holds the weights' hash, so that it is never read for other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import atomic_file, sha256_file
from mistudio.core.errors import NotFound
from mistudio.jobs import sae_library
from mistudio.jobs.runner import Studio
from mistudio.store import feature_neighbours
from mistudio.store.feature_neighbours import Nearest
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mistudio.ml.sae.base import SparseAutoencoder


def weights_of(studio: Studio, row: SaeRow) -> Path:
    """The SAE's weights on this disk."""
    return studio.paths.absolute(row.path) / sae_library.WEIGHTS


def geometry_path(studio: Studio, row: SaeRow) -> Path:
    """Where the geometry of an SAE is kept; raises `NotFound` if its files are gone."""
    weights = weights_of(studio, row)
    if not weights.is_file():
        raise NotFound(f"The files of SAE {row.name!r} are gone; import it again.")
    known = row.weights_hash or sha256_file(weights)
    return weights.with_name(f"geometry-{known[:16]}.npy")


def kept_geometry(studio: Studio, row: SaeRow) -> NDArray[np.void] | None:
    """The geometry [features] measured before, memory-mapped, or None; needs no torch."""
    from mistudio.ml.features.decoder_rows import read_geometry

    found = read_geometry(geometry_path(studio, row))
    return found if found is not None and len(found) == row.n_latents else None


def ensure_geometry(
    studio: Studio,
    row: SaeRow,
    sae: SparseAutoencoder,
    *,
    check: Callable[[float], None] = lambda _done: None,
) -> NDArray[np.void]:
    """The kept geometry, else measured on the SAE's device and kept.

    `check` is called with the share done and may raise.
    """
    import numpy as np

    from mistudio.ml.features.geometry import measure_geometry

    found = kept_geometry(studio, row)
    if found is None:
        found = measure_geometry(sae, check=check)
        with atomic_file(geometry_path(studio, row)) as path, path.open("wb") as file:
            np.save(file, found)
    return found


def nearest_rows(geometry_F: NDArray[np.void]) -> list[Nearest]:
    """The nearest feature of each, as the feature table keeps it."""
    from mistudio.ml.features.decoder_rows import DUPLICATE_ABOVE

    lines = zip(
        geometry_F["nearest"][:, 0].tolist(), geometry_F["cosine"][:, 0].tolist(), strict=True
    )
    return [
        Nearest(feature, nearest, cosine, cosine > DUPLICATE_ABOVE)
        if nearest >= 0
        else Nearest(feature, None, None, False)
        for feature, (nearest, cosine) in enumerate(lines)
    ]


def with_nearest(
    rows: Iterable[dict[str, Any]], geometry_F: NDArray[np.void]
) -> Iterator[dict[str, Any]]:
    """Rows of the feature table with the nearest feature, its cosine and the flag in them."""
    for row, line in zip(rows, nearest_rows(geometry_F), strict=True):
        row["nearest"], row["nearest_cosine"] = line.nearest, line.cosine
        if line.is_duplicate:
            row["flags"] = feature_neighbours.with_flag(row["flags"])
        yield row


def complete_sets(studio: Studio, row: SaeRow, geometry_F: NDArray[np.void]) -> None:
    """Fill in the nearest features of sets that were found before these were kept."""
    for found in FEATURE_SETS.select(studio.db(), "sae_id = ? AND status = 'ready'", [row.id]):
        if feature_neighbours.lacks_nearest(studio.db(), found.id):
            feature_neighbours.write_nearest(studio.db(), found.id, nearest_rows(geometry_F))
