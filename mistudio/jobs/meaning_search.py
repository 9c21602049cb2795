"""Features found by the meaning of their labels: sentence vectors, or shared words without them.

A feature's text is its label, else its top tokens. Vectors (fp16, unit length) lie in the feature
set's folder under a hash of all texts and the encoder, so that they end with what they were made
from.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.errors import InvalidInput
from mistudio.core.feature_search_configs import EmbedFeaturesConfig
from mistudio.jobs import encoders, feature_pages, lookup
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import feature_texts
from mistudio.store.records import FeatureSetRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.embedding import Encoder

FOLDER = "meanings"
SHORTEST = 3  # characters of a question
MOST = 2  # encoders kept, each of a thread
# by the thread's number: thread-local values of a thread that Qt runs are gone after each call
_kept: dict[int, tuple[Path, Encoder]] = {}


@dataclass(frozen=True)
class MeaningMatches:
    """Features by score, best first: cosines of an encoder, or BM25 of shared words without one.

    `stale`: an encoder is there, but labels changed or were never embedded; nothing was found.
    """

    features: list[int]
    scores: list[float]
    encoder: str = ""
    stale: bool = False


def prepare(studio: Studio, config: EmbedFeaturesConfig) -> None:
    """Refuse an SAE without features, or a folder without an encoder."""
    feature_pages.feature_set(studio, lookup.sae(studio, config.sae))
    if encoders.find(studio, config.encoder) is None:
        raise InvalidInput(
            "There is no sentence encoder on this machine. Put one into "
            f"{studio.paths.home / encoders.FOLDER}, such as all-MiniLM-L6-v2."
        )


def run(ctx: JobContext, config: EmbedFeaturesConfig) -> Result:
    """Embed the texts of all features; vectors of earlier texts go."""
    import numpy as np

    from mistudio.ml.embedding import Encoder

    prepare(ctx.studio, config)
    found = feature_pages.feature_set(ctx.studio, lookup.sae(ctx.studio, config.sae))
    folder = encoders.find(ctx.studio, config.encoder)
    assert folder is not None  # prepared
    texts = feature_texts.texts(ctx.db, found)
    ctx.report.progress(0.0, "Loading the encoder")
    encoder = Encoder(folder)

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.98 * done, "Embedding labels")

    vectors = encoder.embed([text for _, text in texts], check=check).astype(np.float16)
    path = _vectors_of(ctx.studio, found, texts, folder)
    path.parent.mkdir(exist_ok=True)
    for old in path.parent.glob("*.npy"):
        old.unlink()
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        np.save(file, vectors)
    unfinished.replace(path)
    ctx.report.progress(1.0, "Ready")
    return {"feature_set": found.id, "encoder": encoder.name, "embedded": len(texts)}


def search(
    studio: Studio, sae: SaeRow, text: str, *, limit: int = 200, encoder: str = ""
) -> MeaningMatches:
    """The features whose texts mean most nearly the same. Raises `InvalidInput` if too short."""
    import numpy as np

    text = " ".join(text.split())
    if len(text) < SHORTEST:
        raise InvalidInput(f"Write at least {SHORTEST} letters to search by meaning.")
    found = feature_pages.feature_set(studio, sae)
    folder = encoders.find(studio, encoder)
    if folder is None:
        pairs = feature_texts.by_words(studio.db(), found, text, limit)
        return MeaningMatches([feature for feature, _ in pairs], [score for _, score in pairs])
    texts = feature_texts.texts(studio.db(), found)
    path = _vectors_of(studio, found, texts, folder)
    if not path.is_file():
        return MeaningMatches([], [], folder.name, stale=True)
    vectors_ND = np.load(path).astype(np.float32)
    loaded = _encoder(folder)
    cosines_N = vectors_ND @ loaded.embed([text])[0]
    best = np.argsort(-cosines_N, kind="stable")[:limit]
    features = np.array([feature for feature, _ in texts], np.int64)
    return MeaningMatches(features[best].tolist(), cosines_N[best].tolist(), loaded.name)


def _vectors_of(
    studio: Studio, found: FeatureSetRow, texts: list[tuple[int, str]], encoder: Path
) -> Path:
    digest = hashlib.sha256(str(encoder).encode())
    for feature, text in texts:
        digest.update(f"\n{feature} {text}".encode())
    folder = studio.paths.absolute(found.path or "") / FOLDER
    return folder / f"{digest.hexdigest()[:32]}.npy"


def _encoder(folder: Path) -> Encoder:
    from mistudio.ml.embedding import Encoder

    thread = threading.get_ident()
    kept = _kept.get(thread)
    if kept is None or kept[0] != folder:
        _kept.pop(thread, None)
        kept = _kept[thread] = (folder, Encoder(folder))
        for other in list(_kept)[:-MOST]:
            _kept.pop(other, None)
    return kept[1]
