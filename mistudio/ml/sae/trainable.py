"""The trainable form of an SAE: its parameters, and one step's losses and gradients by hand.

Trains on s·x with the loss L = (R + λP + λ_g G)/V + λ_aux L_aux, R the mean squared error per token
summed over the width, V the total variance of s·x, P a penalty, G the ghost penalty.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch

from mistudio.core.training_configs import TrainConfig
from mistudio.ml.device import check_bf16
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_unit_scale

CHUNK_ENTRIES = 9 << 20  # pre-activations formed at a time (38 MB in float32)
MIN_CHUNK_ROWS = 64
EPS = 1e-12
KEEPS_SUMS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)


class Auxiliary(NamedTuple):
    """What AuxK needs in one step: ids of the dead latents [n_dead], k_aux and its weight."""

    dead_N: torch.Tensor
    aux_k: int
    weight: float


class Penalty(NamedTuple):
    """What makes a dense architecture sparse in one step.

    `weight` is λ, `ghost` λ_g, `rare_F` how much each latent is asked back to life (0 to 1; None:
    none is), `target_l0` L* of the quadratic penalty.
    """

    weight: float
    ghost: float = 0.0
    rare_F: torch.Tensor | None = None
    target_l0: float = 0.0


class StepResult(NamedTuple):
    """Sums and counts of one step; the gradients are in the parameters' `grad`.

    `reconstruction` is R/V (the mean over the prefixes), `sparsity` λP/V, `ghost` λ_g G/V,
    `auxiliary` L_aux without its weight, `squared_error` Σ‖ŷ-y‖² by all latents and
    `squared_deviation` Σ‖y-ȳ‖² over the batch, all 0-dim tensors; `counts_F` firings per latent,
    `last_row_F` the row of each latent's last firing (meaningless where the count is 0).
    """

    reconstruction: torch.Tensor
    auxiliary: torch.Tensor
    sparsity: torch.Tensor
    ghost: torch.Tensor
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
    uses_k: ClassVar[bool] = True
    """whether k decides what is kept"""
    needs_threshold: ClassVar[bool] = False
    """whether its threshold is found on calibration documents after training"""

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
        self.bf16 = False
        self.unit_decoder = True
        self._rounded_FD: torch.Tensor | None = None

    def configure(self, config: TrainConfig) -> None:
        """Take over the settings of a run: k, the precision, whether decoder rows are held."""
        self.k = config.k
        self.bf16 = config.precision == "bf16"
        self.unit_decoder = config.holds_unit_decoder

    @property
    def d_in(self) -> int:
        return self.parameters["W_enc_FD"].shape[1]

    @property
    def n_latents(self) -> int:
        return self.parameters["W_enc_FD"].shape[0]

    @property
    def device(self) -> torch.device:
        return self.parameters["W_enc_FD"].device

    def to(self, device: torch.device) -> None:
        """Move the parameters; call before an optimiser takes hold of them.

        Raises `Unsupported` for bf16 on a GPU without it.
        """
        if self.bf16:
            check_bf16(device)
        self.parameters = {name: p.to(device) for name, p in self.parameters.items()}

    @abstractmethod
    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """The inference form that reads unscaled activations."""

    @abstractmethod
    def gradients(
        self, x_BD: torch.Tensor, variance: float, extra: Auxiliary | Penalty | None = None
    ) -> StepResult:
        """Losses of one batch; sets `grad` of every parameter.

        `x_BD` is s·x, `variance` V. The decoder gradient has its part along the decoder rows
        removed already. `extra` is an `Auxiliary` for the TopK family, a `Penalty` for the others.
        """

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit length again, unless lengths are free."""
        if not self.unit_decoder:
            return
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
        h_BF = self._encoder_product(x_BD, self._workspace[:rows])
        return h_BF.add_(self.parameters["b_enc_F"])

    def _begin_step(self) -> None:
        """The weights may have changed: forget what was derived from them."""
        self._rounded_FD = None

    def _encoder_product(self, x_BD: torch.Tensor, out_BF: torch.Tensor) -> torch.Tensor:
        """x W_enc in float32; with `bf16` of factors rounded to it. May be written to `out_BF`.

        A processor multiplies the rounded numbers in float32, which gives what a GPU's bf16
        product with float32 sums does; so does a GPU whose torch (before 2.8) cannot keep the sums.
        """
        W_enc_FD = self.parameters["W_enc_FD"]
        if not self.bf16:
            return torch.mm(x_BD, W_enc_FD.T, out=out_BF)
        on_gpu = W_enc_FD.device.type == "cuda" and KEEPS_SUMS
        if self._rounded_FD is None:
            rounded_FD = W_enc_FD.to(torch.bfloat16)
            self._rounded_FD = rounded_FD if on_gpu else rounded_FD.to(W_enc_FD.dtype)
        low_BD = x_BD.to(torch.bfloat16)
        if on_gpu:
            return torch.mm(low_BD, self._rounded_FD.T, out_dtype=torch.float32)
        return torch.mm(low_BD.to(x_BD.dtype), self._rounded_FD.T, out=out_BF)

    def _inference(
        self,
        architecture: str,
        scale: float,
        threshold: float | torch.Tensor | None,
        **weights: torch.Tensor,
    ) -> SparseAutoencoder:
        """The folded SAE; a threshold is one number or one per latent, in units of s·x.

        `weights` replace parameters of the same name.
        """
        own = {**self.parameters, **weights}
        p = {name: tensor.detach().float().cpu() for name, tensor in own.items()}
        threshold_F = None
        if threshold is not None:
            given = torch.as_tensor(threshold, dtype=torch.float32).cpu()
            threshold_F = given.expand(self.n_latents).clone()
        unfolded = SparseAutoencoder(
            p["W_enc_FD"].T.contiguous(),
            p["b_enc_F"].clone(),
            p["W_dec_FO"].clone(),
            p["b_dec_O"].clone(),
            architecture,
            k=self.k if architecture == "topk" else None,
            threshold_F=threshold_F,
            metadata={"training_architecture": self.architecture},
        )
        if not self.unit_decoder:
            unfolded = fold_decoder_norms(unfolded)
        return fold_unit_scale(unfolded, scale)
