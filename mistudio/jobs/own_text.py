"""Read a text of one's own: the features that fire on it, and one feature's values."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from mistudio.core.analysis_configs import MOST_TEXT_TOKENS, OwnTextConfig
from mistudio.core.errors import InvalidInput, Mismatch, Unsupported
from mistudio.jobs import feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.features.own_text import FiredText


def prepare(studio: Studio, config: OwnTextConfig) -> None:
    """Refuse an SAE without model or feature set, and an unknown feature."""
    check_sae(studio, config.sae, config.feature)


def check_sae(studio: Studio, wanted: str, feature: int) -> SaeRow:
    """The SAE, if its model and features are here and it has that feature (-1: any)."""
    row = lookup.sae(studio, wanted)
    lookup.model_of(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    feature_pages.feature_set(studio, row)
    if feature >= row.n_latents:
        raise InvalidInput(
            f"Feature {feature:,} does not exist; the SAE has {row.n_latents:,} latents "
            f"(0 to {row.n_latents - 1:,})."
        )
    return row


def run(ctx: JobContext, config: OwnTextConfig) -> Result:
    """Tokens, the strongest features of each, and the features of the whole text.

    `pieces` are slices of the text with `tokens` first and end; `value` is the named feature's,
    None where none is named. `top` lists per token `[feature, activation, quantile]`, by
    activation and by quantile within the feature, and by "loss" `[…, effect]` if every feature's
    effect was asked for: those that change the next token's log-probability most, either way.
    `effects` of a piece are the named feature's, as `[token, what follows, nats]`; `no_effects`
    says why there are none.
    """
    from mistudio.ml.activations.pair_capture import PairCapture
    from mistudio.ml.features import own_text

    begun = time.monotonic()
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)
    ctx.report.progress(0.0, "loading the model")
    model = lookup.model_of(ctx.studio, row)
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
    store = feature_pages.open_store(ctx.studio, found)
    tokens = own_text.tokenize(loaded, config.text, MOST_TEXT_TOKENS)
    ctx.control.check()
    ctx.report.progress(0.3, "reading the text")
    hook = row.hook_in or ""
    capture = PairCapture(loaded, row.layer or 0, hook, row.hook_out or hook)
    fired = own_text.fire(capture, sae, store, tokens)
    ctx.control.check()
    effects_N, no_effects = _effects(ctx, row, loaded, sae, fired, config)
    listed = own_text.firings(
        fired,
        by=config.sort,
        count=config.limit,
        frequencies_F=store.statistics["frequency"],
        low=config.least_density,
        high=config.most_density,
    )
    known = features.feature_rows(ctx.db, found, [f.feature for f in listed])
    words = {line.index: line for line in known}
    value_T = fired.value_of(config.feature).tolist() if config.feature >= 0 else None
    piece_of = {t: p for p, (_, a, b) in enumerate(tokens.pieces) for t in range(a, b)}
    return {
        "sae": row.id,
        "feature": config.feature,
        "sort": config.sort,
        "text": config.text,
        "tokens": len(tokens.ids_T),
        "fired": len(set(fired.features.tolist())),
        "largest": max(value_T, default=0.0) if value_T is not None else None,
        "pieces": pieces(
            fired, config.feature, told_effects(store, fired, effects_N, config.feature)
        ),
        "top": {
            **{by: _top(fired, config.per_token, by) for by in ("activation", "quantile")},
            **_top_by_loss(fired, config.per_token, effects_N, config.effects),
        },
        "no_effects": no_effects,
        "features": [
            {
                "feature": f.feature,
                "label": words[f.feature].label if f.feature in words else None,
                "top_tokens": words[f.feature].top_tokens if f.feature in words else "",
                "frequency": float(store.statistics[f.feature]["frequency"]),
                "max": f.largest,
                "sum": f.total,
                "tokens": f.tokens,
                "at": tokens.pieces[piece_of[f.token]][0],
            }
            for f in listed
        ],
        "seconds": time.monotonic() - begun,
    }


def _effects(
    ctx: JobContext, row: SaeRow, loaded: Any, sae: Any, fired: FiredText, config: OwnTextConfig
) -> tuple[Any, str]:
    """Direct effects of the entries asked about, None without any, and why there are none."""
    from mistudio.ml.features import text_effects

    if config.effects == "none" or (config.effects == "feature" and config.feature < 0):
        return None, ""

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.4 + 0.6 * done, "the direct path of each feature")

    only = config.feature if config.effects == "feature" else None
    try:
        written = sae_library.written_at(row)
        return text_effects.effects_on_next(loaded, sae, fired, only, check, written), ""
    except Unsupported as refusal:
        return None, refusal.sentence


def told_effects(
    store: FeatureStore, fired: FiredText, effects_N: Any, feature: int
) -> dict[int, tuple[str, float]]:
    """Per token on which a feature fires and that another follows: that one, and the effect."""
    if effects_N is None or feature < 0:
        return {}
    ids_T, token_N = fired.tokens.ids_T, fired.token_of()
    return {
        token: (store.vocabulary.text(int(ids_T[token + 1])), effect)
        for token, number, effect in zip(
            token_N.tolist(), fired.features.tolist(), effects_N.tolist(), strict=True
        )
        if number == feature and not math.isnan(effect)
    }


def pieces(
    fired: FiredText, feature: int, effects: dict[int, tuple[str, float]]
) -> list[dict[str, Any]]:
    """Slices of a text with a feature's value on each (None for -1) and its `told_effects`."""
    value_T = fired.value_of(feature).tolist() if feature >= 0 else None
    found: list[dict[str, Any]] = []
    for text, first, end in fired.tokens.pieces:
        value = max(value_T[first:end]) if value_T is not None else None
        found.append(
            {
                "text": text,
                "tokens": [first, end],
                "masked": not bool(fired.keep_T[first:end].any()),
                "value": value,
                "effects": [[t, *effects[t]] for t in range(first, end) if t in effects],
            }
        )
    return found


def _top_by_loss(
    fired: FiredText, count: int, effects_N: Any, asked: str
) -> dict[str, list[list[list[float | int | None]]]]:
    """Per token the features whose direct effect is largest, either way; {} if not asked for."""
    import numpy as np

    if effects_N is None or asked != "every":
        return {}
    found: list[list[list[float | int | None]]] = []
    for token in range(len(fired.keep_T)):
        part = fired.of(token)
        sizes = np.abs(effects_N[part])
        order = np.lexsort((fired.features[part], -sizes))[:count] + part.start
        found.append(
            [
                [int(fired.features[i]), float(fired.values[i]), None, float(effects_N[i])]
                for i in order
                if not np.isnan(effects_N[i])
            ]
        )
    return {"loss": found}


def _top(fired: FiredText, count: int, by: str) -> list[list[list[float | int | None]]]:
    return [
        [
            [feature, value, None if math.isnan(quantile) else quantile]
            for feature, value, quantile in fired.strongest(token, count, by)
        ]
        for token in range(len(fired.keep_T))
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The features of a text for a terminal."""
    out = [f"{found['tokens']:,} tokens; {found['fired']:,} features fire."]
    if found["largest"] is not None:
        marked = "".join(
            f"<<{p['text']}:{p['value']:.2f}>>" if p["value"] else p["text"]
            for p in found["pieces"]
        )
        out += [f"Feature {found['feature']}: {marked}"]
        out += [
            f"  after {p['text']!r}: {effect:+.4f} nats to {following!r} (direct path only)"
            for p in found["pieces"]
            for _, following, effect in p["effects"]
        ]
    if found["no_effects"]:
        out.append(found["no_effects"])
    for piece in found["pieces"] if "loss" in found["top"] else ():
        tops = found["top"]["loss"][piece["tokens"][1] - 1]
        if tops:
            told = "  ".join(f"{top[0]} {top[3]:+.4f}" for top in tops)
            out.append(f"  after {piece['text']!r}, by direct effect on what follows: {told}")
    for line in found["features"]:
        words = line["label"] or line["top_tokens"]
        out.append(
            f"{line['feature']:>7}  max {line['max']:8.3f}  sum {line['sum']:8.3f}  on "
            f"{line['tokens']:>3}  at {line['at']!r}  {words}"
        )
    return out
