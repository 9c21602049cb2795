"""One training step of the architectures whose sparsity comes from a penalty, written by hand.

Rows go through in chunks, so that pre-activations, latents and their gradients stay in the cache.
The five products of a dense step remain: encode, decode, and the gradients of the latents, of the
decoder and of the encoder.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch

from mistudio.ml.sae.trainable import Auxiliary, Penalty, StepResult, TrainableSae


class Chunk(NamedTuple):
    """What an architecture makes of some rows. Sums are over the chunk's rows.

    `f_CF` are the latents, `error_CO` is ŷ - y, `grad_pre_CF` the gradient of x_c W_enc;
    `reconstruction` is Σ of the squared errors that R counts, `sparsity` ΣP and `ghost` ΣG.
    """

    f_CF: torch.Tensor
    error_CO: torch.Tensor
    grad_pre_CF: torch.Tensor
    reconstruction: torch.Tensor
    sparsity: torch.Tensor
    ghost: torch.Tensor


class DenseSae(TrainableSae):
    """Latents are dense while training; the penalty's weight decides how many are active."""

    uses_k: ClassVar[bool] = False

    def project(self) -> None:
        """Bring parameters back to where they may be, on the data, before the forward pass."""

    @abstractmethod
    def _clear(self) -> None:
        """Set the gradients of the architecture's own vectors to zero."""

    @abstractmethod
    def _rows(
        self, pre_CF: torch.Tensor, x_CD: torch.Tensor, unit: float, penalty: Penalty
    ) -> Chunk:
        """Forward and backward of some centred rows; `unit` is 1/(N·V).

        `pre_CF` is x_c W_enc without a bias and may be overwritten. Adds to the gradients of the
        architecture's own vectors.
        """

    @torch.no_grad()
    def gradients(
        self, x_BD: torch.Tensor, variance: float, extra: Auxiliary | Penalty | None = None
    ) -> StepResult:
        """As in `TrainableSae`; `extra` is the penalty, None for none at all."""
        penalty = extra if isinstance(extra, Penalty) else Penalty(0.0)
        self._begin_step()
        self.project()
        self._clear()
        tokens, unit = x_BD.shape[0], 1 / (x_BD.shape[0] * variance)
        W_enc_FD, W_dec_FO = self.parameters["W_enc_FD"], self.parameters["W_dec_FO"]
        centred_BD = x_BD - self.parameters["b_dec_O"]
        grad_enc_FD, grad_dec_FO = self._gradient_buffers()
        sums = torch.zeros(4, dtype=torch.float64, device=x_BD.device)
        counts_F = torch.zeros(self.n_latents, dtype=torch.int64, device=x_BD.device)
        last_row_F = torch.zeros_like(counts_F)
        grad_b_dec_O = torch.zeros_like(self.parameters["b_dec_O"])
        pre_sum_F = torch.zeros_like(self.parameters["W_enc_FD"][:, 0])
        start, size = 0, self._chunk_rows()
        for x_CD in centred_BD.split(size):
            part = self._rows(self._products(x_CD), x_CD, unit, penalty)
            grad_CO = part.error_CO * (2 * unit)
            beta = 1.0 if start else 0.0
            torch.addmm(grad_dec_FO, part.f_CF.T, grad_CO, beta=beta, out=grad_dec_FO)
            torch.addmm(grad_enc_FD, part.grad_pre_CF.T, x_CD, beta=beta, out=grad_enc_FD)
            grad_b_dec_O += grad_CO.sum(0)
            pre_sum_F += part.grad_pre_CF.sum(0)
            sums += torch.stack(
                [
                    part.error_CO.square().sum(),
                    part.reconstruction,
                    part.sparsity,
                    part.ghost,
                ]
            )
            fired_CF = part.f_CF > 0
            counts_F += fired_CF.sum(0)
            last_row_F = torch.maximum(last_row_F, _last_rows(fired_CF, start))
            start += x_CD.shape[0]
        if self.unit_decoder:
            along_F1 = (grad_dec_FO * W_dec_FO).sum(1, keepdim=True)
            grad_dec_FO.addcmul_(along_F1, W_dec_FO, value=-1)
        else:
            self._add_norm_gradient(grad_dec_FO, penalty.weight * unit)
        self.parameters["b_dec_O"].grad = grad_b_dec_O - pre_sum_F @ W_enc_FD
        sums = sums.to(x_BD.dtype)
        return StepResult(
            reconstruction=sums[1] * unit,
            auxiliary=torch.zeros_like(sums[0]),
            sparsity=sums[2] * (penalty.weight * unit),
            ghost=sums[3] * (penalty.ghost * unit),
            squared_error=sums[0],
            squared_deviation=(centred_BD - centred_BD.mean(0)).square().sum(),
            active=int(counts_F.sum()),
            smallest_kept=0.0,
            counts_F=counts_F,
            last_row_F=(last_row_F - 1).clamp_(0, tokens - 1),
        )

    def _products(self, x_CD: torch.Tensor) -> torch.Tensor:
        """x_c W_enc of some rows, in a buffer that the next call overwrites."""
        rows = x_CD.shape[0]
        if self._workspace is None or self._workspace.shape[0] < rows:
            self._workspace = torch.empty(
                rows, self.n_latents, dtype=x_CD.dtype, device=x_CD.device
            )
        return self._encoder_product(x_CD, self._workspace[:rows])

    def _add_norm_gradient(self, grad_dec_FO: torch.Tensor, weight: float) -> None:
        """Add what a penalty gives free decoder rows; `weight` is λ/(N·V). Here: nothing."""

    def _gradient(self, name: str) -> torch.Tensor:
        grad = self.parameters[name].grad
        assert grad is not None
        return grad

    def _zero(self, *names: str) -> None:
        for name in names:
            self.parameters[name].grad = torch.zeros_like(self.parameters[name])


def ghost_of(
    below_CF: torch.Tensor, unit: float, penalty: Penalty
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """ΣG of some rows and its weighted gradient with respect to `below_CF`, the distance that
    rare latents lack to fire (Σ_i r_i ReLU(below_i)); None where no latent is rare."""
    if penalty.rare_F is None or penalty.ghost == 0:
        return None
    lacking_CF = torch.relu(below_CF)
    total = (lacking_CF * penalty.rare_F).sum()
    return total, (lacking_CF > 0) * (penalty.rare_F * (penalty.ghost * unit))


def _last_rows(fired_CF: torch.Tensor, start: int) -> torch.Tensor:
    """1 + the number of each latent's last row that fired, 0 if none did; rows count from start."""
    rows = fired_CF.shape[0]
    number_C1 = torch.arange(1, rows + 1, dtype=torch.int32, device=fired_CF.device)[:, None]
    last_F = (fired_CF * number_C1).amax(0).to(torch.int64)
    return torch.where(last_F > 0, last_F + start, 0)
