"""What an SAE costs the language model: loss with its reconstruction in place of the activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from mistudio.ml.activations.capture import first_tensor
from mistudio.ml.data.token_store import PADDING
from mistudio.ml.evaluation.reconstruction import Bootstrap
from mistudio.ml.loading import LoadedModel

Change = Callable[[torch.Tensor], torch.Tensor]
LOGIT_ENTRIES = 1 << 25  # logits held at a time (128 MB in float32)


class LossSums:
    """Cross-entropy in nats and KL(clean‖patched), summed per group of documents.

    A position counts if its own token is kept and the next token is no padding.
    """

    def __init__(self, groups: int) -> None:
        self.count_G = np.zeros(groups)
        self._sums: dict[str, np.ndarray] = {
            name: np.zeros(groups) for name in ("clean", "sae", "zero", "kl_sae", "kl_zero")
        }

    @property
    def tokens(self) -> int:
        """Predictions counted."""
        return int(self.count_G.sum())

    def add(self, group_T: np.ndarray, **per_token: torch.Tensor) -> None:
        """Add per-token values: clean, sae, zero, kl_sae, kl_zero."""
        np.add.at(self.count_G, group_T, 1)
        for name, values_T in per_token.items():
            np.add.at(self._sums[name], group_T, values_T.double().cpu().numpy())

    def metrics(self) -> dict[str, Any]:
        """ce_clean, ce_sae, ce_zero, ce_gap, ce_loss_score, kl_div, kl_div_score, ce_n."""
        n = self.tokens
        if n == 0:
            return {"ce_n": 0, "ce_loss_score": None, "ce_gap": None, "kl_div_score": None}
        total = {name: float(values.sum()) / n for name, values in self._sums.items()}
        return {
            "ce_n": n,
            "ce_clean": total["clean"],
            "ce_sae": total["sae"],
            "ce_zero": total["zero"],
            "ce_gap": total["sae"] - total["clean"],
            "ce_loss_score": _ratio(total["zero"] - total["sae"], total["zero"] - total["clean"]),
            "kl_div": total["kl_sae"],
            "kl_div_zero": total["kl_zero"],
            "kl_div_score": _ratio(total["kl_zero"] - total["kl_sae"], total["kl_zero"]),
        }

    def intervals(self, bootstrap: Bootstrap, present: np.ndarray) -> dict[str, Any]:
        """95 % interval of ce_loss_score over documents."""
        clean, sae, zero = (
            bootstrap.sums(self._sums[name][present]) for name in ("clean", "sae", "zero")
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            score_R = (zero - sae) / (zero - clean)
        return {"ce_loss_score": bootstrap.interval(score_R)}


class ThreeForwards:
    """Runs the model clean, with the SAE in place, and with zeros at the hook."""

    def __init__(self, loaded: LoadedModel, module: nn.Module) -> None:
        self._loaded, self._module = loaded, module

    @torch.inference_mode()
    def clean(self, ids_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations x_BSD at the hook and logits [B, S, V] of an untouched pass."""
        caught: list[torch.Tensor] = []

        def keep(x_BSD: torch.Tensor) -> torch.Tensor:
            caught.append(x_BSD)
            return x_BSD

        with changed(self._module, keep, ids_BS.shape):
            logits_BSV = self._logits(ids_BS)
        return caught[0], logits_BSV

    @torch.inference_mode()
    def losses(
        self,
        ids_BS: torch.Tensor,
        logits_BSV: torch.Tensor,
        keep_BS: torch.Tensor,
        scored_BS: torch.Tensor,
        recon_TO: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Per scored position: cross-entropy of the three passes and KL to the clean one.

        `recon_TO` replaces the activations of kept positions, the others keep theirs; zeros
        replace all. `scored_BS` are positions whose next token counts.
        """

        def patch(x_BSD: torch.Tensor) -> torch.Tensor:
            patched = x_BSD.clone()
            patched[keep_BS] = recon_TO.to(x_BSD.dtype)
            return patched

        target_T = ids_BS.to(logits_BSV.device).roll(-1, dims=1)[scored_BS]
        clean_TV = functional.log_softmax(logits_BSV[scored_BS].float(), dim=-1)
        found = {"clean": functional.nll_loss(clean_TV, target_T, reduction="none")}
        for name, change in (("sae", patch), ("zero", torch.zeros_like)):
            with changed(self._module, change, ids_BS.shape):
                logits_BSV = self._logits(ids_BS)
            other_TV = functional.log_softmax(logits_BSV[scored_BS].float(), dim=-1)
            found[name] = functional.nll_loss(other_TV, target_T, reduction="none")
            found[f"kl_{name}"] = functional.kl_div(
                other_TV, clean_TV, reduction="none", log_target=True
            ).sum(-1)
        return found

    def _logits(self, ids_BS: torch.Tensor) -> torch.Tensor:
        ids_BS = ids_BS.to(self._loaded.device)
        return self._loaded.model(input_ids=ids_BS, use_cache=False).logits


@contextmanager
def changed(module: nn.Module, change: Change, shape: torch.Size) -> Iterator[None]:
    """While active, the module's output x is replaced by `change(x)`, given as [B, S, D]."""

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        x = first_tensor(output)
        fresh = change(x.view(*shape, -1)).view_as(x)
        if isinstance(output, (tuple, list)):
            return type(output)((fresh, *output[1:]))
        return fresh

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def scored_positions(keep_BS: torch.Tensor, mask_BS: np.ndarray) -> torch.Tensor:
    """Kept positions whose next token, in the same row, is no padding."""
    scored = torch.zeros_like(keep_BS)
    following = torch.from_numpy(np.ascontiguousarray(mask_BS[:, 1:] != PADDING))
    scored[:, :-1] = keep_BS[:, :-1] & following.to(keep_BS.device)
    return scored


def rows_per_pass(context: int, vocab_size: int) -> int:
    """Rows whose logits stay within `LOGIT_ENTRIES`."""
    return max(1, LOGIT_ENTRIES // (context * vocab_size))


def _ratio(part: float, whole: float) -> float | None:
    ratio = part / whole if whole else math.nan
    return ratio if math.isfinite(ratio) else None
