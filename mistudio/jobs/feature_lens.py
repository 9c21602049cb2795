"""The logit lens of one feature from the model: raw or past the final norm, logits and z-scores."""

from __future__ import annotations

from typing import Any

from mistudio.core.analysis_configs import FeatureLensConfig
from mistudio.jobs import feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.feature_analyses import kept
from mistudio.jobs.runner import Studio

KIND, VERSION = "feature_lens", 1


def prepare(studio: Studio, config: FeatureLensConfig) -> None:
    """Refuse an SAE without model or features, and a feature that it does not have."""
    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    feature_pages.feature_set(studio, row)
    feature_pages.check_feature(row, config.feature)


def run(ctx: JobContext, config: FeatureLensConfig) -> Result:
    """Tokens with logit and z-score, and the spread; kept until model, SAE or text change."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)

    def compute() -> dict[str, Any]:
        from mistudio.ml.features.feature_lens import feature_lens

        ctx.report.progress(0.1, "loading the model")
        model = lookup.model_of(ctx.studio, row)
        loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
        ctx.control.check()
        lens = feature_lens(
            sae_library.read_sae(ctx.studio, row),
            loaded,
            config.feature,
            raw=config.raw,
            written=sae_library.written_at(row),
        )
        vocabulary = feature_pages.open_store(ctx.studio, found).vocabulary

        def told(ids: Any, logits: Any) -> list[list[Any]]:
            z = (logits - lens.mean) / max(lens.deviation, 1e-30)
            return [
                [vocabulary.text(int(token)), float(logit), float(score)]
                for token, logit, score in zip(ids, logits, z, strict=True)
            ]

        return {
            "positive": told(lens.positive_ids, lens.positive),
            "negative": told(lens.negative_ids, lens.negative),
            "edges": lens.edges.tolist(),
            "counts": lens.counts.tolist(),
            "mean": lens.mean,
            "deviation": lens.deviation,
            "skew": lens.skew,
            "kurtosis": lens.kurtosis,
        }

    made = kept(
        ctx.studio,
        row,
        found,
        KIND,
        VERSION,
        {"raw": config.raw},
        compute,
        feature=config.feature,
    )
    ctx.report.progress(1.0, "Ready")
    return {"sae": row.id, "feature": config.feature, "raw": config.raw, **made.result}


def lines(found: dict[str, Any]) -> list[str]:
    """The lens for a terminal."""
    how = "raw: decoder row times unembedding" if found["raw"] else "past the final norm, centred"
    out = [
        f"Feature {found['feature']}, {how}; skew {found['skew']:.3f}, kurtosis "
        f"{found['kurtosis']:.2f}, deviation {found['deviation']:.4f} over "
        f"{sum(found['counts']):,} tokens"
    ]
    for title, side in (("promoted", "positive"), ("suppressed", "negative")):
        out.append(f"{title}:")
        out += [f"  {logit:+9.4f}  z {z:+7.2f}  {text!r}" for text, logit, z in found[side]]
    return out
