"""One feature's own activations, without encoding all features where that can be left out."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from mistudio.ml.activations.masking import keep_pair
from mistudio.ml.data.listed_rows import listed
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.sae.base import SparseAutoencoder

ENCODE_ENTRIES = 1 << 23  # pre-activations held at a time


@torch.inference_mode()
def own_values(
    sae: SparseAutoencoder, x_BSD: torch.Tensor, features_B: torch.Tensor
) -> torch.Tensor:
    """Activations [B, S] in float32: of each row the one feature that is named for it.

    x as `sae.in_context` gives it.
    What compares latents needs all of them, the others only this one's pre-activation.
    """
    if sae.compares:
        return _from_whole(sae, x_BSD, features_B)
    x_BSD, scale_BS1 = sae.encoder_input(x_BSD)
    h_BS = torch.einsum("bsd,db->bs", x_BSD, sae.W_enc_DF[:, features_B])
    h_BS = h_BS + sae.b_enc_F[features_B, None]
    a_BS = functional.relu(h_BS)
    if sae.threshold_F is not None and sae.architecture == "jumprelu":
        a_BS = a_BS * (h_BS > sae.threshold_F[features_B, None])
    if scale_BS1 is not None:
        a_BS = a_BS * scale_BS1[..., 0]
    return a_BS.float()


def _from_whole(
    sae: SparseAutoencoder, x_BSD: torch.Tensor, features_B: torch.Tensor
) -> torch.Tensor:
    length = x_BSD.shape[1]
    flat_TD = x_BSD.flatten(0, 1)
    column_T = features_B.repeat_interleave(length)
    step = max(1, ENCODE_ENTRIES // sae.n_latents)
    parts = [
        sae.encode(flat_TD[start : start + step]).gather(1, column_T[start : start + step, None])
        for start in range(0, len(flat_TD), step)
    ]
    return torch.cat(parts)[:, 0].float().view(-1, length)


def counted(
    x_BSD: torch.Tensor, y_BSO: torch.Tensor, mask_BS: np.ndarray, store: FeatureStore
) -> torch.Tensor:
    """Which tokens count, by the rule and the reference norms of the feature set: bool [B, S].

    Positions that the set skips are those of the rows as they are read now.
    """
    settings, summary = store.summary["settings"], store.summary
    read = float(settings["norm_cut"]) * float(summary["median_norm"])
    median_out = summary.get("median_norm_out")
    written = float(settings["norm_cut"]) * float(median_out) if median_out else None
    kept = keep_pair(
        x_BSD,
        y_BSO,
        listed(mask_BS, settings.get("skip_positions", ())),
        norm_limits=(read, written),
        mask_special=bool(settings["mask_special"]),
    )
    return kept.keep_BS
