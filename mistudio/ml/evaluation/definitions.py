"""What each figure is: one function per number, of sums over kept tokens.

The same function gives the figure (sums over all documents) and its interval (sums over documents
drawn again). Sums: `n` tokens, `error` Σ‖e‖² with e = y − ŷ, `square` Σ‖y‖², `recon_square` Σ‖ŷ‖²,
`dot` Σ y·ŷ, `y` Σ y, `e` Σ e, `l0` Σ #{f ≠ 0}, `l1` Σ Σ|f|; over the `n_directed` tokens whose y
is not zero: `relative` Σ ‖e‖²/‖y‖², `cosine` Σ cos(y, ŷ), `lengths` Σ ‖ŷ‖/‖y‖; over `n_legacy`
tokens: `legacy` Σ ‖e‖²/‖y − ȳ_batch‖². Of the language model's loss, over predictions: `n`,
`clean`, `sae`, `zero` Σ cross-entropy in nats, `kl_sae`, `kl_zero` Σ KL(clean‖patched).
"""

from __future__ import annotations

import numpy as np

from mistudio.ml.evaluation.bootstrap import Definition, Sums


def variation(s: Sums) -> np.ndarray:
    """Σ‖y − ȳ‖² about the pooled mean; not a number where all y are the same."""
    found = s["square"] - np.square(s["y"]).sum(-1) / s["n"]
    # what is left of equal numbers after rounding is no variation
    return np.where(found > 1e-12 * s["square"], found, np.nan)


def fvu(s: Sums) -> np.ndarray:
    """Fraction of variance unexplained, Σ‖e‖² / Σ‖y − ȳ‖²."""
    return s["error"] / variation(s)


def ev(s: Sums) -> np.ndarray:
    """Explained variance, the headline: 1 − fvu. A constant error lowers it."""
    return 1 - fvu(s)


def ev_legacy(s: Sums) -> np.ndarray:
    """Mean over tokens of 1 − ‖e‖²/‖y − ȳ_batch‖²."""
    return 1 - s["legacy"] / s["n_legacy"]


def ev_zero(s: Sums) -> np.ndarray:
    """Share of the variance about zero, 1 − Σ‖e‖² / Σ‖y‖²."""
    return 1 - s["error"] / s["square"]


def fve_centred(s: Sums) -> np.ndarray:
    """1 − Σ_d var(e) / Σ_d var(y): blind to a constant error."""
    return 1 - (s["error"] - np.square(s["e"]).sum(-1) / s["n"]) / variation(s)


def nmse(s: Sums) -> np.ndarray:
    """Mean ‖e‖²/‖y‖²."""
    return s["relative"] / s["n_directed"]


def mse(s: Sums) -> np.ndarray:
    """Mean ‖e‖², summed over the width."""
    return s["error"] / s["n"]


def l0(s: Sums) -> np.ndarray:
    """Mean number of latents that are not zero."""
    return s["l0"] / s["n"]


def l1(s: Sums) -> np.ndarray:
    """Mean Σ|f|."""
    return s["l1"] / s["n"]


def cossim(s: Sums) -> np.ndarray:
    """Mean cos(y, ŷ)."""
    return s["cosine"] / s["n_directed"]


def l2_ratio(s: Sums) -> np.ndarray:
    """Mean ‖ŷ‖/‖y‖."""
    return s["lengths"] / s["n_directed"]


def relative_reconstruction_bias(s: Sums) -> np.ndarray:
    """E‖ŷ‖² / E[y·ŷ]; 1 means no shrinkage."""
    return s["recon_square"] / s["dot"]


def ce_clean(s: Sums) -> np.ndarray:
    """Cross-entropy of the untouched model, nats per token."""
    return s["clean"] / s["n"]


def ce_sae(s: Sums) -> np.ndarray:
    """Cross-entropy with the reconstruction in place, nats per token."""
    return s["sae"] / s["n"]


def ce_zero(s: Sums) -> np.ndarray:
    """Cross-entropy with zeros at the hook, nats per token."""
    return s["zero"] / s["n"]


def ce_gap(s: Sums) -> np.ndarray:
    """What the SAE costs: CE_sae − CE_clean, nats per token."""
    return (s["sae"] - s["clean"]) / s["n"]


def ce_loss_score(s: Sums) -> np.ndarray:
    """(CE_zero − CE_sae) / (CE_zero − CE_clean)."""
    return (s["zero"] - s["sae"]) / (s["zero"] - s["clean"])


def kl_div(s: Sums) -> np.ndarray:
    """Mean KL(clean‖with the SAE), nats."""
    return s["kl_sae"] / s["n"]


def kl_div_zero(s: Sums) -> np.ndarray:
    """Mean KL(clean‖with zeros), nats."""
    return s["kl_zero"] / s["n"]


def kl_div_score(s: Sums) -> np.ndarray:
    """(KL_zero − KL_sae) / KL_zero."""
    return (s["kl_zero"] - s["kl_sae"]) / s["kl_zero"]


RECONSTRUCTION: dict[str, Definition] = {
    define.__name__: define
    for define in (
        fvu,
        ev,
        ev_legacy,
        ev_zero,
        fve_centred,
        nmse,
        mse,
        l0,
        l1,
        cossim,
        l2_ratio,
        relative_reconstruction_bias,
    )
}
LOSS: dict[str, Definition] = {
    define.__name__: define
    for define in (
        ce_clean,
        ce_sae,
        ce_zero,
        ce_gap,
        ce_loss_score,
        kl_div,
        kl_div_zero,
        kl_div_score,
    )
}
