"""An SAE with a synthetic feature set, as the Features and Steering tabs find it in a library."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from mistudio.jobs.feature_pages import GROUPS, Bars, Example, FeaturePage, Group, LensToken, Piece
from mistudio.store import features
from mistudio.store.records import FeatureSetRow, SaeRow
from mistudio.store.tables import DATASETS, FEATURE_SETS, MODELS, SAES, TOKENIZATIONS

WORDS = "river whale captain harbour winter letter garden silver engine theory".split()  # noqa: SIM905


class World(NamedTuple):
    """What was put into the library."""

    sae: SaeRow
    feature_set: FeatureSetRow


def add_sae(db: Any, n_latents: int = 64, name: str = "tiny sae") -> SaeRow:
    """An SAE row without files, and the row of its model."""
    model = MODELS.insert(db, name="tiny", origin="folder", path="models/none", status="ready")
    return SAES.insert(
        db,
        name=name,
        origin="training",
        encoder_type="sae",
        architecture="batch_topk",
        d_in=16,
        d_out=16,
        n_latents=n_latents,
        path="saes/none",
        layer=3,
        hook_in="resid_post",
        model_id=model.id,
        model_name="tiny",
        status="ready",
    )


def statistics(index: int, n_tokens: int) -> dict[str, Any]:
    """The row of one feature; every eighth one never fires, and strength falls with the index."""
    word = WORDS[index % len(WORDS)]
    live = index % 8 != 7
    text = [["the ", 0.0], ["old", 0.1], [f" {word}", 1.0], [" was", 0.3], [" there", 0.0]]
    return {
        "feature_index": index,
        "count": 20_000 // (index + 1) + 1 if live else 0,
        "frequency": (20_000 // (index + 1) + 1) / n_tokens if live else 0.0,
        "active_samples": 7 if live else 0,
        "max": 4.0 + index % 5 if live else 0.0,
        "mean": 1.5 if live else 0.0,
        "top_tokens": f"{word} word{index}" if live else "",
        "flags": "" if live else "dead",
        "positive_tokens": f"{word}s",
        "example": json.dumps([[t, v * (4.0 + index % 5)] for t, v in text]) if live else "[]",
    }


def add_world(db: Any, n_latents: int = 64, n_tokens: int = 100_000) -> World:
    """An SAE with a finished feature set of `n_latents` features over a dataset."""
    sae = add_sae(db, n_latents)
    dataset = DATASETS.insert(db, name="novels", source="file", status="ready")
    tokens = TOKENIZATIONS.insert(
        db, dataset_id=dataset.id, tokenizer_name="tiny", settings_hash="x", context=128
    )
    rows = [statistics(index, n_tokens) for index in range(n_latents)]
    found = FEATURE_SETS.insert(
        db,
        sae_id=sae.id,
        tokenization_id=tokens.id,
        n_tokens=n_tokens,
        n_live=sum(row["count"] > 0 for row in rows),
        status="ready",
    )
    features.add_statistics(db, found.id, rows)
    return World(sae, found)


def example(number: int, value: float) -> Example:
    """An example whose strongest token is its third piece."""
    texts = ["It was\n", "an", " old", " ship", " of", " the", " north", "."]
    values = [0.0, 0.1 * value, value, 0.4 * value, 0.0, 0.0, 0.0, 0.0]
    pieces = [Piece(t, v, False) for t, v in zip(texts, values, strict=True)]
    return Example(pieces, 2, value, number, 2)


def page(
    studio: Any,
    sae: SaeRow,
    index: int,
    *,
    before: int = 16,
    after: int = 16,
    groups: tuple[str, ...] = GROUPS,
) -> FeaturePage:
    """Stands in for `feature_pages.page` where there are no files; `before` repeats the text."""
    found = features.newest_set(studio.db(), sae.id)
    assert found is not None
    row = features.feature_rows(studio.db(), found, [index])[0]
    repeat = max(1, before // 8)
    top = [example(i, 4.0 - 0.1 * i) for i in range(20)]
    top = [Example(e.pieces * repeat, e.peak, e.value, e.row, e.position) for e in top]
    made = [
        Group(
            f"Interval {5 - i}: {4 - i - 1} to {4 - i}", 3.0 - i, 4.0 - i, 0.001, [example(i, 3.5)]
        )
        for i in range(4)
    ]
    return FeaturePage(
        row=row,
        sae_id=sae.id,
        feature_set_id=found.id,
        n_tokens=found.n_tokens or 0,
        examples=top,
        intervals=made if "intervals" in groups else [],
        quantiles=made[:2] if "quantiles" in groups else [],
        activations=Bars([0.0, 1.0, 2.0, 3.0, 4.0], [40, 20, 5, 1]),
        positive=[LensToken(f" {word}", 2.0 - 0.1 * i) for i, word in enumerate(WORDS)],
        negative=[LensToken(f"{word}", -1.0 + 0.05 * i) for i, word in enumerate(WORDS)],
        logits=Bars([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], [3, 50, 60, 10, 2]),
        lens_note="",
    )
