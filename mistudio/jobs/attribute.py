"""Why this next token: every feature's direct effect and first-order attribution on a text."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from mistudio.core.analysis_configs import MOST_TEXT_TOKENS, AttributeConfig
from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.jobs import feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.own_text import check_sae, pieces, told_effects
from mistudio.jobs.runner import Studio
from mistudio.store import features

if TYPE_CHECKING:
    from mistudio.ml.activations.multi_capture import HookPoint
    from mistudio.ml.features.attribution import Ending
    from mistudio.ml.features.own_text import FiredText

LIKELIEST = 5


def prepare(studio: Studio, config: AttributeConfig) -> None:
    """Refuse an SAE without model or feature set."""
    told = lookup.sae(studio, config.sae).config
    refuse_cross_layer(told, "no gradient at one layer says what a feature does")
    check_sae(studio, config.sae, config.feature)


def run(ctx: JobContext, config: AttributeConfig) -> Result:
    """Features by the size of their first-order attribution, with what else is known of each.

    All values speak for the token where they are positive: `first_order` is the change of its loss
    in nats if the feature were taken out at every token, to first order; `exact` the same by
    ablation, of the features checked; `direct` and `lens` are of the position alone, direct path
    only. `no_first_order` and `no_direct` say why those are missing.
    """
    from mistudio.ml.features import attribution, own_text, text_effects
    from mistudio.ml.features.rerun import Rerun

    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)
    ctx.report.progress(0.0, "loading the model")
    model = lookup.model_of(ctx.studio, row)
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
    store = feature_pages.open_store(ctx.studio, found)
    tokens = own_text.tokenize(loaded, config.text, MOST_TEXT_TOKENS)
    rerun = Rerun(
        loaded, row.layer or 0, row.hook_in or "", row.hook_out, most_tokens=len(tokens.ids_T)
    )
    written = sae_library.written_at(row)
    begun = time.monotonic()
    position = len(tokens.ids_T) - 1 if config.position < 0 else config.position
    if position >= len(tokens.ids_T):
        raise InvalidInput(
            f"There is no token {position:,}; the text has {len(tokens.ids_T):,} with its start."
        )
    ctx.report.progress(0.1, "reading the text")
    fired = own_text.fire(rerun.capture, sae, store, tokens)
    end = attribution.ending(loaded, tokens.ids_T, position)
    token = attribution.choose_token(end, _wanted(loaded.tokenizer, config.token))
    values: dict[int, dict[str, Any]] = {}
    reasons = {"no_first_order": "", "no_direct": ""}
    ctx.control.check()
    ctx.report.progress(0.2, "one backward pass")
    at = time.monotonic()
    try:
        grad_TO = attribution.hook_gradient(
            loaded, rerun.capture.written, tokens.ids_T, position, token
        )
        features_A, first_A = attribution.first_order(sae, fired, grad_TO)
    except Unsupported as refusal:
        reasons["no_first_order"] = refusal.sentence
        features_A, first_A = attribution.first_order_none(fired)
    backward_s = time.monotonic() - at
    for feature, value in zip(features_A.tolist(), first_A.tolist(), strict=True):
        values[feature] = {"first_order": None if reasons["no_first_order"] else value}
    ctx.report.progress(0.3, "the direct path")
    try:
        _add_direct(ctx, values, fired, position, loaded, sae, end, token, written)
    except Unsupported as refusal:
        reasons["no_direct"] = refusal.sentence
    effects: dict[int, tuple[str, float]] = {}
    if config.feature >= 0 and not reasons["no_direct"]:
        effects_N = text_effects.effects_on_next(
            loaded, sae, fired, config.feature, written=written
        )
        effects = told_effects(store, fired, effects_N, config.feature)
    own_s = time.monotonic() - begun
    checked = attribution.sample(_reaching(fired, position), config.check_on, config.seed)

    def step(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.4 + 0.6 * done, f"ablating {len(checked)} features to compare")

    exact = attribution.exact_changes(rerun, sae, fired, checked.tolist(), position, token, step)
    for feature, value in zip(checked.tolist(), exact.tolist(), strict=True):
        values[feature]["exact"] = value
    first = [values[f]["first_order"] for f in checked.tolist()]
    r = None if reasons["no_first_order"] else attribution.agreement(_array(first), exact)
    return {
        "sae": row.id,
        "text": config.text,
        "position": position,
        "tokens": len(tokens.ids_T),
        "token": store.vocabulary.text(token),
        "probability": end.probability(token),
        "likeliest": [[store.vocabulary.text(t), p] for t, p in end.likeliest(LIKELIEST)],
        "feature": config.feature,
        "pieces": pieces(fired, config.feature, effects),
        "features": _listed(ctx, found, values, fired, tokens.pieces, config.limit),
        "fired": len(values),
        "r": r,
        "checked": len(checked),
        **reasons,
        "seconds": {
            "attribution": own_s,
            "backward": backward_s,
            "check": time.monotonic() - begun - own_s,
        },
    }


def _array(values: list[Any]) -> Any:
    import numpy as np

    return np.array(values, dtype=np.float64)


def _reaching(fired: FiredText, position: int) -> Any:
    """Features that fire at or before a position: only they can reach it."""
    import numpy as np

    return np.unique(fired.features[: int(fired.splits[position + 1])])


def _wanted(tokenizer: Any, text: str) -> int | None:
    if not text:
        return None
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise InvalidInput("The next token asked about holds no token.")
    return int(ids[0])


def _add_direct(
    ctx: JobContext,
    values: dict[int, dict[str, Any]],
    fired: FiredText,
    position: int,
    loaded: Any,
    sae: Any,
    end: Ending,
    token: int,
    written: HookPoint,
) -> None:
    from mistudio.ml.features import attribution

    part = slice(int(fired.splits[position]), int(fired.splits[position + 1]))
    direct = attribution.direct_effects(
        loaded,
        sae,
        end,
        fired.features[part],
        fired.values[part],
        token,
        ctx.control.check,
        written,
    )
    for feature, effect, logit, value in zip(
        direct.features_A.tolist(),
        direct.effect_A.tolist(),
        direct.logit_A.tolist(),
        fired.values[part].tolist(),
        strict=True,
    ):
        values[feature] |= {"direct": effect, "lens": logit, "here": value}


def _listed(
    ctx: JobContext,
    found: Any,
    values: dict[int, dict[str, Any]],
    fired: FiredText,
    pieces: list[tuple[str, int, int]],
    limit: int,
) -> list[dict[str, Any]]:
    """The strongest by first order, or by the direct effect where there is none."""

    def size(feature: int) -> float:
        line = values[feature]
        first = line["first_order"]
        return abs(first if first is not None else line.get("direct", 0.0))

    chosen = sorted(values, key=lambda feature: (-size(feature), feature))[:limit]
    words = {r.index: r for r in features.feature_rows(ctx.db, found, chosen)}
    piece_of = {t: p for p, (_, a, b) in enumerate(pieces) for t in range(a, b)}
    told: list[dict[str, Any]] = []
    for feature in chosen:
        at = int(fired.value_of(feature).argmax())
        row = words.get(feature)
        told.append(
            {
                "feature": feature,
                "label": row.label if row else None,
                "top_tokens": row.top_tokens if row else "",
                "at": pieces[piece_of[at]][0],
                "direct": None,
                "lens": None,
                "here": None,
                "exact": None,
                **values[feature],
            }
        )
    return told


def lines(found: dict[str, Any]) -> list[str]:
    """The attribution for a terminal."""
    out = [
        f"Next token {found['token']!r} after token {found['position']} of {found['tokens']}: "
        f"probability {100 * found['probability']:.2f} %; likeliest: "
        + "  ".join(f"{text!r} {100 * share:.1f} %" for text, share in found["likeliest"])
    ]
    out += [found[name] for name in ("no_first_order", "no_direct") if found[name]]
    if found["r"] is not None:
        out.append(
            f"First order against exact ablation on {found['checked']} features: "
            f"r = {found['r']:.3f}."
        )
    out.append("feature  first order     exact    direct      lens  (direct path only)")
    for line in found["features"]:
        cells = [
            f"{'' if line[name] is None else format(line[name], '+.4f'):>9}"
            for name in ("first_order", "exact", "direct", "lens")
        ]
        words = line["label"] or line["top_tokens"]
        out.append(f"{line['feature']:>7}    {' '.join(cells)}  at {line['at']!r}  {words}")
    return out
