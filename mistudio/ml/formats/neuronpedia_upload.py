"""Neuronpedia's upload batches: bodies of POST /api/feature/upload-batch and their limits.

Nothing is sent from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mistudio.ml.formats.peer_features import BATCH, PeerFeature, PeerFeatures
from mistudio.ml.formats.row_schema import Schema, many, maybe, real, row, share, text, whole

MOST_LOGITS = 20
MOST_TOKENS = 1024
MOST_TEXT = 512
MOST_INDEX = 10**7


def _short(value: Any) -> bool:
    return text(value) and 1 <= len(value) <= MOST_TEXT


def _index(value: Any) -> bool:
    return whole(value) and 0 <= value <= MOST_INDEX


_LOGITS = many(row({"token": text, "value": real}), 0, MOST_LOGITS)
UPLOAD_FEATURE: Schema = {
    "index": _index,
    "density": share,
    "topLogits": _LOGITS,
    "bottomLogits": _LOGITS,
    "explanations": many(
        row({"text": _short, "methodName": maybe(text), "modelName": maybe(text)})
    ),
    "activations": many(
        row(
            {
                "tokens": many(text, 1, MOST_TOKENS),
                "values": many(real, 1, MOST_TOKENS),
                "quantileMin": maybe(real),
                "quantileMax": maybe(real),
                "quantileFraction": maybe(share),
            }
        ),
        1,
    ),
}
UPLOAD: Schema = {"modelId": text, "source": text, "features": many(row(UPLOAD_FEATURE), 1, BATCH)}


def upload_feature(
    reader: PeerFeatures, found: PeerFeature, labels: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A feature of an upload batch.

    What the interface calls quantiles are the intervals that its pages show. Methods and models
    of explanations must be registered there, so they are left open.
    """
    tables = found.tables
    return {
        "index": found.number,
        "density": found.fraction,
        "topLogits": _logits(tables["pos_str"], tables["pos_values"]),
        "bottomLogits": _logits(tables["neg_str"], tables["neg_values"]),
        "explanations": [
            {"text": label["text"].replace("\0", " "), "methodName": None, "modelName": None}
            for label in labels
            if label["text"].strip()
        ],
        "activations": [
            {
                "tokens": [reader.text(token) for token in window.ids],
                "values": window.dense(),
                "quantileMin": None if group.share < 0 else group.low,
                "quantileMax": None if group.share < 0 else group.high,
                "quantileFraction": None if group.share < 0 else group.share,
            }
            for group in found.groups
            for window in group.windows
        ],
    }


def _logits(tokens: Sequence[str], values: Sequence[float]) -> list[dict[str, Any]]:
    pairs = zip(tokens[:MOST_LOGITS], values, strict=False)
    return [{"token": token, "value": value} for token, value in pairs]
