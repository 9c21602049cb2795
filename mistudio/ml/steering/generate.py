"""Generates many rows in one batch: variants, prompts and samples, sampled and greedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mistudio.core.control import JobControl, Request
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.detokenize import TextStream
from mistudio.ml.steering.forward import FedRow, Stepper, Trace
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sampling import SamplingSettings, choose, gumbel_noise
from mistudio.ml.steering.steered_model import SteeredModel

END, LENGTH, TIME, STOPPED = "end", "length", "time", "stopped"
STOP_STRING, ABORTED = "stop_string", "aborted"
PREFILL = 256  # prompt tokens of a row per pass on a GPU, so that a stop acts soon
CPU_WORK = 2e10  # operations per pass of the prompt on a CPU, about a fifth of a second


class Row(NamedTuple):
    """One text of a batch: the prompt's number, the variant, which sample, and whether greedy."""

    prompt: int
    variant: str
    sample: int = 0
    greedy: bool = False


@dataclass(frozen=True)
class Continuation:
    """Prompts and how they are continued. `stop` ends a text where one of its strings appears."""

    prompts: tuple[Prompt, ...]
    rows: tuple[Row, ...]
    max_tokens: int
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: tuple[str, ...] = ()
    time_limit: float = float("inf")  # seconds
    cached: bool = True


@dataclass
class Generated:
    """What came out; lists have one entry per row.

    `texts` end before a stop string, `ids` with the token that completed it. `reasons`: "end" (the
    model ended the text), "stop_string", "aborted" (the abort condition held), "length", "time",
    "stopped" (by the user). `traces` tell what was done to the tokens of each row.
    """

    ids: list[list[int]]
    texts: list[str]
    reasons: list[str]
    traces: list[Trace] = field(default_factory=list[Trace])


def end_ids(loaded: LoadedModel) -> frozenset[int]:
    """Ids that end a text: those of the tokenizer and of the model's generation settings."""
    named = getattr(getattr(loaded.model, "generation_config", None), "eos_token_id", None)
    listed = named if isinstance(named, (list, tuple)) else [named]
    return frozenset(int(i) for i in (*listed, loaded.tokenizer.eos_token_id) if i is not None)


def prompt_pass(loaded: LoadedModel, rows: int) -> int:
    """Prompt tokens of each row that go into one pass.

    Fixed by model and batch, never by the clock, so that a repetition rounds in the same way.
    """
    if loaded.device.type != "cpu":
        return PREFILL
    weights = sum(parameter.numel() for parameter in loaded.model.parameters())
    return max(8, min(PREFILL, int(CPU_WORK / (2 * max(1, weights) * rows))))


def generate(
    model: SteeredModel,
    request: Continuation,
    control: JobControl,
    *,
    on_token: Callable[[int, int, str], None] = lambda _row, _token, _text: None,
    on_logits: Callable[[torch.Tensor], None] = lambda _logits: None,
) -> Generated:
    """Continue the prompts in every row until all have ended.

    The model must be entered already. Rows that differ only in how tokens are drawn share one
    reading of the prompt. `on_token` hears of each new token (row, id, text so far), `on_logits`
    of each step's logits [B, V] before any sampling rule. A stop by the user or the time limit
    keeps what there is; a cancel raises `Cancelled`, and so does everything the `Stepper` raises.
    """
    work = _Work(model, request, on_token)
    began = time.monotonic()
    logits_BV = torch.zeros(0)
    passes = work.read_prompts()
    while not work.is_read:
        if (reason := _interrupted(control, began, request.time_limit)) is not None:
            return work.finish(reason)
        logits_BV = next(passes)
    logits_BV = work.spread(logits_BV)
    for step in range(request.max_tokens):
        if (reason := _interrupted(control, began, request.time_limit)) is not None:
            return work.finish(reason)
        on_logits(logits_BV)
        work.take(work.choose(logits_BV, step))
        if work.is_done or step + 1 == request.max_tokens:
            break
        logits_BV = work.feed()
    return work.finish(LENGTH)


def _interrupted(control: JobControl, began: float, limit: float) -> str | None:
    """Why generation must end now; waits while paused, raises `Cancelled`."""
    if control.requested() is Request.STOP:
        return STOPPED
    control.check()
    return TIME if time.monotonic() - began > limit else None


class _Work:
    """The rows of one run as they grow."""

    def __init__(
        self, model: SteeredModel, request: Continuation, on_token: Callable[[int, int, str], None]
    ) -> None:
        loaded = model.loaded
        self._model, self._request, self._on_token = model, request, on_token
        self._rows, self._device = request.rows, loaded.device
        self._fed = [FedRow(request.prompts[row.prompt], row.variant) for row in self._rows]
        self._shared = list(dict.fromkeys((row.prompt, row.variant) for row in self._rows))
        distinct = [FedRow(request.prompts[p], variant) for p, variant in self._shared]
        self._stepper = Stepper(model, distinct, cached=request.cached)
        self._is_spread = False
        self._greedy_B = torch.tensor([row.greedy for row in self._rows], device=self._device)
        self._ends = end_ids(loaded)
        prompts = [list(fed.prompt.ids) for fed in self._fed]
        self._seen = [torch.tensor(ids, device=self._device) for ids in prompts]
        self._new = [torch.zeros(0, dtype=torch.int64, device=self._device) for _ in self._rows]
        self._streams = [TextStream(loaded.tokenizer, ids) for ids in prompts]
        self._last_B = torch.zeros(len(self._rows), dtype=torch.int64, device=self._device)
        self.found = Generated([[] for _ in self._rows], [], [""] * len(self._rows))

    @property
    def is_done(self) -> bool:
        return all(self.found.reasons)

    @property
    def is_read(self) -> bool:
        """Whether all of the prompts was fed."""
        return self._stepper.has_read_prompt

    def read_prompts(self) -> Iterator[torch.Tensor]:
        """Logits after each pass of the prompts, one row for each prompt and variant."""
        size = prompt_pass(self._model.loaded, len(self._shared))
        return self._stepper.prompt_chunks(size)

    def spread(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Give every row its own copy of what was read."""
        places = [self._shared.index((row.prompt, row.variant)) for row in self._rows]
        if places != list(range(len(self._shared))):
            self._stepper = self._stepper.spread(places, self._fed)
        self._is_spread = True
        return logits_BV[torch.tensor(places, device=logits_BV.device)]

    def choose(self, logits_BV: torch.Tensor, step: int) -> torch.Tensor:
        """The next tokens [B]."""
        sampling = self._request.sampling
        noise_BV = None
        if sampling.temperature > 0 and not bool(self._greedy_B.all()):
            samples = sorted({row.sample for row in self._rows if not row.greedy})
            size = logits_BV.shape[1]
            of = {s: gumbel_noise(sampling.seed, step, size, s) for s in samples}
            # greedy rows take no notice of theirs
            noise_BV = torch.stack([of.get(row.sample, of[samples[0]]) for row in self._rows])
            noise_BV = noise_BV.to(self._device)
        return choose(logits_BV, self._seen, sampling, self._greedy_B, noise_BV, self._new)

    def take(self, next_B: torch.Tensor) -> None:
        """Append the tokens to the rows that go on."""
        aborted = self._stepper.aborted_B.tolist()
        for row, token in enumerate(next_B.tolist()):
            if self.found.reasons[row]:
                continue
            if aborted[row]:
                self._end(row, ABORTED)
            elif token in self._ends:
                self._end(row, END)
            else:
                self.found.ids[row].append(token)
                text = self._streams[row].add(token)
                self._on_token(row, token, text)
                if any(stop in text for stop in self._request.stop):
                    self._end(row, STOP_STRING)
        self._last_B = next_B
        penalised = self._request.sampling
        if penalised.repetition_penalty != 1.0:
            self._seen = _grown(self._seen, next_B)
        if penalised.presence_penalty or penalised.frequency_penalty:
            self._new = _grown(self._new, next_B)

    def feed(self) -> torch.Tensor:
        """Feed the tokens taken last; the logits behind them."""
        return self._stepper(self._last_B[:, None])

    def _end(self, row: int, reason: str) -> None:
        self.found.reasons[row] = reason
        self._stepper.ended_B[row] = True

    def finish(self, reason: str) -> Generated:
        """The result; rows that have not ended did so for this reason."""
        found = self.found
        found.reasons = [old or reason for old in found.reasons]
        for stream, why in zip(self._streams, found.reasons, strict=True):
            text = stream.finish()
            if why == STOP_STRING:
                text = text[: min(i for s in self._request.stop if (i := text.find(s)) >= 0)]
            found.texts.append(text)
        if self._is_spread:
            found.traces = self._stepper.traces()
        else:
            traces = dict(zip(self._shared, self._stepper.traces(), strict=True))
            found.traces = [traces[row.prompt, row.variant] for row in self._rows]
        return found


def _grown(rows: list[torch.Tensor], next_B: torch.Tensor) -> list[torch.Tensor]:
    return [torch.cat([ids, token[None]]) for ids, token in zip(rows, next_B, strict=True)]


def rows_of(
    variants: Sequence[str], prompts: int, samples: int, temperature: float
) -> tuple[Row, ...]:
    """Rows of every prompt and variant: the samples, and a greedy twin unless sampling is off."""
    found: list[Row] = []
    for prompt in range(prompts):
        for variant in variants:
            if temperature == 0:
                found.append(Row(prompt, variant, 0, True))
                continue
            found += [Row(prompt, variant, sample) for sample in range(samples)]
            found.append(Row(prompt, variant, 0, True))
    return tuple(found)
