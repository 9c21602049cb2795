"""Reads the activations of a few features, without encoding all where that can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.context import refuse_single_tokens
from mistudio.ml.steering.sources import PlacedSae

ENCODE_ENTRIES = 1 << 23  # pre-activations held at a time


@dataclass(frozen=True)
class Reader:
    """Activations of K features of one SAE; `column` finds a feature in what it gives."""

    sae: SparseAutoencoder
    features_K: torch.Tensor
    column: dict[int, int]
    W_enc_DK: torch.Tensor
    b_enc_K: torch.Tensor
    reads_elsewhere: bool

    @classmethod
    def of(cls, placed: PlacedSae, features: Sequence[int], device: torch.device) -> Reader:
        """A reader of these features, on `device`; raises `Unsupported` for a temporal SAE."""
        refuse_single_tokens(
            placed.sae.architecture,
            "its features cannot be read while a text is written; add them, or use their "
            "directions",
        )
        sae = placed.sae.to(device)
        index = torch.tensor(list(features), dtype=torch.int64, device=device)
        return cls(
            sae,
            index,
            {feature: column for column, feature in enumerate(features)},
            sae.W_enc_DF[:, index].contiguous(),
            sae.b_enc_F[index],
            placed.reads_elsewhere,
        )

    @torch.no_grad()
    def __call__(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Activations [T, K] in fp32; what compares latents needs all of them."""
        sae = self.sae
        if sae.compares:
            step = max(1, ENCODE_ENTRIES // sae.n_latents)
            parts = [sae.encode(part)[:, self.features_K].float() for part in x_TD.split(step)]
            return torch.cat(parts)
        x_TD, scale_T1 = sae.encoder_input(x_TD)
        h_TK = x_TD @ self.W_enc_DK + self.b_enc_K
        a_TK = functional.relu(h_TK)
        if sae.threshold_F is not None and sae.architecture == "jumprelu":
            a_TK = a_TK * (h_TK > sae.threshold_F[self.features_K])
        if scale_T1 is not None:
            a_TK = a_TK * scale_T1
        return a_TK.float()

    def reconstruct(self, x_TD: torch.Tensor) -> torch.Tensor:
        """decode(encode(x)), fp32."""
        return self.sae.reconstruct(x_TD).float()
