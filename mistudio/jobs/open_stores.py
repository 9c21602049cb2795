"""Feature stores that stay open from page to page, one for each thread that reads them."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from mistudio.core.errors import NotFound
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow
from mistudio.store.tables import TOKENIZATIONS

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore

MOST = 4  # threads whose store stays open

_open: dict[int, tuple[tuple[object, ...], FeatureStore]] = {}
_lock = threading.Lock()


def open_store(studio: Studio, found: FeatureSetRow) -> FeatureStore:
    """The files of a feature set, as this thread opened them before or anew.

    Raises `NotFound` if they or the tokens behind them are gone, `Damaged` if they disagree.
    """
    from mistudio.ml.features.feature_store import FeatureStore

    tokens = TOKENIZATIONS.find(studio.db(), found.tokenization_id or "")
    if tokens is None or tokens.path is None:
        raise NotFound("The tokenised text of this feature set was deleted; find features again.")
    folder = studio.paths.absolute(found.path or "")
    manifest, thread = folder / "manifest.json", threading.get_ident()
    key = (folder, tokens.path, manifest.stat().st_mtime_ns if manifest.exists() else 0)
    with _lock:
        known = _open.get(thread)
    if known is not None and known[0] == key:
        return known[1]
    store = FeatureStore(
        folder, studio.paths.absolute(tokens.path), studio.paths.dataset(tokens.dataset_id)
    )
    with _lock:
        _open.pop(thread, None)
        while len(_open) >= MOST:
            _open.pop(next(iter(_open)))
        _open[thread] = (key, store)
    return store


def let_go() -> None:
    """Close what is kept, so that deleted files give their room back."""
    with _lock:
        _open.clear()
