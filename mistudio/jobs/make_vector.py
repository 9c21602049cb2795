"""Make raw directions: from two lists of prompts, or from a feature's own text."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.vector_configs import ContrastConfig, FeatureMeanConfig
from mistudio.jobs import feature_pages, lookup, sae_geometry, sae_library, vector_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAREST = 5
MOST_SAES = 3


def prepare_contrast(studio: Studio, config: ContrastConfig) -> None:
    """Refuse an unknown model or layer before anything is queued."""
    row = lookup.model(studio, config.model)
    if row.num_layers is not None and config.layer >= row.num_layers:
        raise InvalidInput(
            f"There is no layer {config.layer}; {row.name} has layers 0 to {row.num_layers - 1}."
        )


def run_contrast(ctx: JobContext, config: ContrastConfig) -> Result:
    """Read both lists, fit the direction, measure how well it tells them apart, keep it."""
    import numpy as np

    from mistudio.ml.steering.directions import direction, separation
    from mistudio.ml.steering.read_prompts import read_prompts

    model = lookup.model(ctx.studio, config.model)
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    prompts = [*config.positive, *config.negative]

    def step(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.1 + 0.8 * done, "reading the prompts")

    read = read_prompts(loaded, config.layer, config.hook, prompts, config.read, step=step)
    split = len(config.positive)
    p_ND, n_MD = read.x_ND[:split], read.x_ND[split:]
    found = direction(p_ND, n_MD, config.method)
    known = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    numbers = np.array([known[prompt] for prompt in prompts])
    same = (numbers[:split], numbers[split:])
    apart = separation(p_ND, n_MD, config.method, found.v_D, same)
    report: dict[str, Any] = {
        "read": config.read,
        "positive": len(config.positive),
        "negative": len(config.negative),
        "tokens": read.tokens,
        "median_norm": read.median_norm,
        "explained": found.explained,
        "votes": found.votes,
        "auroc": apart.own,
        "auroc_held_out": apart.held_out,
        "held_out": list(apart.n_held_out),
        "nearest": nearest(ctx.studio, model.id, config.layer, config.hook, found.v_D),
    }
    told = json.dumps([config.positive, config.negative], ensure_ascii=False)
    digest = hashlib.sha256(told.encode()).hexdigest()
    name = config.name or f"{config.method} of prompts, layer {config.layer}"
    new = vector_library.NewVector(found.v_D, name, config.layer, config.hook, report)
    hashed = loaded.facts.fingerprint
    (row,) = vector_library.add(
        ctx.studio, model, [new], config.method, model_hash=hashed, prompts_hash=digest
    )
    return {"vector": row.id, "name": row.name, "norm": row.norm, **report}


def prepare_feature_mean(studio: Studio, config: FeatureMeanConfig) -> None:
    """Refuse an SAE without features or place before anything is queued."""
    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    feature_pages.feature_set(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")


def run_feature_mean(ctx: JobContext, config: FeatureMeanConfig) -> Result:
    """Read the feature's text again and keep mean x where it fires less mean x elsewhere."""
    from mistudio.ml.steering.feature_mean import feature_mean

    sae = lookup.sae(ctx.studio, config.sae)
    model = lookup.model_of(ctx.studio, sae)
    store = feature_pages.open_store(ctx.studio, feature_pages.feature_set(ctx.studio, sae))
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    layer, hook = sae.layer or 0, sae.hook_out or sae.hook_in or ""

    def step(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.1 + 0.85 * done, "reading the text")

    found = feature_mean(
        loaded,
        layer,
        hook,
        store,
        config.feature,
        most_tokens=config.tokens,
        seed=config.seed,
        step=step,
    )
    report: dict[str, Any] = {
        "active": found.active,
        "rest": found.rest,
        "rows": found.rows,
        "whole_text": found.is_whole,
        "auroc": found.own,
        "auroc_held_out": found.held_out,
        "held_out": list(found.n_held_out),
        "nearest": nearest(ctx.studio, model.id, layer, hook, found.v_D),
    }
    name = config.name or f"mean of feature {config.feature} of {sae.name}"[:500]
    new = vector_library.NewVector(found.v_D, name, layer, hook, report)
    (row,) = vector_library.add(
        ctx.studio,
        model,
        [new],
        "feature-mean",
        model_hash=loaded.facts.fingerprint,
        sae_id=sae.id,
        feature=config.feature,
    )
    return {"vector": row.id, "name": row.name, "norm": row.norm, **report}


def nearest(
    studio: Studio, model_id: str, layer: int, hook: str, v_D: NDArray[np.floating]
) -> list[dict[str, Any]]:
    """The features whose decoder rows lie nearest to a vector, of the newest SAEs of its place."""
    from mistudio.ml.features.decoder_rows import neighbours, open_rows

    found: list[dict[str, Any]] = []
    saes = SAES.select(
        studio.db(),
        "model_id = ? AND layer = ? AND hook_out = ? AND d_out = ?",
        [model_id, layer, hook, int(v_D.size)],
        limit=MOST_SAES,
    )
    for sae in saes:
        near = neighbours(open_rows(_weights(studio, sae)), v_D, NEAREST)
        found += [
            {"sae": sae.id, "sae_name": sae.name, "feature": int(feature), "cosine": float(cosine)}
            for feature, cosine in zip(near.features, near.cosines, strict=True)
            if cosine == cosine  # a row without a length has none
        ]
    return sorted(found, key=lambda one: -one["cosine"])


def _weights(studio: Studio, sae: SaeRow) -> Any:
    return sae_geometry.weights_of(studio, sae)
