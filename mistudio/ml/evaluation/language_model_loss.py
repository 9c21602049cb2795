"""What an SAE costs the language model: loss with its reconstruction in place of the activation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch.nn import functional

from mistudio.ml.data.token_store import PADDING
from mistudio.ml.hooks import Place, edit, listen
from mistudio.ml.loading import LoadedModel

Change = Callable[[torch.Tensor], torch.Tensor]
LOGIT_ENTRIES = 1 << 25  # logits of one pass (128 MB in float32)
CHUNK_ENTRIES = 1 << 22  # log-probabilities held at a time (16 MB)


class LossSums:
    """Cross-entropy in nats and KL(clean‖patched), summed in float64 per group of documents.

    A position counts if its own token is kept and the next token is no padding.
    """

    _NAMES = ("n", "clean", "sae", "zero", "kl_sae", "kl_zero")

    def __init__(self, groups: int) -> None:
        self._sums = {name: torch.zeros(groups, dtype=torch.float64) for name in self._NAMES}

    @property
    def tokens(self) -> int:
        """Predictions counted."""
        return int(self._sums["n"].sum())

    def add(self, group_T: np.ndarray, **per_token: torch.Tensor) -> None:
        """Add per-token values: clean, sae, zero, kl_sae, kl_zero."""
        group = torch.from_numpy(np.asarray(group_T, dtype=np.int64))
        self._sums["n"].index_add_(0, group, torch.ones(len(group), dtype=torch.float64))
        for name, values_T in per_token.items():
            self._sums[name].index_add_(0, group, values_T.double().cpu())

    def per_group(self) -> dict[str, np.ndarray]:
        """The sums by name, [G]."""
        return {name: values.numpy() for name, values in self._sums.items()}


class PatchedForwards:
    """Runs the model clean, with reconstructions in place, and with zeros at the hook."""

    def __init__(self, loaded: LoadedModel, place: Place) -> None:
        self._loaded, self._place = loaded, place

    @torch.inference_mode()
    def clean(self, ids_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Activations x_BSD at the hook and logits [B, S, V] of an untouched pass."""
        caught: list[torch.Tensor] = []

        def keep(x_BSD: torch.Tensor) -> torch.Tensor:
            caught.append(x_BSD)
            return x_BSD

        with changed(self._place, keep, ids_BS.shape):
            logits_BSV = self._logits(ids_BS)
        return caught[0], logits_BSV

    def clean_pair(
        self, ids_BS: torch.Tensor, read: Place
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `clean`, with the activations x_BSD at another place of the same pass before them."""
        caught: list[torch.Tensor] = []
        handle = listen(read, lambda x: caught.append(x.clone()))
        try:
            y_BSO, logits_BSV = self.clean(ids_BS)
        finally:
            handle.remove()
        return caught[0].view(*ids_BS.shape, -1), y_BSO, logits_BSV

    @torch.inference_mode()
    def losses(
        self,
        ids_BS: torch.Tensor,
        logits_BSV: torch.Tensor,
        keep_BS: torch.Tensor,
        scored_BS: torch.Tensor,
        recons_TO: Sequence[torch.Tensor],
    ) -> list[dict[str, torch.Tensor]]:
        """For each reconstruction, per scored position: cross-entropy and KL to the clean pass.

        A reconstruction replaces the activations of kept positions, the others keep theirs; zeros
        replace all. `scored_BS` are positions whose next token counts.
        """

        def patch(recon_TO: torch.Tensor) -> Change:
            def change(x_BSD: torch.Tensor) -> torch.Tensor:
                patched = x_BSD.clone()
                patched[keep_BS] = recon_TO.to(x_BSD.dtype)
                return patched

            return change

        target_T = ids_BS.to(logits_BSV.device).roll(-1, dims=1)[scored_BS]
        clean_TV = logits_BSV[scored_BS]
        clean_T = _losses(clean_TV, clean_TV, target_T)[0]
        found = []
        for change in (torch.zeros_like, *(patch(recon) for recon in recons_TO)):
            with changed(self._place, change, ids_BS.shape):
                patched_TV = self._logits(ids_BS)[scored_BS]
            found.append(_losses(patched_TV, clean_TV, target_T))
        zero_T, kl_zero_T = found[0]
        return [
            {"clean": clean_T, "zero": zero_T, "kl_zero": kl_zero_T, "sae": sae_T, "kl_sae": kl_T}
            for sae_T, kl_T in found[1:]
        ]

    def _logits(self, ids_BS: torch.Tensor) -> torch.Tensor:
        ids_BS = ids_BS.to(self._loaded.device)
        return self._loaded.model(input_ids=ids_BS, use_cache=False).logits


def _losses(
    patched_TV: torch.Tensor, clean_TV: torch.Tensor, target_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of the patched logits and KL(clean‖patched) per position, in float32."""
    step = max(1, CHUNK_ENTRIES // patched_TV.shape[1])
    losses: list[torch.Tensor] = []
    divergences: list[torch.Tensor] = []
    for start in range(0, len(target_T), step):
        part = slice(start, start + step)
        patched = functional.log_softmax(patched_TV[part].float(), dim=-1)
        clean = functional.log_softmax(clean_TV[part].float(), dim=-1)
        losses.append(functional.nll_loss(patched, target_T[part], reduction="none"))
        divergences.append(
            functional.kl_div(patched, clean, reduction="none", log_target=True).sum(-1)
        )
    if not losses:
        none = torch.zeros(0, device=patched_TV.device)
        return none, none
    return torch.cat(losses), torch.cat(divergences)


@contextmanager
def changed(place: Place, change: Change, shape: torch.Size) -> Iterator[None]:
    """While active, the activation x of a place is replaced by `change(x)`, given as [B, S, D]."""
    handle = edit(place, lambda x: change(x.view(*shape, -1)).view_as(x))
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
