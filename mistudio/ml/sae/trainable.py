"""The trainable form of an SAE or transcoder: its parameters, one step's losses and gradients.

An SAE trains on s·x with the loss L = (R + λP + λ_g G)/V + λ_aux L_aux, R the mean squared error
per token summed over the width, V the total variance of s·x, P a penalty, G the ghost penalty. A
transcoder reads s_in·x and is to give s_out·y, the activations of another hook of the same forward
pass (Dunefsky et al., arXiv 2406.11944); a skip transcoder adds a linear map of x to what its
latents give (arXiv 2501.18823). R and V are then those of s_out·y.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.collective import SINGLE, Collective
from mistudio.ml.device import check_bf16
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import fold_decoder_norms, fold_input_ratio, fold_unit_scale

CHUNK_ENTRIES = 9 << 20  # pre-activations formed at a time (38 MB in float32)
GPU_CHUNK_ENTRIES = 1 << 28  # the same on a GPU, where a small product leaves most of it idle
GPU_CHUNK_SHARE = 1 / 32  # of the GPU's memory that a chunk takes at most, in float32
MIN_CHUNK_ROWS = 64
EPS = 1e-12
KEEPS_SUMS = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 8)
TRANSCODER_COLUMN_NORM = 0.1  # of the encoder, at the start


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


class Ends(NamedTuple):
    """What one step starts from: the encoder's input, what the latents' rows are to add up to, and
    the target up to a constant. All three are x - b_dec for an SAE."""

    x_BD: torch.Tensor
    wanted_BO: torch.Tensor
    target_BO: torch.Tensor


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

    A TopK that began at an SAE with other rows holds them at their own lengths, `row_lengths_F`: no
    fold makes them unit without changing which latents are the largest.
    The encoder is stored transposed, one row per latent, as its gradient is formed row by row.
    `encoder` is "sae", "transcoder" or "skip_transcoder"; the last has W_skip_OD too, and neither
    transcoder subtracts b_dec from its input. `k` may be changed between steps.
    """

    architecture: ClassVar[str]
    uses_k: ClassVar[bool] = True
    """whether k decides what is kept"""
    needs_threshold: ClassVar[bool] = False
    """whether its threshold is found on calibration documents after training"""

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        k: int,
        *,
        generator: torch.Generator,
        dtype: torch.dtype,
        d_out: int | None = None,
        encoder: str = "sae",
    ) -> None:
        """Random unit decoder rows, biases zero; an SAE's encoder is the decoder's transpose, a
        transcoder's random with columns of length 0.1, its skip zero."""
        d_out = d_in if d_out is None else d_out
        if encoder == "sae" and d_out != d_in:
            raise InvalidInput("A sparse autoencoder writes activations of the width it reads.")
        W_dec_FO = torch.randn(n_latents, d_out, generator=generator, dtype=dtype)
        W_dec_FO /= torch.linalg.vector_norm(W_dec_FO, dim=1, keepdim=True).clamp_min(EPS)
        if encoder == "sae":
            W_enc_FD = W_dec_FO.clone()
        else:
            W_enc_FD = torch.randn(n_latents, d_in, generator=generator, dtype=dtype)
            norms_F1 = torch.linalg.vector_norm(W_enc_FD, dim=1, keepdim=True).clamp_min(EPS)
            W_enc_FD *= TRANSCODER_COLUMN_NORM / norms_F1
        self.k = k
        self.encoder = encoder
        self.collective: Collective = SINGLE  # the processes that share a batch
        self.whole_rows = 0  # of the batch that they share; 0: a step sees all of it
        self.parameters: dict[str, torch.Tensor] = {
            "W_enc_FD": W_enc_FD,
            "b_enc_F": torch.zeros(n_latents, dtype=dtype),
            "W_dec_FO": W_dec_FO,
            "b_dec_O": torch.zeros(d_out, dtype=dtype),
        }
        if encoder == "skip_transcoder":
            self.parameters["W_skip_OD"] = torch.zeros(d_out, d_in, dtype=dtype)
        self._workspace: torch.Tensor | None = None
        self.bf16 = False
        self.unit_decoder = True
        self.row_lengths_F: torch.Tensor | None = None  # None: 1 each
        self._rounded_FD: torch.Tensor | None = None

    def configure(self, config: TrainConfig) -> None:
        """Take over the settings of a run: k, the precision, whether decoder rows are held."""
        self.k = config.k
        self.bf16 = config.precision == "bf16"
        self.unit_decoder = config.holds_unit_decoder

    @torch.no_grad()
    def start_within(self, basis_DR: torch.Tensor) -> None:
        """Put the random first rows of an SAE into the subspace of orthonormal columns, again of
        unit length: they are then drawn evenly from it. The encoder stays the transpose."""
        W_dec_FO = self.parameters["W_dec_FO"]
        basis_DR = basis_DR.double()
        inside_FO = W_dec_FO.double() @ basis_DR @ basis_DR.T
        inside_FO /= torch.linalg.vector_norm(inside_FO, dim=1, keepdim=True).clamp_min(EPS)
        W_dec_FO.copy_(inside_FO)
        self.parameters["W_enc_FD"].copy_(inside_FO)

    @torch.no_grad()
    def start_from(self, mean_in_D: torch.Tensor, mean_out_O: torch.Tensor | None = None) -> None:
        """Set the first biases from the means of the scaled tokens, s_in·x̄ and s_out·ȳ.

        An SAE starts at b_dec = x̄; a transcoder at b_dec = ȳ and b_enc = -x̄ W_enc, as if it read
        x - x̄. Raises `InvalidInput` for a transcoder without a mean of its target.
        """
        if not self.is_transcoder:
            self.parameters["b_dec_O"].copy_(mean_in_D)
            return
        if mean_out_O is None:
            raise InvalidInput("A transcoder needs the mean of what it is to give.")
        self.parameters["b_dec_O"].copy_(mean_out_O)
        W_enc_FD = self.parameters["W_enc_FD"].double()
        self.parameters["b_enc_F"].copy_(-(W_enc_FD @ mean_in_D.to(W_enc_FD)))

    @property
    def is_transcoder(self) -> bool:
        return self.encoder != "sae"

    @property
    def d_in(self) -> int:
        return self.parameters["W_enc_FD"].shape[1]

    @property
    def d_out(self) -> int:
        return self.parameters["W_dec_FO"].shape[1]

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
        if self.row_lengths_F is not None:
            self.row_lengths_F = self.row_lengths_F.to(device)

    @abstractmethod
    def folded(self, scale: float, threshold: float | None = None) -> SparseAutoencoder:
        """The inference form that reads unscaled activations, x of an SAE trained on scale · x.

        Of a transcoder `scale` is that of input and target alike; `inference` takes two.
        """

    def inference(
        self, scale: float, threshold: float | None = None, scale_out: float | None = None
    ) -> SparseAutoencoder:
        """The inference form of what was trained on `scale` · x and, a transcoder, on `scale_out`
        · y; `threshold` is in units of the scaled target."""
        if not self.is_transcoder:
            return self.folded(scale, threshold)
        scale_out = scale if scale_out is None else scale_out
        return fold_input_ratio(self.folded(scale_out, threshold), scale / scale_out)

    @abstractmethod
    def gradients(
        self,
        x_BD: torch.Tensor,
        variance: float,
        extra: Auxiliary | Penalty | None = None,
        target_BO: torch.Tensor | None = None,
    ) -> StepResult:
        """Losses of one batch; sets `grad` of every parameter.

        `x_BD` is s·x, `variance` V. The decoder gradient has its part along the decoder rows
        removed already. `extra` is an `Auxiliary` for the TopK family, a `Penalty` for the others.
        A transcoder takes s_out·y of the same tokens as `target_BO`, an SAE none.
        """

    def _ends(self, x_BD: torch.Tensor, target_BO: torch.Tensor | None) -> Ends:
        """Where a step starts from; raises `Mismatch` if a target lacks or does not belong."""
        b_dec_O = self.parameters["b_dec_O"]
        if not self.is_transcoder:
            if target_BO is not None:
                raise Mismatch("A sparse autoencoder has no other target than its input.")
            centred_BD = x_BD - b_dec_O
            return Ends(centred_BD, centred_BD, centred_BD)
        if target_BO is None or target_BO.shape != (x_BD.shape[0], self.d_out):
            raise Mismatch(
                f"A transcoder needs targets of width {self.d_out} for each of its inputs."
            )
        wanted_BO = target_BO - b_dec_O
        if "W_skip_OD" in self.parameters:
            wanted_BO.addmm_(x_BD, self.parameters["W_skip_OD"].T, alpha=-1)
        return Ends(x_BD, wanted_BO, target_BO)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row its length again, 1 or its own, unless lengths are free."""
        if not self.unit_decoder:
            return
        W_dec_FO = self.parameters["W_dec_FO"]
        norms_F1 = torch.linalg.vector_norm(W_dec_FO, dim=1, keepdim=True).clamp_min_(EPS)
        if self.row_lengths_F is None:
            W_dec_FO /= norms_F1
        else:
            W_dec_FO *= self.row_lengths_F[:, None] / norms_F1

    def _along(self, told_N: torch.Tensor, latents: slice | torch.Tensor) -> torch.Tensor:
        """⟨∇D_i, D_i⟩ of some latents, as the multiple of D_i that lies in ∇D_i."""
        if self.row_lengths_F is None:
            return told_N
        return told_N / self.row_lengths_F[latents].square()

    def _gradient_buffers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`grad` of both weight matrices, allocated once: fresh pages cost more than the sums."""
        for name in ("W_enc_FD", "W_dec_FO"):
            if self.parameters[name].grad is None:
                self.parameters[name].grad = torch.empty_like(self.parameters[name])
        grad_enc, grad_dec = self.parameters["W_enc_FD"].grad, self.parameters["W_dec_FO"].grad
        assert grad_enc is not None
        assert grad_dec is not None
        return grad_enc, grad_dec

    def free_workspace(self) -> None:
        """Give back the memory that is only held to be reused."""
        self._workspace = None

    def _chunk_rows(self) -> int:
        return max(MIN_CHUNK_ROWS, chunk_entries(self.device) // self.n_latents)

    def _pre_activations(self, x_BD: torch.Tensor) -> torch.Tensor:
        """h of some rows of centred input, in a buffer that the next call overwrites."""
        rows = x_BD.shape[0]
        if self._workspace is None or self._workspace.shape[0] < rows:
            self._workspace = torch.empty(
                rows, self.n_latents, dtype=x_BD.dtype, device=x_BD.device
            )
        h_BF = self.encoder_product(x_BD, self._workspace[:rows])
        return h_BF.add_(self.parameters["b_enc_F"])

    def _begin_step(self) -> None:
        """The weights may have changed: forget what was derived from them."""
        self._rounded_FD = None

    def encoder_product(
        self, x_BD: torch.Tensor, out_BF: torch.Tensor, at: slice = slice(None)
    ) -> torch.Tensor:
        """x W_enc of the latents `at` in float32, written to `out_BF`; with `bf16` of factors
        rounded to it.

        A processor multiplies the rounded numbers in float32, which gives what a GPU's bf16
        product with float32 sums does; so does a GPU whose torch (before 2.8) cannot keep the sums.
        """
        W_enc_FD = self.parameters["W_enc_FD"]
        if not self.bf16:
            return torch.mm(x_BD, W_enc_FD[at].T, out=out_BF)
        on_gpu = W_enc_FD.device.type == "cuda" and KEEPS_SUMS
        if self._rounded_FD is None:
            rounded_FD = W_enc_FD.to(torch.bfloat16)
            self._rounded_FD = rounded_FD if on_gpu else rounded_FD.to(W_enc_FD.dtype)
        low_BD = x_BD.to(torch.bfloat16)
        if on_gpu:
            return out_BF.copy_(torch.mm(low_BD, self._rounded_FD[at].T, out_dtype=torch.float32))
        return torch.mm(low_BD.to(x_BD.dtype), self._rounded_FD[at].T, out=out_BF)

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
            apply_b_dec_to_input=not self.is_transcoder,
            W_skip_OD=p["W_skip_OD"].clone() if "W_skip_OD" in p else None,
            encoder=self.encoder,
            metadata={"training_architecture": self.architecture},
        )
        if not self.unit_decoder:
            unfolded = fold_decoder_norms(unfolded)
        return fold_unit_scale(unfolded, scale)


def chunk_entries(device: torch.device) -> int:
    """How many pre-activations a step forms at a time on this device."""
    if device.type != "cuda":
        return CHUNK_ENTRIES
    memory = torch.cuda.get_device_properties(device).total_memory
    most = int(memory * GPU_CHUNK_SHARE) // torch.float32.itemsize
    return min(GPU_CHUNK_ENTRIES, max(CHUNK_ENTRIES, most))
