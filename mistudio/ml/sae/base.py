"""A trained sparse autoencoder as everything but training uses it: encode, decode, move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn import functional

from mistudio.core.configs import ENCODERS
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.ml.sae.context import Context, refuse_single_tokens
from mistudio.ml.sae.matching_pursuit import Pursuit, pursued
from mistudio.ml.sae.selection import (
    SparseCodes,
    above,
    max_per_group,
    splits_of,
    top_k_per_row,
)
from mistudio.ml.sae.sparse_gradient import weighted_rows
from mistudio.ml.sae.token_norm import KINDS as TOKEN_NORMS
from mistudio.ml.sae.token_norm import normed

ARCHITECTURES = ("topk", "groupmax", "matching_pursuit", "temporal", "jumprelu", "standard")
KEEPING_K = ("topk", "groupmax")  # what keeps k latents by comparing them with each other
CHUNK_ENTRIES = 1 << 23  # pre-activations held at a time by encode_sparse (32 MB in float32)


@dataclass(frozen=True)
class SparseAutoencoder:
    """f = act((x - b_dec) W_enc + b_enc), y = f W_dec + b_dec, in the units of the activations.

    Decoder rows have unit length, so that a latent's value is the length of what it adds, unless a
    foreign file or the whitening of a "topk", which chose by other lengths, forbids it.
    `architecture`: "topk" keeps the `k` largest of ReLU(h) per token, "groupmax" the largest of
    each of `k` equal groups of consecutive latents, "jumprelu" keeps ReLU(h) where
    h > `threshold_F`, "standard" is ReLU. `apply_b_dec_to_input` tells whether b_dec is
    subtracted before encoding. Frozen: `to` and `with_metadata` return copies. `metadata` holds
    JSON values, such as hook_name and model_name.

    "matching_pursuit" has no such function of h: it finds the latents of x - b_dec one after
    another (`matching_pursuit.pursued`), until `pursuit` says that it is done. It reads by what it
    writes: W_enc is W_dec transposed, in one storage, and b_enc is 0. Where b_dec is not
    subtracted it is not added either, and is 0.

    "temporal" reads of a token what `context` does not expect from those before it: the `k` largest
    of ReLU(h), or ReLU without a k, with decoder rows of any length. What is expected is given
    back. So it reads whole texts: `in_context` puts beside each token what is expected of it, and
    all other methods take that.

    `encoder` "transcoder" gives the activations of another hook instead, of any width, and
    "skip_transcoder" adds x W_skipᵀ to them: such a one cannot decode without x.

    `token_norm` is how an SAE scales each token before it reads it ("" for not at all). Its weights
    are those of scaled tokens, its latents are in the units of x: f D adds what it adds there, and
    b_dec is scaled back with the token, so that it cannot decode without x either.
    """

    W_enc_DF: torch.Tensor
    b_enc_F: torch.Tensor
    W_dec_FO: torch.Tensor
    b_dec_O: torch.Tensor
    architecture: str
    k: int | None = None
    threshold_F: torch.Tensor | None = None
    apply_b_dec_to_input: bool = True
    W_skip_OD: torch.Tensor | None = None
    encoder: str = "sae"
    token_norm: str = ""
    pursuit: Pursuit | None = None
    context: Context | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d_in, n_latents = self.W_enc_DF.shape
        d_out = self.W_dec_FO.shape[1]
        expected = {
            "b_enc": (self.b_enc_F, (n_latents,)),
            "W_dec": (self.W_dec_FO, (n_latents, d_out)),
            "b_dec": (self.b_dec_O, (d_out,)),
        }
        if self.architecture not in ARCHITECTURES:
            raise InvalidInput(f"There is no SAE architecture {self.architecture!r}.")
        if self._keeps_k and not (self.k and 1 <= self.k <= n_latents):
            raise InvalidInput(
                f"A {self.architecture} SAE with {n_latents:,} latents needs a k between 1 and "
                f"{n_latents:,}."
            )
        if self.architecture == "groupmax" and n_latents % (self.k or 1):
            raise InvalidInput(
                f"{n_latents:,} latents cannot be shared out evenly among the {self.k:,} groups of "
                "a groupmax SAE."
            )
        if self.architecture == "jumprelu":
            if self.threshold_F is None:
                raise InvalidInput("A jumprelu SAE needs one threshold per latent.")
            expected["threshold"] = (self.threshold_F, (n_latents,))
        if self.encoder not in ENCODERS:
            raise InvalidInput(f"There is no encoder {self.encoder!r}.")
        if (self.W_skip_OD is not None) != (self.encoder == "skip_transcoder"):
            raise InvalidInput("A skip connection is what makes a skip transcoder.")
        if self.token_norm and (self.token_norm not in TOKEN_NORMS or self.is_transcoder):
            raise InvalidInput(f"No {self.encoder} scales each token by {self.token_norm!r}.")
        if self.W_skip_OD is not None:
            expected["W_skip"] = (self.W_skip_OD, (d_out, d_in))
        for name, (tensor, shape) in expected.items():
            if tuple(tensor.shape) != shape:
                raise Mismatch(
                    f"The SAE's {name} has shape {tuple(tensor.shape)} instead of {shape}."
                )
        if self.apply_b_dec_to_input and d_in != d_out:
            raise Mismatch("b_dec can be subtracted from the input only if both have one width.")
        if self.encoder == "sae" and d_in != d_out:
            raise Mismatch(f"An SAE that reads width {d_in} cannot write width {d_out}.")
        if (self.pursuit is not None) != (self.architecture == "matching_pursuit"):
            raise InvalidInput(
                "A matching_pursuit SAE, and no other, needs to know when it is done."
            )
        if self.pursuit is not None:
            self._tie()
        if (self.context is not None) != (self.architecture == "temporal"):
            raise InvalidInput("A temporal SAE, and no other, expects tokens from those before.")
        if self.context is not None:
            self.context.check(n_latents)
            if self.is_transcoder or bool(self.b_enc_F.any()):
                raise InvalidInput("A temporal SAE is no transcoder and has no b_enc.")

    def _tie(self) -> None:
        """Make W_enc of a matching pursuit a view of W_dec; raises unless it is its transpose."""
        if self.is_transcoder:
            raise InvalidInput(f"No {self.encoder} reads by what it writes, as a pursuit does.")
        if not self.is_tied:
            if not torch.equal(self.W_enc_DF, self.W_dec_FO.T):
                raise Mismatch("W_enc of a matching_pursuit SAE must be W_dec transposed.")
            object.__setattr__(self, "W_enc_DF", self.W_dec_FO.T)
        if bool(self.b_enc_F.any()):
            raise InvalidInput("A matching_pursuit SAE has no b_enc.")
        if not self.apply_b_dec_to_input and bool(self.b_dec_O.any()):
            raise InvalidInput("A matching_pursuit SAE that does not subtract b_dec has none.")

    @property
    def d_in(self) -> int:
        return self.W_enc_DF.shape[0]

    @property
    def d_out(self) -> int:
        return self.W_dec_FO.shape[1]

    @property
    def n_latents(self) -> int:
        return self.W_enc_DF.shape[1]

    @property
    def is_tied(self) -> bool:
        """Whether it reads by the very storage that it writes by."""
        read, tied = self.W_enc_DF, self.W_dec_FO.T
        return (read.data_ptr(), read.stride()) == (tied.data_ptr(), tied.stride())

    @property
    def is_transcoder(self) -> bool:
        """Whether it gives the activations of another hook than it reads."""
        return self.encoder != "sae"

    @property
    def compares(self) -> bool:
        """Whether it takes all latents to tell which of them are active."""
        return self.most_active is not None

    @property
    def most_active(self) -> int | None:
        """The most latents that can be active for one token; None for any number."""
        if self.pursuit is not None:
            return min(self.n_latents, self.pursuit.steps(self.d_in))
        return self.k if self._keeps_k else None

    @property
    def _keeps_k(self) -> bool:
        return self.architecture in KEEPING_K or (self.context is not None and self.k is not None)

    @property
    def device(self) -> torch.device:
        return self.W_enc_DF.device

    def to(self, device: torch.device | str) -> SparseAutoencoder:
        """A copy whose tensors are on `device`."""
        threshold = None if self.threshold_F is None else self.threshold_F.to(device)
        skip = None if self.W_skip_OD is None else self.W_skip_OD.to(device)
        W_dec_FO = self.W_dec_FO.to(device)
        return replace(
            self,
            W_enc_DF=W_dec_FO.T if self.is_tied else self.W_enc_DF.to(device),
            b_enc_F=self.b_enc_F.to(device),
            W_dec_FO=W_dec_FO,
            b_dec_O=self.b_dec_O.to(device),
            threshold_F=threshold,
            W_skip_OD=skip,
            context=None if self.context is None else self.context.to(device),
        )

    def with_metadata(self, **values: Any) -> SparseAutoencoder:
        """A copy with further metadata."""
        return replace(self, metadata={**self.metadata, **values})

    def with_threshold(self, threshold: float) -> SparseAutoencoder:
        """A copy of a jumprelu SAE with one threshold for all latents."""
        return replace(self, threshold_F=torch.full_like(self.b_enc_F, threshold))

    @torch.no_grad()
    def pre_activations(self, x_BD: torch.Tensor) -> torch.Tensor:
        """h [B, n_latents]: the matrix product first, the bias after, in the SAE's own dtype.

        With a token norm these are of the scaled tokens. Of a matching pursuit they are what its
        first step compares, and no more.
        """
        return self.encoder_input(x_BD)[0] @ self.W_enc_DF + self.b_enc_F

    @torch.no_grad()
    def in_context(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """What is read of whole texts x [B, S, d_in], each from its first token on: x itself.

        Of a temporal SAE [B, S, 2 d_in], x and behind it what is expected of it, in the units of
        what is encoded. A token that is no number counts as zeros for those behind it.
        """
        if self.context is None:
            return x_BSD
        if x_BSD.ndim != 3:
            raise Mismatch(f"in_context takes x of shape [B, S, d_in], not {tuple(x_BSD.shape)}.")
        self._check_width(x_BSD.shape[-1])
        x_BSD = x_BSD.to(self.W_enc_DF.dtype)
        if not bool(x_BSD.isfinite().all()):
            x_BSD = torch.where(x_BSD.isfinite().all(-1, keepdim=True), x_BSD, 0.0)
        step = max(1, CHUNK_ENTRIES // (max(1, x_BSD.shape[1]) * self.n_latents))
        parts = [
            self.context.expected(self._shifted(part_BSD)[0], self.W_enc_DF, self.W_dec_FO)
            for part_BSD in x_BSD.split(step)
        ]
        return torch.cat([x_BSD, torch.cat(parts)], dim=-1)

    def _check_width(self, width: int) -> None:
        if width != self.d_in:
            raise Mismatch(f"The SAE reads activations of width {self.d_in}, these have {width}.")

    def _apart(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Activations in the SAE's own dtype, and what is expected of them."""
        x_BD, expected_BD = x_BD.to(self.W_enc_DF.dtype), None
        if self.context is not None:
            if x_BD.shape[-1] == self.d_in:
                refuse_single_tokens(self.architecture, "single tokens cannot be read")
            if x_BD.shape[-1] == 2 * self.d_in:
                x_BD, expected_BD = x_BD.split(self.d_in, dim=-1)
        self._check_width(x_BD.shape[-1])
        return x_BD, expected_BD

    def _shifted(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Activations after the token norm and without b_dec; and the scale of the former."""
        scale_B1 = None
        if self.token_norm:
            x_BD, scale_B1, _ = normed(x_BD, self.token_norm)
        return (x_BD - self.b_dec_O if self.apply_b_dec_to_input else x_BD), scale_B1

    @torch.no_grad()
    def encoder_input(self, x_BD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What is multiplied by W_enc, and what its latents are to be multiplied by [B, 1] (None:
        nothing)."""
        x_BD, expected_BD = self._apart(x_BD)
        z_BD, scale_B1 = self._shifted(x_BD)
        if self.context is not None:
            assert expected_BD is not None
            z_BD = (z_BD - expected_BD) * self.context.factor
        return z_BD, scale_B1

    @torch.no_grad()
    def encode(self, x_BD: torch.Tensor) -> torch.Tensor:
        """Latent values f [B, n_latents], dense; leading axes of any number are kept."""
        read_BD, scale_B1 = self.encoder_input(x_BD)
        if self.pursuit is None:
            f_BF = self._activated(read_BD @ self.W_enc_DF + self.b_enc_F)
        else:
            parts = [
                pursued(part_CD, self.W_dec_FO, self.pursuit)
                for part_CD in read_BD.reshape(-1, self.d_in).split(self._step)
            ]
            f_BF = torch.cat(parts).view(*read_BD.shape[:-1], self.n_latents)
        return f_BF if scale_B1 is None else f_BF * scale_B1

    @property
    def _step(self) -> int:
        """Tokens that are encoded at a time."""
        return max(16, CHUNK_ENTRIES // self.n_latents)

    def _activated(self, h_BF: torch.Tensor) -> torch.Tensor:
        if self._keeps_k:
            assert self.k is not None
            if self.architecture == "groupmax":
                values_BK, ids_BK = max_per_group(h_BF, self.k)
            else:
                values_BK, ids_BK = torch.topk(h_BF, self.k, dim=-1, sorted=False)
            return torch.zeros_like(h_BF).scatter_(-1, ids_BK, values_BK.relu_())
        if self.architecture == "jumprelu":
            assert self.threshold_F is not None
            return functional.relu(h_BF) * (h_BF > self.threshold_F)
        return functional.relu(h_BF)

    @torch.no_grad()
    def encode_sparse(self, x_BD: torch.Tensor) -> SparseCodes:
        """The non-zero latents of x [B, d_in]; within a row the ids ascend.

        Works in chunks of rows, so that memory does not grow with B times n_latents.
        """
        if x_BD.ndim != 2:
            raise Mismatch(f"encode_sparse takes x of shape [B, d_in], not {tuple(x_BD.shape)}.")
        rows, values, ids = [], [], []
        for start in range(0, x_BD.shape[0], self._step):
            read_BD, scale_B1 = self.encoder_input(x_BD[start : start + self._step])
            if self.pursuit is None:
                row, value, latent = self._active(read_BD @ self.W_enc_DF + self.b_enc_F)
            else:
                row, value, latent = above(pursued(read_BD, self.W_dec_FO, self.pursuit), 0.0)
            if scale_B1 is not None:
                value = value * scale_B1[row, 0]
                if not bool(value.all()):  # of a token without any deviation
                    kept = value > 0
                    row, value, latent = row[kept], value[kept], latent[kept]
            rows.append(row + start)
            values.append(value)
            ids.append(latent)
        if not rows:
            empty = torch.zeros(0, dtype=torch.int64, device=self.device)
            splits = torch.zeros(1, dtype=torch.int64, device=self.device)
            return SparseCodes(self.b_enc_F[:0], empty, splits)
        row, value, latent = torch.cat(rows), torch.cat(values), torch.cat(ids)
        order = torch.argsort(row * self.n_latents + latent)
        return SparseCodes(value[order], latent[order], splits_of(row, x_BD.shape[0]))

    def _active(self, h_BF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows, values and ids of the entries that survive the activation function."""
        if self._keeps_k:
            assert self.k is not None
            select = max_per_group if self.architecture == "groupmax" else top_k_per_row
            values_BK, ids_BK = select(h_BF, self.k)
            row, column = (values_BK > 0).nonzero(as_tuple=True)
            return row, values_BK[row, column], ids_BK[row, column]
        if self.threshold_F is None:
            return above(h_BF, 0.0)
        row, value, latent = above(h_BF, max(0.0, float(self.threshold_F.min())))
        kept = value > self.threshold_F[latent]
        return row[kept], value[kept], latent[kept]

    @torch.no_grad()
    def decode(self, f_BF: torch.Tensor, x_BD: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstruction y [B, d_out] of dense latent values; a skip transcoder and an SAE with a
        token norm need x too."""
        return self._completed(f_BF.to(self.W_dec_FO.dtype) @ self.W_dec_FO, x_BD)

    @torch.no_grad()
    def decode_sparse(self, codes: SparseCodes, x_BD: torch.Tensor | None = None) -> torch.Tensor:
        """Reconstruction y [B, d_out] of sparse latent values; x as in `decode`."""
        return self._completed(weighted_rows(self.W_dec_FO, codes), x_BD)

    def reconstruct(self, x_BD: torch.Tensor) -> torch.Tensor:
        """What it makes of x [B, d_in]: decode(encode(x), x), without dense latents."""
        return self.decode_sparse(self.encode_sparse(x_BD), x_BD)

    def _completed(self, y_BO: torch.Tensor, x_BD: torch.Tensor | None) -> torch.Tensor:
        """What the latents give, with the bias and what comes from x itself."""
        if self.W_skip_OD is None and not self.token_norm and self.context is None:
            return y_BO + self.b_dec_O
        if x_BD is None:
            what = "An SAE that scales each token" if self.token_norm else "A skip transcoder"
            what = what if self.context is None else "A temporal SAE"
            raise InvalidInput(f"{what} cannot decode without the activations it read.")
        x_BD, expected_BD = self._apart(x_BD)
        if self.W_skip_OD is not None:
            return y_BO + self.b_dec_O + x_BD @ self.W_skip_OD.T
        own_BO = self.b_dec_O if expected_BD is None else self.b_dec_O + expected_BD
        if not self.token_norm:
            return y_BO + own_BO
        _, scale_B1, mean_B1 = normed(x_BD, self.token_norm)
        y_BO = y_BO + own_BO * scale_B1
        return y_BO if mean_B1 is None else y_BO + mean_B1
