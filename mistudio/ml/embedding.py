"""Sentence embeddings by a local encoder in the sentence-transformers layout; never downloads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import Damaged, NotFound

MARKER = "modules.json"  # what makes a folder one of sentence-transformers
DEPTH = 4  # levels below a root that are looked through
BATCH = 64


def find_encoder(roots: Iterable[Path]) -> Path | None:
    """The first folder with an encoder at or below the roots, in order; None if there is none."""
    for root in roots:
        level = [root]
        for _ in range(DEPTH + 1):
            for folder in level:
                if (folder / MARKER).is_file():
                    return folder
            level = sorted(
                child for folder in level if folder.is_dir() for child in _folders(folder)
            )
    return None


def _folders(folder: Path) -> list[Path]:
    try:
        return [child for child in folder.iterdir() if child.is_dir()]
    except OSError:
        return []


class Encoder:
    """Turns texts into unit vectors. Not to be shared between threads."""

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Raises `NotFound` if there is no encoder in `folder` and `Damaged` if it is broken."""
        if not (folder / MARKER).is_file():
            raise NotFound(f"There is no sentence encoder in {folder}.")
        from sentence_transformers import SentenceTransformer

        self.name = folder.name if folder.name != "model" else folder.parent.name
        try:
            self._model = SentenceTransformer(
                str(folder), device=str(device), local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise Damaged(
                f"The sentence encoder in {folder} cannot be read.", details=str(error)
            ) from error

    def embed(
        self, texts: Sequence[str], *, check: Callable[[float], None] = lambda _done: None
    ) -> NDArray[np.float32]:
        """Unit vectors of texts, float32 [N, D]; `check` gets the share done and may raise."""
        parts = []
        for start in range(0, len(texts), BATCH):
            check(start / len(texts))
            parts.append(
                self._model.encode(
                    list(texts[start : start + BATCH]),
                    batch_size=BATCH,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
            )
        if not parts:
            return np.empty((0, self._model.get_embedding_dimension() or 0), np.float32)
        return np.concatenate(parts).astype(np.float32)
