"""Feeds rows of several variants to a steered model, with a key-value cache."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from mistudio.core.errors import InvalidInput, OutOfMemory, StudioError
from mistudio.ml.steering.hook import Pass
from mistudio.ml.steering.operators import BASELINE
from mistudio.ml.steering.positions import Allowed, ranges_of
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sources import Place
from mistudio.ml.steering.steered_model import SteeredModel


class FedRow(NamedTuple):
    """One row of a batch: a prompt, continued as one of the variants."""

    prompt: Prompt
    variant: str = BASELINE


class Trace(NamedTuple):
    """What was done to the tokens of one row, from its first token on (T of them).

    `acted_T`: changed at any place; `ratios` by place: |Δ| / |x| of every token, 0 where nothing
    was changed there.
    """

    acted_T: torch.Tensor
    ratios: dict[Place, torch.Tensor]

    @property
    def acted(self) -> int:
        """How many tokens were changed."""
        return int(self.acted_T.sum())

    @property
    def acted_at(self) -> list[int]:
        """The positions of the tokens that were changed."""
        return [place for place, acted in enumerate(self.acted_T.tolist()) if acted]

    @property
    def positions(self) -> int:
        """How many tokens were read."""
        return len(self.acted_T)

    def ratio(self, place: Place) -> tuple[float, float] | None:
        """Mean and largest |Δ| / |x| over the tokens changed at a place; None if there is none."""
        changed = self.ratios[place][self.ratios[place] != 0]
        return (float(changed.mean()), float(changed.max())) if len(changed) else None


class Stepper:
    """Feeds B rows to a `SteeredModel`, a prompt in chunks, then token by token or many at once.

    Each row has a prompt and a variant of its own; prompts of unlike length are padded on the
    left. Positions are absolute: they count the tokens a row has consumed, padding left out, so
    neither the size of a pass nor the other rows matter. With `cached` False, or where the
    model has no sound cache, everything is read again in every pass.

    The first call of a teacher-forced reading or of generation is `prompt()`; then call the
    object with [B, S] ids. `ended_B` may be set by the caller: such rows are fed on, but neither
    steered nor counted. `aborted_B` tells on which rows an abort condition has held.
    """

    def __init__(self, model: SteeredModel, rows: Sequence[FedRow], *, cached: bool = True) -> None:
        loaded, device = model.loaded, model.loaded.device
        self.model, self.rows = model, list(rows)
        specs = [model.spec(row.variant) for row in rows]
        # a variant without edits has nothing to place, so that its rule cannot fail either
        ranges = [
            () if spec.is_empty else ranges_of(spec.positions, row.prompt)
            for spec, row in zip(specs, rows, strict=True)
        ]
        self._allowed = Allowed(ranges, [s.positions.special for s in specs], model.special, device)
        self._sinks_B = torch.tensor([s.positions.sinks for s in specs], device=device)
        self._variant_B = torch.tensor([model.index(r.variant) for r in rows], device=device)
        longest = max(len(row.prompt.ids) for row in rows)
        pads = [longest - len(row.prompt.ids) for row in rows]
        self._pad_B = torch.tensor(pads, device=device)
        self._is_padded = any(pads)
        pad = _pad_id(loaded.tokenizer)
        self._prompt_BS = torch.tensor(
            [[pad] * n + list(row.prompt.ids) for n, row in zip(pads, rows, strict=True)],
            device=device,
        )
        parameters = inspect.signature(loaded.model.forward).parameters
        self._last_only = "logits_to_keep" in parameters
        self._takes_positions = "position_ids" in parameters
        # transformers 5.24 renamed the argument and the field of the output
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._cache: Any = None
        self._is_cached = cached and model.cached
        self._ids: list[torch.Tensor] = []  # read again in every pass without a cache
        self._may: list[torch.Tensor] = []
        self._real: list[torch.Tensor] = []
        self._acted: dict[Place, list[torch.Tensor]] = {place: [] for place in model.places}
        self.consumed = 0  # columns, padding included
        self.ended_B = torch.zeros(len(self.rows), dtype=torch.bool, device=device)
        self.aborted_B = self.ended_B.clone()

    @property
    def has_read_prompt(self) -> bool:
        """Whether the whole prompt was fed."""
        return self.consumed >= self._prompt_BS.shape[1]

    def prompt_chunks(self, size: int) -> Iterator[torch.Tensor]:
        """Feed the prompts, `size` tokens of each row at a time; yields the logits [B, V] of the
        last token of each pass. Those of the last pass predict the first new token."""
        if not self._is_cached:  # parts would be read again and again
            size = self._prompt_BS.shape[1]
        for chunk_BS in self._prompt_BS.split(size, dim=1):
            yield self(chunk_BS)

    def prompt(self) -> torch.Tensor:
        """Feed the prompts in one pass; logits [B, V] that predict the first new token."""
        return self(self._prompt_BS)

    @torch.inference_mode()
    def __call__(
        self,
        ids_BS: torch.Tensor,
        *,
        all_logits: bool = False,
        real_BS: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Feed further tokens; logits of the last one [B, V], or of all [B, S, V], fp32.

        Tokens not marked in `real_BS` fill a row up on its right: they are not steered, not
        counted, and their logits mean nothing. Raises `StudioError` if a hook did not fire as
        often as it must, or the logits are no numbers any more, and `OutOfMemory`.
        """
        device = self.model.loaded.device
        ids_BS = ids_BS.to(device)
        columns_S = torch.arange(self.consumed, self.consumed + ids_BS.shape[1], device=device)
        position_BS = columns_S[None] - self._pad_B[:, None]
        counts_BS = (position_BS >= 0) & ~self.ended_B[:, None]
        if real_BS is not None:
            counts_BS &= real_BS.to(device)
        may_BS = self._allowed(ids_BS, position_BS) & counts_BS
        self.consumed += ids_BS.shape[1]
        new = ids_BS.shape[1]
        self._real.append(counts_BS)
        if self._cache is None:  # the first pass, which shows whether there is a cache, or none
            self._ids.append(ids_BS)
            self._may.append(may_BS)
            ids_BS, may_BS = torch.cat(self._ids, 1), torch.cat(self._may, 1)
        announced = Pass(may_BS, self._variant_B, self._sinks_B)
        self.model.expect(announced)
        output = self._forward(ids_BS, new, all_logits)
        ends_BS = self.model.confirm(announced)
        self.aborted_B |= ends_BS[:, -new:].any(1)
        for hook in self.model.hooks:
            if hook.ratio_BS is not None:
                self._acted[hook.site.place].append(hook.ratio_BS[:, -new:])
        logits = output.logits[:, -new:] if all_logits else output.logits[:, -1]
        wanted = logits[counts_BS] if all_logits else logits
        if not torch.isfinite(wanted).all():
            raise StudioError(
                "The model's output is no number any more; use a smaller strength.",
                code="not_finite",
            )
        return logits.float()

    def _forward(self, ids_BS: torch.Tensor, new: int, all_logits: bool) -> Any:
        """One pass of the model over new tokens, or over all of them without a cache."""
        loaded, device = self.model.loaded, ids_BS.device
        columns_C = torch.arange(self.consumed, device=device)
        mask_BC = (columns_C[None] >= self._pad_B[:, None]).long()
        extra: dict[str, Any] = {self._cache_name: self._cache}
        if self._is_padded:
            first = self.consumed - ids_BS.shape[1]
            if self._takes_positions:
                place_BS = columns_C[None, first:] - self._pad_B[:, None]
                extra["position_ids"] = place_BS.clamp_min(0)
        if self._last_only:
            extra["logits_to_keep"] = new if all_logits else 1
        try:
            output = loaded.model(
                input_ids=ids_BS, attention_mask=mask_BC, use_cache=self._is_cached, **extra
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(
                "The texts do not fit into memory; ask for fewer tokens or free memory.",
                details=str(error),
            ) from error
        if self._is_cached:
            self._cache = output.get(self._cache_name)
            self._is_cached = self._cache is not None
        return output

    def spread(self, places: Sequence[int], rows: Sequence[FedRow]) -> Stepper:
        """A stepper for R rows whose prompts were read already: row r goes on from row places[r].

        Several samples of one variant so share one reading of the prompt. `rows` must have the
        prompts and variants of the rows they go on from. This stepper is used up.
        """
        if any(self.rows[p] != row for p, row in zip(places, rows, strict=True)):
            raise InvalidInput("A row can only go on from a row with its prompt and variant.")
        index_R = torch.tensor(list(places), device=self.model.loaded.device)
        other = Stepper(self.model, rows, cached=self._is_cached)
        other.consumed = self.consumed
        other._pad_B, other._is_padded = self._pad_B[index_R], self._is_padded
        if self._cache is not None:
            self._cache.reorder_cache(index_R)
        other._cache, self._cache = self._cache, None
        for mine, theirs in ((self._ids, other._ids), (self._may, other._may)):
            theirs.extend(part[index_R] for part in mine)
        other._real = [part[index_R] for part in self._real]
        for place, parts in self._acted.items():
            other._acted[place] = [part[index_R] for part in parts]
        other.ended_B, other.aborted_B = self.ended_B[index_R], self.aborted_B[index_R]
        return other

    def traces(self) -> list[Trace]:
        """What was done to each row so far."""
        if not self._real:
            empty = torch.zeros(0)
            none = {place: empty for place in self._acted}
            return [Trace(empty.bool(), none) for _ in self.rows]
        real_BC = torch.cat(self._real, 1).cpu()
        whole = {place: torch.cat(parts, 1).cpu() for place, parts in self._acted.items() if parts}
        found: list[Trace] = []
        for row in range(len(self.rows)):
            ratios = {place: ratio_BC[row][real_BC[row]] for place, ratio_BC in whole.items()}
            acted_T = torch.zeros(int(real_BC[row].sum()), dtype=torch.bool)
            for ratio_T in ratios.values():
                acted_T |= ratio_T != 0
            found.append(Trace(acted_T, ratios))
        return found


def _pad_id(tokenizer: Any) -> int:
    """An id to fill rows up with; masked everywhere, so that any will do."""
    for name in ("pad_token_id", "eos_token_id", "bos_token_id"):
        known = getattr(tokenizer, name, None)
        if isinstance(known, int):
            return known
    return 0
