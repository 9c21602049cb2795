"""Forward passes with a key-value cache, with or without a steering hook in place."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch

from mistudio.core.errors import OutOfMemory, StudioError
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.positions import allowed

PREFILL = 256  # prompt tokens per pass, so that a stop acts soon
FORCED = 64  # tokens per pass when all logits are wanted


class Stepper:
    """Feeds rows of equal length to a model, token by token or in chunks.

    Counts the tokens consumed, so positions are absolute whatever the size of a pass.
    `steered_B` marks the rows that the hook may edit.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        hook: SteeringHook | None,
        steered_B: torch.Tensor,
        prompt_length: int,
        rule: str,
        special: frozenset[int],
    ) -> None:
        self._loaded = loaded
        self._hook = hook
        self.steered_B = steered_B.to(loaded.device)
        self._prompt_length = prompt_length
        self._rule = rule
        self._special = special
        self._cache: Any = None
        parameters = inspect.signature(loaded.model.forward).parameters
        self._last_only = "logits_to_keep" in parameters
        # transformers 5.24 renamed the argument and the field of the output
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self.consumed = 0

    @torch.inference_mode()
    def __call__(self, ids_BS: torch.Tensor, *, all_logits: bool = False) -> torch.Tensor:
        """Logits of the last token [B, V], or of all [B, S, V]; fp32.

        Raises `StudioError` if the hook did not fire or the logits are no numbers any more.
        """
        ids_BS = ids_BS.to(self._loaded.device)
        if self._hook is not None:
            may_BS = allowed(ids_BS, self.consumed, self._prompt_length, self._rule, self._special)
            self._hook.expect(may_BS & self.steered_B[:, None])
        self.consumed += ids_BS.shape[1]
        extra: dict[str, Any] = {self._cache_name: self._cache}
        if self._last_only and not all_logits:
            extra["logits_to_keep"] = 1
        mask_BS = torch.ones(len(ids_BS), self.consumed, dtype=torch.long, device=ids_BS.device)
        try:
            output = self._loaded.model(
                input_ids=ids_BS,
                attention_mask=mask_BS,
                use_cache=True,
                **extra,
            )
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemory(
                "The texts do not fit into memory; ask for fewer tokens or free memory.",
                details=str(error),
            ) from error
        if self._hook is not None:
            self._hook.confirm()
        self._cache = output[self._cache_name]
        logits = output.logits if all_logits else output.logits[:, -1]
        if not torch.isfinite(logits).all():
            raise StudioError(
                "The model's output is no number any more; use a smaller strength.",
                code="not_finite",
            )
        return logits.float()

    def chunks(self, ids_BS: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
        """Column blocks of at most `size` tokens."""
        yield from ids_BS.split(size, dim=1)
