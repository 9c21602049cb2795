"""How much of a concept other features carry in place of one, by two lists of prompts."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mistudio.core.analysis_configs import AbsorptionConfig
from mistudio.core.errors import Mismatch
from mistudio.core.units import format_percent
from mistudio.jobs import feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.feature_analyses import kept
from mistudio.jobs.runner import Studio
from mistudio.store import features

if TYPE_CHECKING:
    from mistudio.ml.features.absorption_fraction import Absorption
    from mistudio.store.records import FeatureSetRow, SaeRow

KIND, VERSION = "absorption", 1
LISTED = 10  # absorbers that are told


def prepare(studio: Studio, config: AbsorptionConfig) -> None:
    """Refuse an SAE without model, place or features, and features that it does not have."""
    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    feature_pages.feature_set(studio, row)
    for number in config.main:
        feature_pages.check_feature(row, number)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    if row.hook_out and row.hook_out != row.hook_in:
        raise Mismatch(
            "A transcoder writes at another hook than it reads; absorption is measured at one."
        )


def run(ctx: JobContext, config: AbsorptionConfig) -> Result:
    """Read both lists, measure, keep until model, SAE or text change."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)
    prompts = json.dumps([config.positive, config.negative], ensure_ascii=False)

    def compute() -> dict[str, Any]:
        from mistudio.ml.features.absorption_fraction import absorption
        from mistudio.ml.steering.read_prompts import read_prompts

        ctx.report.progress(0.0, "loading the model")
        model = lookup.model_of(ctx.studio, row)
        loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))

        def step(done: float) -> None:
            ctx.control.check()
            ctx.report.progress(0.1 + 0.7 * done, "reading the prompts")

        both = [*config.positive, *config.negative]
        read = read_prompts(loaded, row.layer or 0, row.hook_in or "", both, config.read, step=step)
        split = len(config.positive)
        sae = sae_library.read_sae(ctx.studio, row)
        ctx.report.progress(0.8, "measuring")
        measured = absorption(sae, read.x_ND[:split], read.x_ND[split:], config.main)
        return _told(measured, config.positive)

    made = kept(
        ctx.studio,
        row,
        found,
        KIND,
        VERSION,
        {
            "main": sorted(config.main),
            "read": config.read,
            "prompts": hashlib.sha256(prompts.encode()).hexdigest(),
        },
        compute,
        feature=config.feature,
    )
    ctx.report.progress(1.0, "Ready")
    named = _with_words(ctx.studio, row, found, made.result["absorbers"])
    return {
        "sae": row.id,
        "feature": config.feature,
        "main": list(config.main),
        **made.result,
        "absorbers": named,
    }


def _told(measured: Absorption, prompts: tuple[str, ...]) -> dict[str, Any]:
    """Plain values: the mean with its interval, who absorbs, and every prompt."""
    import numpy as np

    from mistudio.ml.evaluation.bootstrap import Bootstrap

    carried = measured.carried
    holds_N = np.isfinite(carried.fraction_N)
    fraction_N = np.where(holds_N, carried.fraction_N, 0.0)
    bootstrap = Bootstrap(holds_N)
    drawn = bootstrap.draw({"sum": fraction_N, "n": holds_N.astype(float)})
    shares: dict[int, list[float]] = {}
    lines = list[dict[str, Any]]()
    for n, prompt in enumerate(prompts):
        who = [int(k) for k in carried.absorber_NK[n] if k >= 0]
        held = [float(value) for value in carried.absorbed_NK[n][: len(who)]]
        fraction = float(carried.fraction_N[n]) if holds_N[n] else None
        if fraction:
            for feature, value in zip(who, held, strict=True):
                shares.setdefault(feature, []).append(value / float(carried.projection_N[n]))
        lines.append(
            {
                "prompt": prompt,
                "projection": float(carried.projection_N[n]),
                "main": float(carried.main_N[n]),
                "absorbers": who,
                "absorbed": held,
                "fraction": fraction,
            }
        )
    order = sorted(shares, key=lambda feature: (-sum(shares[feature]), feature))
    holds = int(holds_N.sum())
    return {
        "fraction": float(fraction_N.sum() / holds) if holds else None,
        "interval": bootstrap.interval(drawn["sum"] / np.maximum(drawn["n"], 1)),
        "prompts": holds,
        "absorbed_prompts": int((fraction_N > 0).sum()),
        "silent": int((holds_N & (carried.main_N <= 0)).sum()),
        "auroc": measured.auroc,
        "absorbers": [
            {
                "feature": feature,
                "prompts": len(shares[feature]),
                "share": sum(shares[feature]) / len(shares[feature]),
            }
            for feature in order[:LISTED]
        ],
        "lines": lines,
    }


def _with_words(
    studio: Studio, sae: SaeRow, found: FeatureSetRow, absorbers: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """What each is called now, which is not part of what is kept."""
    rows = features.feature_rows(studio.db(), found, [line["feature"] for line in absorbers])
    called = {row.index: row.label or row.top_tokens for row in rows}
    return [{**line, "called": called.get(line["feature"], "")} for line in absorbers]


def summary(found: dict[str, Any]) -> str:
    """The measurement in a sentence or two."""
    if found["fraction"] is None:
        return "The probe finds the concept in none of the positive prompts, so nothing is said."
    between = ""
    if found["interval"]:
        low, high = found["interval"]
        between = f" (95 % interval {low:.3f} to {high:.3f})"
    return (
        f"Mean absorption fraction {found['fraction']:.3f}{between} over {found['prompts']:,} "
        f"prompts in which the probe finds the concept; other features carry it in "
        f"{found['absorbed_prompts']:,}, and in {found['silent']:,} the feature carries none. The "
        f"probe tells the lists apart with AUROC {found['auroc']:.3f} on prompts that it was not "
        "fitted on."
    )


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement for a terminal."""
    out = [summary(found)]
    for line in found["absorbers"]:
        out.append(
            f"  #{line['feature']} {line['called']}: in {line['prompts']:,} prompts, carries "
            f"{format_percent(line['share'])} of the projection there"
        )
    return out
