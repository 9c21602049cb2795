"""The trainable form of the TopK family: one step's losses and gradients, written by hand.

Trains on s·x with the loss L = R/V + λ L_aux, R the mean squared error per token summed over the
width, V the total variance of s·x (TopK: Gao et al., arXiv 2406.04093).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch

from mistudio.ml.sae.auxiliary import auxiliary_gradient
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_unit_scale
from mistudio.ml.sae.selection import SparseCodes, splits_of
from mistudio.ml.sae.sparse_gradient import (
    sort_by_latent,
    sum_by_latent,
    value_gradient,
    weight_gradient,
    weighted_rows,
)

CHUNK_ENTRIES = 9 << 20  # pre-activations formed at a time (38 MB in float32)
MIN_CHUNK_ROWS = 64
EPS = 1e-12


class Auxiliary(NamedTuple):
    """What AuxK needs in one step: ids of the dead latents [n_dead], k_aux and its weight."""

    dead_N: torch.Tensor
    aux_k: int
    weight: float


class Encoded(NamedTuple):
    """Active latents of a batch and the pre-activations of its dead latents, if asked for."""

    codes: SparseCodes
    dead_h_BN: torch.Tensor | None


class Block(NamedTuple):
    """Latents `start` to `stop`; the latents up to `stop` are a dictionary of their own."""

    start: int
    stop: int


class StepResult(NamedTuple):
    """Sums and counts of one step; the gradients are in the parameters' `grad`.

    `reconstruction` is R/V (the mean over the prefixes), `auxiliary` L_aux without its weight,
    `squared_error` Σ‖ŷ-y‖² by all latents and
    `squared_deviation` Σ‖y-ȳ‖² over the batch, all 0-dim tensors; `counts_F` firings per latent,
    `last_row_F` the row of each latent's last firing (meaningless where the count is 0).
    """

    reconstruction: torch.Tensor
    auxiliary: torch.Tensor
    squared_error: torch.Tensor
    squared_deviation: torch.Tensor
    active: int
    smallest_kept: float
    counts_F: torch.Tensor
    last_row_F: torch.Tensor


class TrainableSae(ABC):
    """Parameters W_enc_FD, b_enc_F, W_dec_FO, b_dec_O with unit decoder rows, and their gradients.

    The encoder is stored transposed, one row per latent, as its gradient is formed row by row.
    `k` may be changed between steps.
    """

    architecture: ClassVar[str]

    def __init__(
        self, d_in: int, n_latents: int, k: int, *, generator: torch.Generator, dtype: torch.dtype
    ) -> None:
        """Random unit decoder rows, the encoder their transpose, biases zero."""
        W_dec_FO = torch.randn(n_latents, d_in, generator=generator, dtype=dtype)
        W_dec_FO /= torch.linalg.vector_norm(W_dec_FO, dim=1, keepdim=True).clamp_min(EPS)
        self.k = k
        self.parameters: dict[str, torch.Tensor] = {
            "W_enc_FD": W_dec_FO.clone(),
            "b_enc_F": torch.zeros(n_latents, dtype=dtype),
            "W_dec_FO": W_dec_FO,
            "b_dec_O": torch.zeros(d_in, dtype=dtype),
        }
        self._workspace: torch.Tensor | None = None

    @property
    def d_in(self) -> int:
        return self.parameters["W_enc_FD"].shape[1]

    @property
    def n_latents(self) -> int:
        return self.parameters["W_enc_FD"].shape[0]

    @property
    def blocks(self) -> list[Block]:
        """Blocks whose prefixes each reconstruct the input by themselves; one holds all latents."""
        return [Block(0, self.n_latents)]

    @property
    def device(self) -> torch.device:
        return self.parameters["W_enc_FD"].device

    def to(self, device: torch.device) -> None:
        """Move the parameters; call before an optimiser takes hold of them."""
        self.parameters = {name: p.to(device) for name, p in self.parameters.items()}

    @abstractmethod
    def _select(self, x_BD: torch.Tensor, dead_N: torch.Tensor | None) -> Encoded:
        """Encode centred inputs chunk by chunk and keep what the architecture keeps."""

    @abstractmethod
    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """The inference form that reads unscaled activations."""

    @torch.no_grad()
    def gradients(
        self, x_BD: torch.Tensor, variance: float, auxiliary: Auxiliary | None = None
    ) -> StepResult:
        """Losses of one batch; sets `grad` of every parameter.

        `x_BD` is s·x. The decoder gradient has its part along the decoder rows removed already.
        """
        tokens, blocks = x_BD.shape[0], self.blocks
        centred_BD = x_BD - self.parameters["b_dec_O"]
        dead_N = None if auxiliary is None else auxiliary.dead_N
        codes, dead_h_BN = self._select(centred_BD, dead_N)
        parts = split_by_block(codes, blocks)

        # ŷ_g - y of each prefix: b_dec cancels
        errors: list[torch.Tensor] = []
        for block, part in zip(blocks, parts, strict=True):
            told_BO = weighted_rows(self._decoder(block), part)
            errors.append(told_BO.sub_(centred_BD) if not errors else told_BO.add_(errors[-1]))
        squared_G = torch.stack([error_BO.square().sum() for error_BO in errors])
        deviation = (centred_BD - centred_BD.mean(0)).square().sum()

        counted = []
        grad_BO = torch.zeros_like(centred_BD) if len(blocks) > 1 else None
        for block, part, error_BO in reversed(list(zip(blocks, parts, errors, strict=True))):
            # a latent feels every prefix that holds it: those of its block and of later ones
            own_BO = error_BO * (2 / (len(blocks) * tokens * variance))
            grad_BO = own_BO if grad_BO is None else grad_BO.add_(own_BO)
            counted.append(self._block_gradients(block, part, centred_BD, grad_BO))
        assert grad_BO is not None
        counts_F, last_row_F, grad_b_enc_F = map(torch.cat, zip(*reversed(counted), strict=True))
        grad_enc_FD, grad_dec_FO = self._gradient_buffers()

        loss_aux = torch.zeros_like(deviation)
        if auxiliary is not None and dead_h_BN is not None:
            dead_N, W_dead_NO = auxiliary.dead_N, self.parameters["W_dec_FO"][auxiliary.dead_N]
            extra = auxiliary_gradient(
                dead_h_BN, centred_BD, -errors[-1], W_dead_NO, auxiliary.aux_k, auxiliary.weight
            )
            loss_aux = extra.loss
            grad_enc_FD.index_add_(0, dead_N, extra.grad_enc_ND)
            grad_b_enc_F.index_add_(0, dead_N, extra.grad_b_enc_N)
            across_NO = extra.grad_dec_NO - extra.along_N[:, None] * W_dead_NO
            grad_dec_FO.index_add_(0, dead_N, across_NO)
        self.parameters["b_enc_F"].grad = grad_b_enc_F
        self.parameters["b_dec_O"].grad = (
            grad_BO.sum(0) - grad_b_enc_F @ self.parameters["W_enc_FD"]
        )

        return StepResult(
            reconstruction=squared_G.mean() / (tokens * variance),
            auxiliary=loss_aux,
            squared_error=squared_G[-1],
            squared_deviation=deviation,
            active=codes.ids.numel(),
            smallest_kept=float(codes.values.min()) if codes.ids.numel() else 0.0,
            counts_F=counts_F,
            last_row_F=last_row_F,
        )

    def _decoder(self, block: Block) -> torch.Tensor:
        return self.parameters["W_dec_FO"][block.start : block.stop]

    def _block_gradients(
        self, block: Block, codes: SparseCodes, centred_BD: torch.Tensor, grad_BO: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Fill a block's rows of the weight gradients; its firings, last rows and ∇b_enc."""
        W_dec_FO = self._decoder(block)
        grad_enc_FD, grad_dec_FO = (g[block.start : block.stop] for g in self._gradient_buffers())
        by_latent = sort_by_latent(codes, block.stop - block.start)
        values = codes.values[by_latent.order]
        grad = value_gradient(codes, grad_BO, W_dec_FO)[by_latent.order]
        weight_gradient(by_latent, grad, centred_BD, grad_enc_FD)
        weight_gradient(
            by_latent,
            values,
            grad_BO,
            grad_dec_FO,
            along_F=sum_by_latent(by_latent, values * grad),  # ⟨∇D_i, D_i⟩ = Σ v ⟨G, D_i⟩
            directions_FD=W_dec_FO,
        )
        last_row_F = (
            by_latent.rows[(by_latent.splits[1:] - 1).clamp_min(0)]
            if codes.ids.numel()
            else torch.zeros_like(by_latent.splits[1:])
        )
        return by_latent.counts, last_row_F, sum_by_latent(by_latent, grad)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit length again."""
        W_dec_FO = self.parameters["W_dec_FO"]
        W_dec_FO /= torch.linalg.vector_norm(W_dec_FO, dim=1, keepdim=True).clamp_min_(EPS)

    def _gradient_buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`grad` of both weight matrices, allocated once: fresh pages cost more than the sums."""
        for name in ("W_enc_FD", "W_dec_FO"):
            if self.parameters[name].grad is None:
                self.parameters[name].grad = torch.empty_like(self.parameters[name])
        grad_enc, grad_dec = self.parameters["W_enc_FD"].grad, self.parameters["W_dec_FO"].grad
        assert grad_enc is not None
        assert grad_dec is not None
        return grad_enc, grad_dec

    def _chunk_rows(self) -> int:
        return max(MIN_CHUNK_ROWS, CHUNK_ENTRIES // self.n_latents)

    def _pre_activations(self, x_BD: torch.Tensor) -> torch.Tensor:
        """h of some rows of centred input, in a buffer that the next call overwrites."""
        rows = x_BD.shape[0]
        if self._workspace is None or self._workspace.shape[0] < rows:
            self._workspace = torch.empty(
                rows, self.n_latents, dtype=x_BD.dtype, device=x_BD.device
            )
        h_BF = torch.mm(x_BD, self.parameters["W_enc_FD"].T, out=self._workspace[:rows])
        return h_BF.add_(self.parameters["b_enc_F"])

    def _inference(
        self, architecture: str, scale: float, threshold: float | None
    ) -> SparseAutoencoder:
        p = {name: tensor.detach().float().cpu() for name, tensor in self.parameters.items()}
        unfolded = SparseAutoencoder(
            p["W_enc_FD"].T.contiguous(),
            p["b_enc_F"].clone(),
            p["W_dec_FO"].clone(),
            p["b_dec_O"].clone(),
            architecture,
            k=self.k if architecture == "topk" else None,
            threshold_F=None if threshold is None else torch.full((self.n_latents,), threshold),
            metadata={"training_architecture": self.architecture},
        )
        return fold_unit_scale(unfolded, scale)


def split_by_block(codes: SparseCodes, blocks: Sequence[Block]) -> list[SparseCodes]:
    """The active latents of each block, their ids counted from its start."""
    if len(blocks) == 1:
        return [codes]
    rows, parts = codes.rows, []
    for block in blocks:
        at = ((codes.ids >= block.start) & (codes.ids < block.stop)).nonzero().squeeze(1)
        splits = splits_of(rows[at], codes.row_splits.numel() - 1)
        parts.append(SparseCodes(codes.values[at], codes.ids[at] - block.start, splits))
    return parts
