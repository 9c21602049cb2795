"""What steering would do before anything is generated: the next token, and effect by strength."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_spec import Spec
from mistudio.core.steering_study_configs import DoseConfig, PreviewConfig
from mistudio.jobs import steer
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.preview import Preview, PreviewSession
    from mistudio.ml.steering.prompts import Prompt
    from mistudio.ml.steering.sources import Library


class _Ready(NamedTuple):
    loaded: LoadedModel
    prompt: Prompt
    spec: Spec
    library: Library
    median: float | None


def prepare(studio: Studio, config: PreviewConfig | DoseConfig) -> None:
    """Refuse what a run of steering would refuse."""
    steer.prepare(studio, config.steering())


def preview(
    ctx: JobContext, config: PreviewConfig, session: PreviewSession | None = None
) -> Result:
    """The next token's distribution, unsteered and steered, its KL and what moved most.

    A `session` that is kept between calls lets another strength of the same prompt cost only the
    layers behind the first steered one. It is meant for a lane on which a newer question replaces
    one that waits, and on which nothing else uses the model.
    """
    from mistudio.ml.steering.preview import PreviewSession

    ready = _ready(ctx, config)
    begun = time.monotonic()
    found = (session or PreviewSession()).show(
        ready.loaded, ready.prompt, ready.spec, ready.library
    )
    return {**_plain(found, ready.loaded), "seconds": time.monotonic() - begun}


def _plain(found: Preview, loaded: LoadedModel) -> dict[str, Any]:
    def text(token: int) -> str:
        return str(loaded.tokenizer.decode([token]))

    def listed(candidates: Sequence[Any]) -> list[dict[str, Any]]:
        return [
            {"token": c.token_id, "text": text(c.token_id), "probability": c.probability}
            for c in candidates
        ]

    return {
        "baseline": listed(found.baseline),
        "steered": listed(found.steered),
        "movers": [
            {
                "token": m.token_id,
                "text": text(m.token_id),
                "baseline": m.baseline,
                "steered": m.steered,
                "change": m.change,
            }
            for m in found.movers
        ],
        "kl": found.kl,
        "kl_reverse": found.reverse,
        "js": found.js,
        "acted": found.acted,
        "positions": found.positions,
        "delta_ratio": found.ratio,
    }


def dose_response(ctx: JobContext, config: DoseConfig) -> Result:
    """KL, perplexity and the target's probability at every strength; or the strength for a KL."""
    from mistudio.ml.features.vocabulary import token_texts
    from mistudio.ml.steering.claims import matching_tokens
    from mistudio.ml.steering.dose_response import calibration_text, dose, factor_for_kl

    ready = _ready(ctx, config)
    words = [word.strip() for word in config.target.split(",") if word.strip()]
    targets: list[int] = []
    if words:
        texts = token_texts(ready.loaded.tokenizer, ready.loaded.facts.vocab_size)
        targets = matching_tokens(texts, words)
        if not targets:
            raise InvalidInput(f"No token of this model is one of the words {config.target!r}.")
    begun = time.monotonic()
    ctx.report.progress(0.1, "reading the text")
    replay = calibration_text(ready.loaded, ready.prompt, config.text_tokens)
    told: dict[str, Any] = {"text": ready.loaded.tokenizer.decode(replay.ids), "target": words}
    check = ctx.control.check
    if config.target_kl:
        if not ready.median:
            raise InvalidInput("The median norm of the stream is not known; find the features.")
        found = factor_for_kl(
            replay,
            config.target_kl,
            ready.spec,
            ready.library,
            ready.median,
            check,
            targets=targets,
        )
        curve = found.dose
        told |= {
            "target_kl": found.target,
            "factor": found.strength,
            "kl_measured": found.measured,
            "error": found.error,
            "within": found.within,
            "monotone": found.monotone,
            "problem": found.problem,
        }
    else:
        factors = config.factors()
        curve = dose(replay, factors, ready.spec.scaled, ready.library, targets, check)
    ctx.report.progress(1.0, "Ready")
    return {
        **told,
        "tokens": curve.tokens,
        "perplexity": curve.perplexity,
        "target_probability": curve.target_probability,
        "points": [point._asdict() for point in curve.points],
        "seconds": time.monotonic() - begun,
    }


def _ready(ctx: JobContext, config: PreviewConfig | DoseConfig) -> _Ready:
    from mistudio.ml.steering.prompts import read_prompt

    run = config.steering()
    model, row, spec = steer.subject_of(ctx.studio, run)
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    library = steer.library_of(ctx, model, loaded, spec)
    prompt = read_prompt(loaded.tokenizer, run.prompt, chat=run.chat)
    mine = [library.saes[row.id]] if row is not None and row.id in library.saes else []
    sources = [*mine, *library.saes.values(), *library.vectors.values()]
    median = next((one.median_norm for one in sources if one.median_norm), None)
    return _Ready(loaded, prompt, spec, library, median)


def preview_lines(found: Mapping[str, Any]) -> list[str]:
    """The next token for a terminal."""
    out = [
        f"KL {found['kl']:.4f} nats, reverse {found['kl_reverse']:.4f}; acted on {found['acted']} "
        f"of {found['positions']} positions; {1000 * found['seconds']:.0f} ms."
    ]
    out += [
        f"{m['text']!r:>20}  {m['baseline']:.4f} -> {m['steered']:.4f}  ({m['change']:+.4f})"
        for m in found["movers"]
    ]
    return out


def dose_lines(found: Mapping[str, Any]) -> list[str]:
    """The curve for a terminal."""
    out = ["strength        KL   reverse   perplexity    target   |Δ|/|x|"]
    for p in found["points"]:
        target, ratio = p["target_probability"], p["ratio"]
        out.append(
            f"{p['strength']:8.4g} {p['kl']:9.4g} {p['reverse']:9.4g} "
            f"{p['perplexity'] or float('nan'):12.4g} "
            f"{'—' if target is None else format(target, '.4g'):>9} "
            f"{'—' if ratio is None else format(ratio, '.3f'):>9}"
        )
    if "factor" in found:
        if found["factor"] is None:
            out.append(found["problem"])
        else:
            out.append(
                f"A KL of {found['target_kl']:g} needs {found['factor']:.4g} times the strength; "
                f"a pass of its own measures {found['kl_measured']:.4g} "
                f"({found['error']:+.1%}). {found['problem']}".rstrip()
            )
    return out
