"""Where a sentence encoder is found: a named folder, the data folder, the Hugging Face cache."""

from __future__ import annotations

from pathlib import Path

from mistudio.core.errors import NotFound
from mistudio.jobs.runner import Studio

FOLDER = "encoders"  # in the data folder; the user puts or links one there


def find(studio: Studio, named: str = "") -> Path | None:
    """The folder of an encoder; None if there is none. Raises `NotFound` if a named one is not."""
    from mistudio.hub.setup import cache_folder
    from mistudio.ml.embedding import find_encoder

    if named:
        folder = Path(named).expanduser()
        found = find_encoder([folder])
        if found is None:
            raise NotFound(f"There is no sentence encoder in {folder}.")
        return found
    cache = cache_folder()
    cached = sorted(cache.glob("models--sentence-transformers--*")) if cache.is_dir() else []
    return find_encoder([studio.paths.home / FOLDER, *cached])
