"""How much of a concept other features carry in place of those that stand for it.

A probe tells what a token's vector holds of the concept. Where the concept's main features carry
less of it than the probe finds, and few other features whose decoder rows point the same way carry
the rest, these have absorbed it (Chanin et al. 2024; SAEBench's absorption fraction).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.analysis_configs import LEAST_PROMPTS
from mistudio.core.errors import InvalidInput, Mismatch, NotFound
from mistudio.ml.features.labels.auroc import auroc
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.directions import direction

ABSORBERS = 3  # other features that may carry the concept on one token
LEAST_COSINE = 0.1  # of an absorber's decoder row and the probe
LEAST_SHARE = 0.4  # of the projection that absorbers must carry
NOBODY = -1
_AT_ONCE = 256  # vectors that are encoded at a time


class Carried(NamedTuple):
    """Of N vectors: `projection_N`, what latents could carry of it on the probe; `main_N`, what the
    main features carry; `absorber_NK` the features that carry most besides and `absorbed_NK` what
    each does (`NOBODY` and 0 behind the last). `fraction_N` is NaN where the projection is not
    positive: the probe does not find the concept there."""

    projection_N: NDArray[np.float64]
    main_N: NDArray[np.float64]
    absorber_NK: NDArray[np.int64]
    absorbed_NK: NDArray[np.float64]
    fraction_N: NDArray[np.float64]


class Absorption(NamedTuple):
    """`carried` by the positive prompts, each read with a probe that was fitted without it; the
    AUROC of those projections against the negative ones' ."""

    carried: Carried
    auroc: float


def fraction(
    projection_N: NDArray[np.float64],
    main_N: NDArray[np.float64],
    absorbed_N: NDArray[np.float64],
) -> NDArray[np.float64]:
    """min(A, P - M) / (min(A, P - M) + M), with P the projection, M what the main features and A
    what the absorbers carry of it; 0 where A / P < `LEAST_SHARE` or M >= P, else 1 where M <= 0;
    NaN where P <= 0."""
    missing_N = np.minimum(absorbed_N, projection_N - main_N)
    with np.errstate(divide="ignore", invalid="ignore"):
        found_N = missing_N / (missing_N + main_N)
        found_N = np.where(main_N <= 0, 1.0, found_N)
        none_N = (absorbed_N / projection_N < LEAST_SHARE) | (main_N >= projection_N)
    return np.where(projection_N > 0, np.where(none_N, 0.0, found_N), np.nan)


@torch.inference_mode()
def carried(
    sae: SparseAutoencoder, x_ND: torch.Tensor, probe_D: NDArray[np.float64], main: Sequence[int]
) -> Carried:
    """What a probe finds in vectors at the SAE's hook, and which features carry it.

    The decoder's bias is taken from the vectors first: no latent can carry it. Raises `Mismatch`
    for a transcoder, whose directions stand at another hook, and `NotFound` for a feature that the
    SAE has not.
    """
    if sae.is_transcoder:
        raise Mismatch("A transcoder writes at another hook than it reads; absorption needs one.")
    for number in main:
        if not 0 <= number < sae.n_latents:
            raise NotFound(f"Feature {number:,} does not exist; the SAE has {sae.n_latents:,}.")
    unit_D = torch.as_tensor(probe_D / np.linalg.norm(probe_D), device=sae.device)
    rows_FD = sae.W_dec_FO.double()
    along_F = rows_FD @ unit_D
    able_F = along_F >= LEAST_COSINE * rows_FD.norm(dim=1)
    mains = torch.tensor(list(main), dtype=torch.int64, device=sae.device)
    able_F[mains] = False
    parts: list[list[NDArray[np.float64]]] = []
    for x_BD in x_ND.split(_AT_ONCE):
        x_BD = x_BD.to(sae.device, sae.W_enc_DF.dtype)
        f_BF = sae.encode(x_BD).double()
        bias_BD = sae.decode(torch.zeros_like(f_BF).to(x_BD.dtype), x_BD).double()
        part_BF = f_BF * along_F
        most = part_BF.where(able_F & (part_BF > 0), 0.0).topk(min(ABSORBERS, sae.n_latents), dim=1)
        found = (
            (x_BD.double() - bias_BD) @ unit_D,
            part_BF[:, mains].sum(1),
            most.indices.where(most.values > 0, NOBODY).double(),
            most.values,
        )
        parts.append([each.cpu().numpy() for each in found])
    projection_N, main_N, who_NK, what_NK = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    found_N = fraction(projection_N, main_N, what_NK.sum(1))
    return Carried(projection_N, main_N, who_NK.astype(np.int64), what_NK, found_N)


def absorption(
    sae: SparseAutoencoder,
    positive_ND: NDArray[np.float64],
    negative_MD: NDArray[np.float64],
    main: Sequence[int],
    check: Callable[[float], None] = lambda _done: None,
) -> Absorption:
    """Absorption of the concept that tells two lists of vectors apart.

    The probe is the difference of their means. Every second prompt of both lists is read with the
    probe of the others, and these with that of the first. Raises `InvalidInput` for lists too short
    or too much alike, and as `carried` does.
    """
    if min(len(positive_ND), len(negative_MD)) < LEAST_PROMPTS:
        raise InvalidInput(
            f"Each list needs at least {LEAST_PROMPTS} prompts: the probe is fitted on one half "
            "and read on the other."
        )
    halves: list[tuple[NDArray[np.int64], Carried]] = []
    against_M = np.empty(len(negative_MD))
    for half in (0, 1):
        check(half / 2)
        own_N = np.flatnonzero(np.arange(len(positive_ND)) % 2 == half)
        own_M = np.flatnonzero(np.arange(len(negative_MD)) % 2 == half)
        rest = np.delete(positive_ND, own_N, 0), np.delete(negative_MD, own_M, 0)
        probe_D = direction(*rest, "mean").v_D
        halves.append((own_N, carried(sae, torch.from_numpy(positive_ND[own_N]), probe_D, main)))
        against_M[own_M] = carried(
            sae, torch.from_numpy(negative_MD[own_M]), probe_D, main
        ).projection_N
    order_N = np.argsort(np.concatenate([own_N for own_N, _ in halves]))
    found = Carried(
        *(
            np.concatenate(column)[order_N]
            for column in zip(*(each for _, each in halves), strict=True)
        )
    )
    apart = auroc(found.projection_N[None], against_M[None])
    return Absorption(found, float(apart[0]))
