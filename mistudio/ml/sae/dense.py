"""One training step of the architectures whose sparsity comes from a penalty, written by hand.

While many latents are active the products of a dense step are formed (dense_tiles); once few are,
only the encoder's product is, and the rest is summed over the active latents (dense_active). Where
few fire but many are taught near their thresholds, both ways are mixed (dense_band).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch

from mistudio.ml.sae.dense_active import active_step
from mistudio.ml.sae.dense_band import band_step
from mistudio.ml.sae.dense_parts import ActiveGradient, StepSums, TileGradient, ghost_of
from mistudio.ml.sae.dense_tiles import tiled_step
from mistudio.ml.sae.selection import SparseCodes
from mistudio.ml.sae.sparse_gradient import ByLatent
from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae

SPARSE_BELOW = {"cpu": 0.1}
"""Share of entries that a step touches below which it is summed entry by entry (measured)."""
SPARSE_BELOW_ELSEWHERE = 0.02
FEW_BELOW = {"cpu": 0.05}
"""Share of entries that fire below which decoding is summed latent by latent (measured)."""
SAMPLE_ROWS = 32


class DenseSae(TrainableSae):
    """Latents are dense when training starts; the penalty's weight decides how many are active."""

    uses_k: ClassVar[bool] = False
    paths: ClassVar[int] = 1
    """how many reconstructions the loss compares with y"""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._buffers: dict[str, torch.Tensor] = {}
        self._norm_F: torch.Tensor | None = None  # lengths of free decoder rows
        self._along_F: torch.Tensor | None = None  # the ghost's gradient of these

    def project(self) -> None:
        """Bring parameters back to where they may be, on the data, before the forward pass."""

    @property
    def needs_l0(self) -> bool:
        """Whether the penalty depends on how many latents of a token are active."""
        return False

    @abstractmethod
    def clear(self) -> None:
        """Set the gradients of the architecture's own vectors to zero."""

    @abstractmethod
    def forward_tile(
        self, pre_CT: torch.Tensor, at: slice, penalty: Penalty
    ) -> tuple[torch.Tensor, ...]:
        """The latents `at` of some rows from x_c W_enc, for each of the paths, f first.

        `pre_CT` is kept for the backward pass and may be changed; the result may be overwritten
        after it was used.
        """

    @abstractmethod
    def backward_tile(
        self,
        kept_CT: torch.Tensor,
        grads: list[torch.Tensor],
        at: slice,
        unit: float,
        penalty: Penalty,
        l0_C1: torch.Tensor | None,
    ) -> TileGradient:
        """From what `forward_tile` left and the gradient of each path's latents [C, T], which may
        be changed; `unit` is 1/(N·V). Adds to the gradients of the architecture's own vectors."""

    @abstractmethod
    def reach(self) -> tuple[torch.Tensor, float]:
        """What to add to x_c W_enc [F], and the bound above which an entry takes part in a step.

        Their sum is how far a latent is above the point where it fires.
        """

    @abstractmethod
    def touched(
        self,
        codes: SparseCodes,
        by_latent: ByLatent,
        wanted_BO: torch.Tensor,
        unit: float,
        penalty: Penalty,
    ) -> ActiveGradient:
        """Forward and backward of the entries that `reach` finds; `codes` holds x_c W_enc plus
        what `reach` adds, `by_latent` the same sorted."""

    @abstractmethod
    def take_ghost(self, pull_N: torch.Tensor, at: torch.Tensor) -> None:
        """Add Σ over the tokens of the ghost's gradient with respect to what latents `at` lack to
        fire, [N], to the gradients of the architecture's own vectors."""

    def ghost(
        self, below_CT: torch.Tensor, unit: float, penalty: Penalty, at: slice | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """ΣG of some rows and the latents `at`, none of them twice, which lack `below_CT` to fire;
        and its weighted gradient with respect to that. Keeps that of free row lengths."""
        part = ghost_of(below_CT, unit, penalty, at, self._norm_F)
        if part.along_T is not None:
            assert self._along_F is not None
            self._along_F[at] += part.along_T
        return part.total, part.pull_CT

    def add_norm_gradient(self, grad_dec_FO: torch.Tensor, weight: float) -> None:
        """Add the gradient of what the penalties make of free row lengths; here nothing.

        Comes after the ghost's part; `weight` is that of P.
        """

    @torch.no_grad()
    def gradients(
        self,
        x_BD: torch.Tensor,
        variance: float,
        extra: Auxiliary | Penalty | None = None,
        target_BO: torch.Tensor | None = None,
    ) -> StepResult:
        """As in `TrainableSae`; `extra` is the penalty, None for none at all."""
        penalty = extra if isinstance(extra, Penalty) else Penalty(0.0)
        self._begin_step()
        self.project()
        self.clear()
        tokens, unit = x_BD.shape[0], 1 / ((self.whole_rows or x_BD.shape[0]) * variance)
        x_BD, wanted_BO, target_BO = self._ends(x_BD, target_BO)
        part = self.step_for(x_BD)(self, x_BD, wanted_BO, unit, penalty)
        grad_b_dec_O = part.grad_out_O
        if not self.is_transcoder:
            grad_b_dec_O = grad_b_dec_O - part.pre_sum_F @ self.parameters["W_enc_FD"]
        self.parameters["b_dec_O"].grad = grad_b_dec_O
        if part.grad_skip_OD is not None:
            self.parameters["W_skip_OD"].grad = part.grad_skip_OD
        return StepResult(
            reconstruction=part.reconstruction * unit,
            auxiliary=torch.zeros_like(part.ghost),
            sparsity=part.sparsity * (penalty.weight * unit),
            ghost=part.ghost * (penalty.ghost * unit),
            squared_error=part.squared_error,
            squared_deviation=(target_BO - target_BO.mean(0)).square().sum(),
            active=int(part.counts_F.sum()),
            smallest_kept=0.0,
            counts_F=part.counts_F,
            last_row_F=part.last_row_F.clamp(0, tokens - 1),
        )

    def step_for(self, x_BD: torch.Tensor) -> Callable[..., StepSums]:
        """How a step is made: by the share of entries of a batch that take part in it, and of those
        that fire, in a sample of its rows.

        Depends on batch and parameters alone, so that a resumed run decides alike.
        """
        sample_CD = x_BD[:: -(-x_BD.shape[0] // SAMPLE_ROWS)]
        shift_F, bound = self.reach()
        over_CF = torch.mm(sample_CD, self.parameters["W_enc_FD"].T).add_(shift_F)
        device, entries = x_BD.device.type, over_CF.numel()
        if int((over_CF > bound).sum()) < entries * SPARSE_BELOW.get(
            device, SPARSE_BELOW_ELSEWHERE
        ):
            return active_step
        if self.paths == 1 and int((over_CF > 0).sum()) < entries * FEW_BELOW.get(device, 0.0):
            return band_step
        return tiled_step

    def buffer(
        self,
        name: str,
        shape: Sequence[int],
        like: torch.Tensor,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """A tensor that the next call with this name overwrites: fresh pages cost more than what
        is done with them. A name has one dtype, that of `like` if none is given."""
        found, size = self._buffers.get(name), math.prod(shape)
        if found is None or found.numel() < size or found.device != like.device:
            found = torch.empty(size, dtype=dtype or like.dtype, device=like.device)
            self._buffers[name] = found
        return found[:size].view(*shape)

    def gradient(self, name: str) -> torch.Tensor:
        """`grad` of one of the architecture's own vectors."""
        grad = self.parameters[name].grad
        assert grad is not None
        return grad

    def weight_gradients(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`grad` of W_enc_FD and W_dec_FO, to be filled."""
        return self._gradient_buffers()

    def rows_of_chunk(self) -> int:
        """Rows whose pre-activations are held at a time."""
        return self._chunk_rows()

    def _zero(self, *names: str) -> None:
        for name in names:
            self.parameters[name].grad = torch.zeros_like(self.parameters[name])
