"""Generates all variants of a run in one batch: the unsteered baseline and any number of others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.events import Reporter
from mistudio.core.steering_spec import Spec
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.forward import Trace
from mistudio.ml.steering.generate import Continuation, Generated, Row, generate, rows_of
from mistudio.ml.steering.prompts import Prompt, read_prompt
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.sources import Library
from mistudio.ml.steering.steered_model import SteeredModel

UPDATES_PER_SECOND = 30


@dataclass(frozen=True)
class GenerationRequest:
    """What is generated: prompts, how many samples of each, and how tokens are drawn.

    `chat` puts each prompt into the model's chat template as the user's turn.
    """

    prompts: tuple[str, ...]
    max_tokens: int = 100
    samples: int = 1
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    chat: bool = False
    stop: tuple[str, ...] = ()
    time_limit: float = float("inf")  # seconds


class Text(NamedTuple):
    """One text that was written: its row, why it ended (as in `Generated`), and what was done."""

    row: Row
    ids: list[int]
    text: str
    reason: str
    trace: Trace


@dataclass(frozen=True)
class Comparison:
    """All texts of a run. `values` are the edits' values per variant with their units resolved."""

    prompts: tuple[Prompt, ...]
    variants: dict[str, Spec]  # the baseline, an empty one, comes first
    values: dict[str, list[float]]
    texts: tuple[Text, ...]

    def samples(self, variant: str, prompt: int = 0) -> list[Text]:
        """The texts of a variant in the order of samples; at temperature 0 the greedy one."""
        found = [t for t in self.texts if t.row.variant == variant and t.row.prompt == prompt]
        return [t for t in found if not t.row.greedy] or found

    def greedy(self, variant: str, prompt: int = 0) -> Text:
        """The greedy twin of a variant."""
        return next(
            t
            for t in self.texts
            if t.row.greedy and t.row.variant == variant and t.row.prompt == prompt
        )


def compare_variants(
    loaded: LoadedModel,
    specs: Mapping[str, Spec],
    request: GenerationRequest,
    library: Library,
    report: Reporter,
    control: JobControl,
) -> Comparison:
    """Generate the baseline and every named specification for every prompt, in one batch.

    Samples share their noise across variants, so that texts part only where predictions do; each
    variant has a greedy twin. Texts of the first prompt's first samples are streamed to
    `report.partial(variant, text)`. Raises as `SteeredModel`, `read_prompt` and `generate`.
    """
    with SteeredModel(loaded, specs, library) as model:
        continuation = continuation_of(model, request, report)
        return run_variants(model, continuation, report, control)


def continuation_of(
    model: SteeredModel, request: GenerationRequest, report: Reporter | None = None
) -> Continuation:
    """Prompts and rows of a request for all variants of a model.

    Raises `InvalidInput` for a prompt that is empty or too long. Fewer new tokens than asked for
    are noted with `report`.
    """
    loaded = model.loaded
    prompts = tuple(
        read_prompt(loaded.tokenizer, text, chat=request.chat) for text in request.prompts
    )
    if not prompts:
        raise InvalidInput("Write a prompt to continue.")
    return Continuation(
        prompts,
        rows_of(model.prepared.names, len(prompts), request.samples, request.sampling.temperature),
        _room(loaded, prompts, request.max_tokens, report),
        request.sampling,
        request.stop,
        request.time_limit,
    )


def run_variants(
    model: SteeredModel,
    continuation: Continuation,
    report: Reporter,
    control: JobControl,
    *,
    share: float = 1.0,
) -> Comparison:
    """Generate with a model that is entered already; `share` of the progress bar is used."""
    watch = _Watch(continuation, report, share)
    found = generate(model, continuation, control, on_token=watch)
    watch.finish(found)
    names, specs = model.prepared.names, model.prepared.specs
    texts = zip(continuation.rows, found.ids, found.texts, found.reasons, found.traces, strict=True)
    return Comparison(
        continuation.prompts,
        dict(zip(names, specs, strict=True)),
        model.prepared.values,
        tuple(Text(*entry) for entry in texts),
    )


def _room(
    loaded: LoadedModel, prompts: Sequence[Prompt], max_tokens: int, report: Reporter | None
) -> int:
    """The new tokens that fit behind the longest prompt."""
    limit = loaded.facts.max_positions
    longest = max(len(prompt.ids) for prompt in prompts)
    if not limit or longest + max_tokens <= limit:
        return max_tokens
    if longest >= limit:
        raise InvalidInput(
            f"The prompt has {longest:,} tokens; {loaded.facts.name} reads at most {limit:,}. "
            "Shorten it."
        )
    if report is not None:
        report.note(f"{loaded.facts.name} has room for {limit - longest:,} new tokens only.")
    return limit - longest


class _Watch:
    """Streams the first samples to the reporter, each at most so many times a second."""

    def __init__(self, continuation: Continuation, report: Reporter, share: float) -> None:
        rows = continuation.rows
        sampled = any(not row.greedy for row in rows)
        self._shown = {
            index: row.variant
            for index, row in enumerate(rows)
            if row.prompt == 0 and row.sample == 0 and row.greedy != sampled
        }
        self._report, self._share = report, share
        self._told = dict.fromkeys(self._shown, 0.0)
        self._tokens = [0] * len(rows)
        self._furthest = 0
        self._total = continuation.max_tokens

    def __call__(self, row: int, token: int, text: str) -> None:
        now = time.monotonic()
        self._tokens[row] += 1
        if self._tokens[row] > self._furthest:
            self._furthest = self._tokens[row]
            self._report.progress(self._share * self._furthest / self._total, "Generating")
        if row in self._shown and now - self._told[row] >= 1 / UPDATES_PER_SECOND:
            self._told[row] = now
            self._report.partial(self._shown[row], text)

    def finish(self, found: Generated) -> None:
        """Tell every shown text once more, whole."""
        for row, name in self._shown.items():
            self._report.partial(name, found.texts[row])
