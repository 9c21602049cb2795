"""What an edit adds to the residual stream: add and set (clamp).

ADD: x' = x + alpha d. SET: x' = x + (c - a) d, where a is the feature's own activation; what the
SAE does not explain stays in place. All deltas come from the x and f before any edit and are
summed in feature order, so the order in which edits are written changes no bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.steering_spec import Edit
from mistudio.ml.sae.base import SparseAutoencoder

ENCODE_ENTRIES = 1 << 23  # pre-activations held at a time


@dataclass(frozen=True)
class Steering:
    """Edits in the SAE's own units, ready to act; K edits in rising feature order.

    `values_K` is alpha of an ADD or c of a SET; `sets_K` tells which are SET. `directions_KD`
    are decoder rows in residual units, fp32, on the model's device.
    """

    sae: SparseAutoencoder
    features: tuple[int, ...]
    values_K: torch.Tensor
    sets_K: tuple[bool, ...]
    directions_KD: torch.Tensor

    @property
    def acts(self) -> bool:
        """Whether the edits can change anything at all: an ADD of 0 cannot."""
        pairs = zip(self.sets_K, self.values_K.tolist(), strict=True)
        return any(is_set or value != 0 for is_set, value in pairs)

    @torch.no_grad()
    def delta(self, x_TD: torch.Tensor, read_TD: torch.Tensor | None = None) -> torch.Tensor:
        """What is added to x [T, D], fp32; zero rows where the edits change nothing.

        `read_TD` is what the SAE reads, of the same tokens, where that is not x: a transcoder's
        directions are added to what it gives, and its activations come from what it reads.
        """
        x_TD = x_TD.float()
        total_TD = torch.zeros_like(x_TD)
        own_TK = None
        if any(self.sets_K):
            own_TK = self._activations(x_TD if read_TD is None else read_TD.float())
        for k, is_set in enumerate(self.sets_K):
            if is_set:
                assert own_TK is not None
                total_TD += (self.values_K[k] - own_TK[:, k, None]) * self.directions_KD[k]
            elif self.values_K[k] != 0:
                total_TD += self.values_K[k] * self.directions_KD[k]
        return total_TD

    def _activations(self, x_TD: torch.Tensor) -> torch.Tensor:
        """The steered features' own activations [T, K], from a whole encode (TopK needs it)."""
        step = max(1, ENCODE_ENTRIES // self.sae.n_latents)
        columns = torch.tensor(self.features, device=x_TD.device)
        parts = [self.sae.encode(part)[:, columns].float() for part in x_TD.split(step)]
        return torch.cat(parts)


def prepare(
    edits: Sequence[Edit],
    sae: SparseAutoencoder,
    unit: str,
    largest: Mapping[int, float],
    width: int,
    device: torch.device,
) -> Steering:
    """Edits with their values turned into activations and their directions gathered.

    `unit` "max" multiplies by the feature's largest activation in `largest`, "raw" takes values
    as they are. Raises `InvalidInput` for a feature that does not exist, is named twice or has no
    largest activation, and `Mismatch` if the SAE does not write vectors of `width`.
    """
    if sae.d_out != width:
        raise Mismatch(
            f"The SAE writes vectors of width {sae.d_out:,}, the model's stream is {width:,} wide; "
            "choose the model it was trained on."
        )
    ordered = sorted(edits)
    features = tuple(edit.feature for edit in ordered)
    values = []
    for index, edit in enumerate(ordered):
        if index and features[index - 1] == edit.feature:
            raise InvalidInput(f"Feature {edit.feature:,} is named twice; give it one edit.")
        if not 0 <= edit.feature < sae.n_latents:
            raise InvalidInput(
                f"Feature {edit.feature:,} does not exist; the SAE has {sae.n_latents:,} latents "
                f"(0 to {sae.n_latents - 1:,})."
            )
        scale = largest.get(edit.feature, 0.0) if unit == "max" else 1.0
        if unit == "max" and not scale > 0:
            raise InvalidInput(
                f"The largest activation of feature {edit.feature:,} is not known. Find the "
                "features of this SAE first, or use the raw unit."
            )
        values.append(edit.value * scale)
    sae = sae.to(device)
    rows = torch.tensor(features, dtype=torch.int64, device=device)
    return Steering(
        sae,
        features,
        torch.tensor(values, dtype=torch.float32, device=device),
        tuple(edit.operator == "clamp" for edit in ordered),
        sae.W_dec_FO[rows].float(),
    )
