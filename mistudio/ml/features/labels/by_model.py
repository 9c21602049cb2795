"""Names a feature with a language model, and scores a name on texts that it was not made from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mistudio.core import lens_figures
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.labels import prompts
from mistudio.ml.features.labels.auroc import LEAST_POSITIVES, auroc
from mistudio.ml.features.labels.windows import Windows, choose_windows, wrongly_marked
from mistudio.ml.features.labels.writer import Check, Writer

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
HALF = 0.5  # above it a text is said to fit


class Asked(NamedTuple):
    """Which scores to measure."""

    detection: bool = True
    fuzzing: bool = False
    embedding: bool = True


class Named(NamedTuple):
    """A name with the prompt it came from and what it scored. `score` is the AUROC of detection, or
    of fuzzing where there is no detection; None with too few texts."""

    text: str
    prompt: dict[str, str]
    score: float | None
    n: int
    scores: dict[str, Any]


def name_feature(
    store: FeatureStore,
    feature: int,
    writer: Writer,
    asked: Asked,
    embed: Embed | None,
    *,
    seed: int,
    check: Check,
) -> Named | None:
    """Name and score one feature; None for one that does not fire."""
    windows = choose_windows(store, feature, seed)
    if not windows.to_name:
        return None
    lens = store.lens(feature)
    promoted = [token.text for token in lens.positive[: lens_figures.FEW]] if lens else []
    suppressed = [token.text for token in lens.negative[: lens_figures.FEW]] if lens else []
    prompt = prompts.name_prompt(windows, promoted, suppressed)
    peaks = prompts.peak_tokens(windows.to_name)
    fallback = f'token: "{peaks[0]}"' if peaks else "nothing to name"
    text = prompts.name_of(writer.answer(prompt, check), fallback)
    return score_name(text, prompt._asdict(), windows, writer, asked, embed, seed=seed, check=check)


def score_name(
    text: str,
    prompt: dict[str, str],
    windows: Windows,
    writer: Writer,
    asked: Asked,
    embed: Embed | None,
    *,
    seed: int,
    check: Check,
) -> Named:
    """The scores of a name on the held-out windows."""
    active, inactive = windows.active, windows.inactive
    scores: dict[str, Any] = {}
    if len(active) < LEAST_POSITIVES or not inactive:
        return Named(text, prompt, None, len(active) + len(inactive), {"texts": len(active)})
    if asked.detection:
        asks = [prompts.detection_prompt(text, one.text) for one in (*active, *inactive)]
        scores["detection"] = _outcome(writer.fits(asks, check), len(active), judges=True)
    if asked.fuzzing:
        marked = [one.marked(windows.least) for one in active]
        marked += wrongly_marked(inactive, active, windows.least, seed)
        asks = [prompts.fuzzing_prompt(text, one) for one in marked]
        scores["fuzzing"] = _outcome(writer.fits(asks, check), len(active), judges=True)
    if asked.embedding and embed is not None:
        check()
        vectors = embed([text, *(one.text for one in (*active, *inactive))])
        scores["embedding"] = _outcome((vectors[1:] @ vectors[0]).tolist(), len(active))
    best = scores.get("detection") or scores.get("fuzzing")
    n = len(active) + len(inactive) if best else 0
    return Named(text, prompt, best["auroc"] if best else None, n, scores)


def _outcome(values: Sequence[float], active: int, *, judges: bool = False) -> dict[str, Any]:
    """AUROC, and for a judge the balanced accuracy (TPR + TNR) / 2, of values on active texts and,
    behind them, on inactive ones."""
    positive = np.asarray(values[:active], np.float64)
    negative = np.asarray(values[active:], np.float64)
    found: dict[str, Any] = {
        "auroc": round(float(auroc(positive[None], negative[None])[0]), 5),
        "positives": positive.size,
        "negatives": negative.size,
    }
    if judges:
        rates = float((positive > HALF).mean()), float((negative <= HALF).mean())
        found["balanced_accuracy"] = round(sum(rates) / 2, 5)
    return found
