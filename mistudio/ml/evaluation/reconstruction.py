"""How well an SAE reconstructs activations: sums pooled in float64 and the metrics they give.

Everything is pooled over tokens, so the figures do not
depend on how tokens are cut into batches; `ev_legacy`, defined by batch, is the exception.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.selection import SparseCodes

GROUPS = 2000  # documents are resampled one by one up to this many, beyond in as many groups
RESAMPLES = 1000
HISTOGRAM = np.arange(-7.0, 0.01, 0.25)  # edges of log10 firing density
TINY = 1e-30


class Bootstrap:
    """Resamples documents with replacement, 1000 times, from a fixed seed."""

    def __init__(self, groups: int, seed: int = 0) -> None:
        """`groups` is the number of documents (or groups of them) that hold tokens."""
        generator = np.random.default_rng(seed)
        share = np.full(max(groups, 1), 1 / max(groups, 1))
        self._weights_RG = generator.multinomial(max(groups, 1), share, size=RESAMPLES)

    def sums(self, per_group: np.ndarray) -> np.ndarray:
        """Sums of each resample [R, ...] of per-group sums [G, ...]."""
        return self._weights_RG @ per_group

    @staticmethod
    def interval(values_R: np.ndarray) -> list[float] | None:
        """The 95 % interval of a statistic's resamples; None if it is not defined."""
        finite = values_R[np.isfinite(values_R)]
        if finite.size == 0:
            return None
        low, high = np.percentile(finite, [2.5, 97.5])
        return [float(low), float(high)]


class ReconstructionSums:
    """Running sums over batches of kept tokens."""

    def __init__(self, d_out: int, n_latents: int, groups: int) -> None:
        self.tokens = 0
        self._groups = groups
        self._firings_F = torch.zeros(n_latents, dtype=torch.int64)
        self._l0_counts = np.zeros(1, dtype=np.int64)
        self._scalars: dict[str, float] = dict.fromkeys(
            ("l1", "nmse", "cossim", "l2_ratio", "ev_legacy", "dot", "recon_square"), 0.0
        )
        self._error_sum_O = torch.zeros(d_out, dtype=torch.float64)
        self.count_G = np.zeros(groups)
        self._error_G = np.zeros(groups)
        self._square_G = np.zeros(groups)
        self._l0_G = np.zeros(groups)
        self._sum_GO = np.zeros((groups, d_out))

    def add(
        self, y_TO: torch.Tensor, recon_TO: torch.Tensor, codes: SparseCodes, group_T: np.ndarray
    ) -> None:
        """Take in kept tokens: target, reconstruction, active latents, group of each token."""
        if y_TO.shape[0] == 0:
            return
        y, recon = y_TO.double().cpu(), recon_TO.double().cpu()
        error = y - recon
        error_T, y_T, recon_T = (t.square().sum(1) for t in (error, y, recon))
        dot_T = (y * recon).sum(1)
        spread_T = (y - y.mean(0)).square().sum(1)
        norms_T = (y_T * recon_T).sqrt()
        sums = {
            "l1": codes.values.double().sum(),
            "nmse": (error_T / y_T.clamp_min(TINY)).sum(),
            "cossim": (dot_T / norms_T.clamp_min(TINY)).sum(),
            "l2_ratio": (recon_T / y_T.clamp_min(TINY)).sqrt().sum(),
            "ev_legacy": (1 - error_T / spread_T.clamp_min(TINY)).sum(),
            "dot": dot_T.sum(),
            "recon_square": recon_T.sum(),
        }
        for name, value in sums.items():
            self._scalars[name] += float(value)
        l0_T = codes.l0.cpu().numpy()
        self.tokens += len(l0_T)
        self._firings_F += torch.bincount(codes.ids, minlength=len(self._firings_F)).cpu()
        counts = np.bincount(l0_T, minlength=len(self._l0_counts))
        counts[: len(self._l0_counts)] += self._l0_counts
        self._l0_counts = counts
        self._error_sum_O += error.sum(0)
        np.add.at(self.count_G, group_T, 1)
        np.add.at(self._error_G, group_T, error_T.numpy())
        np.add.at(self._square_G, group_T, y_T.numpy())
        np.add.at(self._l0_G, group_T, l0_T)
        np.add.at(self._sum_GO, group_T, y.numpy())

    def metrics(self) -> dict[str, Any]:
        """Every reconstruction and sparsity metric, with `n`; call after at least one token."""
        n = self.tokens
        error, square = float(self._error_G.sum()), float(self._square_G.sum())
        mean_O = self._sum_GO.sum(0) / n
        variation = square - n * float(mean_O @ mean_O)
        bias = float((self._error_sum_O / n).square().sum())
        fvu = error / variation if variation > 0 else math.nan
        centred = (error - n * bias) / variation if variation > 0 else math.nan
        means = {name: value / n for name, value in self._scalars.items()}
        found = {
            "n": n,
            "documents": int((self.count_G > 0).sum()),
            "fvu": fvu,
            "ev": 1 - fvu,
            "ev_legacy": means["ev_legacy"],
            "ev_zero": 1 - error / square if square > 0 else math.nan,
            "fve_centred": 1 - centred,
            "nmse": means["nmse"],
            "mse": error / n,
            "l0": float(self._l0_G.sum()) / n,
            **self._l0_percentiles(),
            "l1": means["l1"],
            "cossim": means["cossim"],
            "l2_ratio": means["l2_ratio"],
            "relative_reconstruction_bias": means["recon_square"] / means["dot"]
            if means["dot"]
            else math.nan,
            **self._densities(),
        }
        return {name: _plain(value) for name, value in found.items()}

    def intervals(self, bootstrap: Bootstrap, present: np.ndarray) -> dict[str, list[float] | None]:
        """95 % intervals of ev and l0 over documents; `present` selects groups with tokens."""
        n_R = bootstrap.sums(self.count_G[present])
        mean_RO = bootstrap.sums(self._sum_GO[present]) / n_R[:, None]
        variation_R = bootstrap.sums(self._square_G[present]) - n_R * (mean_RO**2).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ev_R = 1 - bootstrap.sums(self._error_G[present]) / variation_R
            l0_R = bootstrap.sums(self._l0_G[present]) / n_R
        return {"ev": bootstrap.interval(ev_R), "l0": bootstrap.interval(l0_R)}

    def _l0_percentiles(self) -> dict[str, int]:
        reached = np.cumsum(self._l0_counts) / self.tokens
        return {f"l0_p{p}": int(np.searchsorted(reached, p / 100 - 1e-12)) for p in (5, 50, 95)}

    def _densities(self) -> dict[str, Any]:
        density_F = self._firings_F.double().numpy() / self.tokens
        fired_F = density_F[density_F > 0]
        inside = np.clip(np.log10(fired_F), HISTOGRAM[0], HISTOGRAM[-1])
        never = int((density_F == 0).sum())
        return {
            "never_fired": never,
            "dead": never / len(density_F),
            "dead_bound": 3 / self.tokens,
            "density_histogram": np.histogram(inside, HISTOGRAM)[0].tolist(),
            "density_histogram_edges": HISTOGRAM.tolist(),
            "density_below_1e-6": float((density_F < 1e-6).mean()),
            "density_below_1e-5": float((density_F < 1e-5).mean()),
            "density_above_1e-2": float((density_F > 1e-2).mean()),
            "density_above_1e-1": float((density_F > 1e-1).mean()),
        }


def encoder_decoder_cosine(sae: SparseAutoencoder) -> float | None:
    """Mean over latents of cos(encoder column, decoder row); None for a transcoder."""
    if sae.d_in != sae.d_out:
        return None
    cosine_F = torch.nn.functional.cosine_similarity(sae.W_enc_DF.T, sae.W_dec_FO, dim=1)
    return float(cosine_F.double().mean())


def _plain(value: Any) -> Any:
    """A JSON value: None in place of a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
