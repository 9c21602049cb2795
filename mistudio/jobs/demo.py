"""The whole path on the bundled sample: train, evaluate, find features, steer with one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mistudio.core.configs import DemoConfig, HarvestConfig, SteerConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import (
    feature_pages,
    harvest,
    lookup,
    sae_library,
    sample,
    sample_preset,
    steer,
    train,
)
from mistudio.jobs.context import JobContext, Result
from mistudio.store import features
from mistudio.store.features import FeatureFilter, FeatureRow
from mistudio.store.tables import FEATURE_SETS

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import TokenWeight

LAYER = 2
WIDTH = 1024
K = 32
STRENGTH = 1.0
PROMPT = "And the king said unto"


def run(ctx: JobContext, config: DemoConfig) -> Result:
    """Go the whole way; each stage tells in a sentence what happened."""
    began = time.monotonic()
    sample.ensure(ctx.studio)
    _say(ctx, "Datasets", "The sample text and the language model trained on it are in place.")
    trained = train.run_training(
        ctx.part(0.02, 0.72),
        train.prepare(ctx.studio, _training(config)),
        ends_turn=False,
    )
    _say(
        ctx,
        "Training",
        f"The SAE explains {100 * trained['explained_variance']:.0f} % of the variance with "
        f"{trained['l0']:.0f} features per token.",
    )
    sae_id = str(trained["sae"])
    found = harvest.run(ctx.part(0.72, 0.9), HarvestConfig(sae=sae_id, rows=6000, context=128))
    _say(ctx, "Features", f"{found['live_features']:,} features fire on the text.")
    shown = _nameable(ctx, sae_id, str(found["feature_set"]))
    chosen = shown[0]
    steering = _steer(ctx.part(0.9, 1.0), sae_id, chosen.index)
    preset = sample_preset.keep(
        ctx.studio, _steering(sae_id, chosen.index), chosen.label or chosen.top_tokens
    )
    _say(
        ctx,
        "Steering",
        f"Feature {chosen.index} ({chosen.top_tokens}) changes what is written; preset "
        f"{preset.name!r} steers with it.",
    )
    return {
        "tokens": trained["tokens"],
        "explained_variance": trained["explained_variance"],
        "l0": trained["l0"],
        "dead_fraction": trained["dead_fraction"],
        "ce_loss_score": trained["ce_loss_score"],
        "features": found["features"],
        "live_features": found["live_features"],
        "examples": [{"index": r.index, "tokens": r.top_tokens, "max": r.max} for r in shown],
        "steering": steering,
        "preset": preset.name,
        "seconds": time.monotonic() - began,
        "training": trained["training"],
        "sae": sae_id,
        "feature_set": found["feature_set"],
    }


def _training(config: DemoConfig) -> TrainConfig:
    return TrainConfig(
        model=sample.NAME,
        dataset=sample.NAME,
        name="sample SAE",
        layer=LAYER,
        width=WIDTH,
        k=K,
        tokens=config.tokens,
        seed=config.seed,
        eval_tokens=100_000,
    )


def _say(ctx: JobContext, tab: str, sentence: str) -> None:
    ctx.report.partial("stage", {"tab": tab, "sentence": sentence})
    ctx.report.note(sentence)


def _nameable(ctx: JobContext, sae_id: str, feature_set_id: str) -> list[FeatureRow]:
    """Features a reader can name at a glance: most of their activation is on one word."""
    found = FEATURE_SETS.get(ctx.db, feature_set_id)
    wanted = FeatureFilter(min_frequency=0.0005, max_frequency=0.02)
    indices = features.feature_ids(ctx.db, found, wanted)
    store = feature_pages.open_store(ctx.studio, found)
    shares = {index: _share_of_one_word(store.top_tokens(index)) for index in indices}
    best = sorted(indices, key=lambda index: shares[index], reverse=True)[:8]
    if not best:
        best = features.feature_ids(ctx.db, found, FeatureFilter(), sort="max", limit=8)
    return features.feature_rows(ctx.db, found, best)


def _share_of_one_word(tokens: Sequence[TokenWeight]) -> float:
    """The largest share of a feature's activation on one word, whatever its case and spaces."""
    shares: dict[str, float] = {}
    for token in tokens:
        word = token.text.strip().lower()
        if len(word) > 2 and word.isalpha():
            shares[word] = shares.get(word, 0.0) + token.weight
    return max(shares.values(), default=0.0)


def _steering(sae_id: str, feature: int) -> SteerConfig:
    """How the sample steers, which is also what its preset holds."""
    written = (f"{feature}={STRENGTH}",)
    return SteerConfig(sae=sae_id, feature=written, prompt=PROMPT, max_tokens=40)


def _steer(ctx: JobContext, sae_id: str, feature: int) -> dict[str, Any]:
    """Steer with one feature, and check that strength 0 leaves the model as it is."""
    from mistudio.ml.steering.compare import identity_check

    config = _steering(sae_id, feature)
    acted = steer.run(ctx.part(0.0, 0.7), config)
    row = lookup.sae(ctx.studio, sae_id)
    model = lookup.model_of(ctx.studio, row)
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    same = identity_check(
        loaded,
        sae_library.read_sae(ctx.studio, row),
        row.layer or 0,
        row.hook_in or "",
        [feature],
        config,
        ctx.control,
    )
    return {
        "feature": feature,
        "strength": STRENGTH,
        "kl": acted["kl"],
        "perplexity_delta": acted["perplexity_delta"],
        "identity_at_zero": same.identical,
        "baseline": acted["baseline"],
        "steered": acted["steered"],
    }
