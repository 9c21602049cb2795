"""Runs the blocks behind a hook again, from what one clean pass gave there.

A change at a hook leaves everything before it as it was, so a clean pass is kept and only the rest
is repeated: the model's own code with the earlier blocks handing on what they gave, and, where the
model's key-value cache can be cut, only from the first changed token on. Neither pass gives logits:
`Rerun.logits` makes them of chosen positions. That this gives what a whole pass gives is checked
for each model before it is used.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import OutOfMemory, Unsupported, means_out_of_memory
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.architecture import text_config
from mistudio.ml.evaluation.language_model_loss import changed
from mistudio.ml.features.handing_on import HandingOn
from mistudio.ml.hooks import first_input, listen
from mistudio.ml.loading import LoadedModel

log = logging.getLogger(__name__)

_PROBE_TOKENS = 8
_TOLERANCE = {torch.float32: 1e-4}  # of the largest logit; half precision rounds per shape
_HALF_TOLERANCE = 0.05


class Clean(NamedTuple):
    """One untouched pass over token ids [B, S].

    x is what the SAE reads and y what it gives (the same tensor unless it is a transcoder);
    `stream_BSD` is what enters the first block that runs again; `end_BSE` is what `Rerun.logits`
    takes; `cache` is the model's, or None.
    """

    ids_BS: torch.Tensor
    x_BSD: torch.Tensor
    y_BSO: torch.Tensor
    stream_BSD: torch.Tensor
    end_BSE: torch.Tensor
    cache: Any


class Rerun:
    """Clean passes of a model and their repetition with a change at one hook."""

    def __init__(
        self,
        loaded: LoadedModel,
        layer: int,
        hook_in: str,
        hook_out: str | None = None,
        *,
        most_tokens: int = 64,
    ) -> None:
        """Finds the places and probes both passes on a few tokens.

        Rows will have at most `most_tokens`. Raises as `PairCapture`, and `Unsupported` with the
        reason if a change at this hook cannot be carried on by the blocks behind it alone.
        """
        written = hook_out or hook_in
        if written not in SAE_HOOKS:
            raise Unsupported(
                f"A feature that writes to {written} cannot be ablated: only what leads to "
                f"the stream can be changed, at {', '.join(SAE_HOOKS)}.",
                code="hook_rerun",
            )
        self.loaded = loaded
        self.capture = PairCapture(loaded, layer, hook_in, written)
        self._within = written in ("resid_pre", "attn_out", "attn_z", "resid_mid")
        self._first = layer if self._within else layer + 1
        self._longest = most_tokens
        parameters = inspect.signature(loaded.model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self.resumes = False
        """whether a repetition may begin behind the first token"""
        self.ends_early = False
        """whether passes end before the output matrix; else they give what are logits already"""
        self._probe(most_tokens)

    @torch.inference_mode()
    def clean(self, ids_BS: torch.Tensor) -> Clean:
        """An untouched pass over ids [B, S]; rows may be padded at their end."""
        ids_BS = ids_BS.to(self.loaded.device)
        found: dict[str, torch.Tensor] = {}

        def keep(name: str) -> Any:
            # the model may change its own tensor before the pass ends
            return lambda x: found.__setitem__(name, x.clone().view(*ids_BS.shape, -1))

        blocks = self.loaded.blocks.modules
        handles = [listen(self.capture.read, keep("x"))]
        if self.capture.is_pair:
            handles.append(listen(self.capture.written, keep("y")))
        handles.append(self._listen_stream(blocks, keep("stream")))
        try:
            output, end_BSE = self._to_end(ids_BS, use_cache=self.resumes)
        finally:
            for handle in handles:
                handle.remove()
        cache = output[self._cache_name] if self.resumes else None
        x_BSD = found["x"]
        return Clean(ids_BS, x_BSD, found.get("y", x_BSD), found["stream"], end_BSE, cache)

    @torch.inference_mode()
    def again(
        self,
        clean: Clean,
        rows_R: torch.Tensor,
        delta_RSO: torch.Tensor | None,
        start: int = 0,
    ) -> torch.Tensor:
        """The end [R, S - start, E] of rows of a clean pass with a change added at the hook.

        `delta_RSO` covers whole rows; where it is zero before `start`, and the model can resume,
        the positions before it are not computed. None adds nothing, for callers whose own hook on
        the block makes the change.
        """
        start = start if self.resumes else 0
        rows_R = rows_R.to(self.loaded.device)
        ids_RS = clean.ids_BS[rows_R, start:]
        if delta_RSO is None:
            delta_RSO = torch.zeros(1, 1, 1, device=ids_RS.device)
        else:
            delta_RSO = delta_RSO[:, start:]
        stream_RSD = clean.stream_BSD[rows_R, start:]
        if not self._within:
            stream_RSD = _added(stream_RSD, delta_RSO)
        extra: dict[str, Any] = {"use_cache": False}
        if start:
            mask_RS = torch.ones(
                len(rows_R), clean.ids_BS.shape[1], dtype=torch.long, device=ids_RS.device
            )
            prefix = _prefix(clean.cache, rows_R, start, clean.ids_BS.shape[1])
            extra = {"use_cache": True, "attention_mask": mask_RS, self._cache_name: prefix}
        with (
            self._hands.stream(stream_RSD, self._first),
            self._changing(delta_RSO, ids_RS.shape),
        ):
            return self._to_end(ids_RS, **extra)[1]

    @torch.inference_mode()
    def logits(self, end_TE: torch.Tensor) -> torch.Tensor:
        """Logits [T, V] at positions whose end a clean or repeated pass gave."""
        if not self.ends_early or not len(end_TE):
            return end_TE
        return self._hands.logits(end_TE, self._longest)

    def _to_end(self, ids_BS: torch.Tensor, **extra: Any) -> tuple[Any, torch.Tensor]:
        """A pass: its output, and what `logits` takes [B, S, E]."""
        if not self.ends_early:
            output = self._run(input_ids=ids_BS, **extra)
            return output, output.logits
        with self._hands.to_the_end(ids_BS.shape) as found:
            output = self._run(input_ids=ids_BS, **extra)
        return output, found[-1]

    def _run(self, **values: Any) -> Any:
        try:
            return self.loaded.model(**values)
        except (RuntimeError, MemoryError) as error:
            if not means_out_of_memory(error):
                raise
            raise OutOfMemory(
                "The windows do not fit into memory; use fewer or shorter ones or free memory.",
                details=str(error),
            ) from error

    def _listen_stream(self, blocks: list[nn.Module], keep: Any) -> Any:
        """What enters block `first`; behind the last block, what that one gives."""
        if self._first < len(blocks):

            def before(_module: nn.Module, inputs: Any, named: Any) -> None:
                keep(first_input(inputs, named))

            return blocks[self._first].register_forward_pre_hook(before, with_kwargs=True)

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            keep(output[0] if isinstance(output, (tuple, list)) else output)

        return blocks[-1].register_forward_hook(after)

    @contextmanager
    def _changing(self, delta_RSO: torch.Tensor, shape: torch.Size) -> Iterator[None]:
        if not self._within:
            yield
            return
        with changed(self.capture.written, lambda y_RSO: _added(y_RSO, delta_RSO), shape):
            yield

    @torch.inference_mode()
    def _probe(self, most_tokens: int) -> None:
        """Check repetitions and what ends early against whole passes."""
        self._hands = HandingOn(self.loaded, self._run)
        limit = self.loaded.facts.vocab_size
        ids_BS = (torch.arange(2 * _PROBE_TOKENS).view(2, -1) + 2) % limit
        clean = self.clean(ids_BS)
        rows_R = torch.arange(2)
        zero_RSO = torch.zeros_like(clean.y_BSO, dtype=torch.float32)
        same = self.again(clean, rows_R, zero_RSO)
        if not self._close(same, clean.end_BSE):
            raise Unsupported(
                "The blocks behind this hook do not give the model's own output when they run "
                "alone, so features of this model cannot be ablated here.",
                code="hook_rerun",
            )
        self.ends_early = self._can_end_early(clean)
        if not self._forgets(most_tokens):
            self.resumes = self._can_resume(ids_BS, rows_R, zero_RSO)

    def _forgets(self, tokens: int) -> bool:
        """Whether the cache of rows this long drops their beginning, so that it cannot be cut."""
        config = text_config(self.loaded.model)
        names = ("sliding_window", "attention_chunk_size")
        limits = [getattr(config, name, None) for name in names]
        return any(isinstance(limit, int) and limit <= tokens for limit in limits)

    def _can_end_early(self, clean: Clean) -> bool:
        """Whether logits made afterwards are those of a whole pass, as `clean` has them."""
        self.ends_early = True
        try:
            end_BSE = self.clean(clean.ids_BS).end_BSE
            made_TV = self.logits(end_BSE.flatten(0, 1))
        except OutOfMemory:
            raise
        except Exception:  # what lies behind the blocks may take no single positions
            log.info("%s: passes run to their logits", self.loaded.facts.name, exc_info=True)
            return False
        finally:
            self.ends_early = False
        return self._close(made_TV, clean.end_BSE.flatten(0, 1))

    def _can_resume(
        self, ids_BS: torch.Tensor, rows_R: torch.Tensor, delta_RSO: torch.Tensor
    ) -> bool:
        """Whether a changed pass that begins in the middle of a row gives what a whole one does."""
        start = _PROBE_TOKENS // 2
        self.resumes = True
        try:
            clean = self.clean(ids_BS)
            size = clean.y_BSO.float().norm(dim=-1).median()
            delta_RSO[:, start:] = size / delta_RSO.shape[-1] ** 0.5
            part = self.again(clean, rows_R, delta_RSO, start)
            self.resumes = False
            whole = self.again(clean, rows_R, delta_RSO)[:, start:]
        except OutOfMemory:
            raise
        except Exception:  # a cache of any kind may refuse to be cut
            log.info("%s: no repetition from within a row", self.loaded.facts.name, exc_info=True)
            return False
        finally:
            self.resumes = False
        if part.shape != whole.shape:
            return False
        part_TV, whole_TV = (self.logits(end.flatten(0, 1)) for end in (part, whole))
        return self._close(part_TV, whole_TV)

    def _close(self, got: torch.Tensor, wanted: torch.Tensor) -> bool:
        tolerance = _TOLERANCE.get(self.loaded.dtype, _HALF_TOLERANCE)
        if got.shape != wanted.shape:
            return False
        gap = (got.float() - wanted.float()).abs().max()
        return bool(gap <= tolerance * wanted.float().abs().max().clamp_min(1e-6))


def _added(x_RSD: torch.Tensor, delta_RSD: torch.Tensor) -> torch.Tensor:
    """x plus the change; x bit for bit where that is zero."""
    touched_RS1 = (delta_RSD != 0).any(-1, keepdim=True)
    return torch.where(touched_RS1, (x_RSD.float() + delta_RSD).to(x_RSD.dtype), x_RSD)


def _prefix(cache: Any, rows_R: torch.Tensor, start: int, length: int) -> Any:
    """A copy of a cache of `length` tokens that holds these rows up to `start`."""
    found = copy.deepcopy(cache)
    found.batch_select_indices(rows_R)
    found.crop(start - length)  # counted from the end, as every version of the library takes it
    return found
