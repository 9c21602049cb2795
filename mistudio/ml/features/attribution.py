"""Why this next token: what each feature adds to its logit directly, and to its loss overall.

Direct path only: a feature's part of the final stream at the position itself, through the final
norm and the output matrix. First order: one backward pass from the token's loss to the hook, at
every position; it follows all paths, but only as far as the model is linear there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.memory import QUANTISED
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.features.norms import norm_gain
from mistudio.ml.features.own_text import FiredText
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.features.sampling import hash_tokens
from mistudio.ml.features.stream_rows import StreamRows
from mistudio.ml.features.text_effects import direct_changes
from mistudio.ml.hooks import Place, edit, first_tensor
from mistudio.ml.lens import Unembed
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder


class Ending(NamedTuple):
    """One position's end of the model: its final stream [D] and its log-probabilities [V]."""

    stream_D: torch.Tensor
    log_p_V: torch.Tensor

    def probability(self, token: int) -> float:
        """That of one next token."""
        return float(self.log_p_V[token].exp())

    def likeliest(self, count: int) -> list[tuple[int, float]]:
        """The likeliest next tokens with their probabilities."""
        found = self.log_p_V.topk(min(count, len(self.log_p_V)))
        return list(zip(found.indices.tolist(), found.values.exp().tolist(), strict=True))


class Direct(NamedTuple):
    """Direct effects of A features active at one position; positive ones speak for the token.

    `effect_A`: log p(token) minus what it is without the feature's part of the final stream, norm
    and softcap applied anew. `logit_A`: a (d * gain) W_U[token] / sigma, the position's own norm
    scale frozen, before any softcap.
    """

    features_A: NDArray[np.int64]
    effect_A: NDArray[np.float64]
    logit_A: NDArray[np.float64]


@torch.inference_mode()
def ending(loaded: LoadedModel, ids_T: NDArray[np.int64], position: int) -> Ending:
    """Run a text and take what reaches the final norm at a position."""
    seen: list[torch.Tensor] = []
    handle = loaded.blocks.modules[-1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(first_tensor(output).detach())
    )
    try:
        ids_BT = torch.from_numpy(ids_T)[None].to(loaded.device)
        logits_V = loaded.model(input_ids=ids_BT, use_cache=False).logits[0, position]
    finally:
        handle.remove()
    stream_TD = seen[0].reshape(len(ids_T), -1)
    return Ending(stream_TD[position].float(), logits_V.float().log_softmax(-1))


@torch.inference_mode()
def direct_effects(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    end: Ending,
    features_A: NDArray[np.int64],
    values_A: NDArray[np.float64],
    token: int,
    check: Callable[[], None] = lambda: None,
    written: HookPoint | None = None,
) -> Direct:
    """Exact direct effects and lens logits of features active at a position, on one next token.

    `written` is where the SAE writes, None for the stream. Raises `Unsupported` if the model has no
    logit lens, and as `StreamRows`.
    """
    unembed = Unembed(loaded)
    rows_of = StreamRows(loaded, sae, written, exact=True)
    device = end.stream_D.device
    a_A = torch.as_tensor(values_A, dtype=torch.float32, device=device)
    part_AD = a_A[:, None] * rows_of(torch.from_numpy(features_A)).float().to(device)
    effect_A = direct_changes(
        unembed,
        end.stream_D[None],
        rows_of,
        np.zeros(len(features_A), np.int64),
        features_A,
        values_A,
        np.full(len(features_A), token, np.int64),
        lambda _done: check(),
    )
    column_D = unembed.column(token)
    gain = norm_gain(loaded.blocks, loaded.hidden_dim, device)
    if gain.centres:
        part_AD = part_AD - part_AD.mean(1, keepdim=True)
    sigma = norm_scale(loaded.blocks.final_norm, end.stream_D, gain.gain_D, gain.centres)
    logit_A = (part_AD * gain.gain_D) @ column_D / sigma
    return Direct(features_A, effect_A, logit_A.double().cpu().numpy())


def norm_scale(
    norm: nn.Module | None, stream_D: torch.Tensor, gain_D: torch.Tensor, centres: bool
) -> float:
    """What the final norm divides this vector by, measured, so that no family needs a case."""
    if norm is None:
        return 1.0
    dtype = next((p.dtype for p in norm.parameters()), torch.float32)
    x_D = stream_D - stream_D.mean() if centres else stream_D
    both_2D = norm(torch.stack([stream_D, -stream_D]).to(dtype)).float()
    odd_D = (both_2D[0] - both_2D[1]) / 2  # a bias cancels
    scaled_D = x_D * gain_D
    return float(scaled_D.dot(scaled_D) / odd_D.dot(scaled_D))


def hook_gradient(
    loaded: LoadedModel, place: Place, ids_T: NDArray[np.int64], position: int, token: int
) -> torch.Tensor:
    """Gradient [T, O] in float32, at a hook, of the loss of one next token in nats.

    Raises `Unsupported` with the reason where the model's kernels have no backward pass.
    """
    if loaded.format in QUANTISED:
        raise Unsupported(
            f"First-order attribution needs a backward pass, which the {loaded.format.upper()} "
            "kernels are not relied on for; load the model in 16 or 32 bit.",
            code="no_backward",
        )
    leaves: list[torch.Tensor] = []

    def cut(x: torch.Tensor) -> torch.Tensor:
        leaf = x.detach().clone().requires_grad_(True)
        leaves.append(leaf)
        return leaf

    handle = edit(place, cut)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            ids_BT = torch.from_numpy(ids_T.copy())[None].to(loaded.device)
            logits_V = loaded.model(input_ids=ids_BT, use_cache=False).logits[0, position]
            loss = -logits_V.float().log_softmax(-1)[token]
            (grad,) = torch.autograd.grad(loss, leaves[0])
    except (NotImplementedError, RuntimeError) as error:
        if "memory" in str(error).lower():
            raise
        raise Unsupported(
            "This model's kernels have no backward pass here, so there is no first-order "
            "attribution.",
            details=str(error),
            code="no_backward",
        ) from error
    finally:
        handle.remove()
    return grad.reshape(len(ids_T), -1).float()


@torch.no_grad()
def first_order(
    sae: SparseAutoencoder, fired: FiredText, grad_TO: torch.Tensor
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Features that fire on a text, rising, and of each -sum over tokens of a (gradient · d).

    That is the change of the loss, to first order, if the feature were taken out everywhere.
    """
    token_N = torch.from_numpy(fired.token_of()).to(sae.device)
    rows_N = torch.from_numpy(fired.features).to(sae.device)
    a_N = torch.as_tensor(fired.values, dtype=torch.float32, device=sae.device)
    grad_TO = grad_TO.to(sae.device)
    products = [
        (grad_TO[token_N[part]] * sae.W_dec_FO[rows_N[part]].float()).sum(1)
        for part in torch.arange(len(rows_N), device=sae.device).split(1 << 14)
    ]
    change_N = -(a_N * torch.cat(products)) if products else a_N
    features_A, where = np.unique(fired.features, return_inverse=True)
    total_A = np.bincount(where, change_N.double().cpu().numpy(), len(features_A))
    return features_A, total_A.astype(np.float64)


def first_order_none(fired: FiredText) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """As `first_order` where there is no gradient: the features, and no values."""
    features_A = np.unique(fired.features)
    return features_A, np.full(len(features_A), np.nan)


@torch.inference_mode()
def exact_changes(
    rerun: Rerun,
    sae: SparseAutoencoder,
    fired: FiredText,
    features: Sequence[int],
    position: int,
    token: int,
    check: Callable[[float], None] = lambda _done: None,
) -> NDArray[np.float64]:
    """The change of the token's loss when each feature is taken out everywhere: whole passes."""
    clean = rerun.clean(torch.from_numpy(fired.tokens.ids_T)[None])

    def loss_of(end_SE: torch.Tensor, at: int) -> float:
        logits_V = rerun.logits(end_SE[at][None])[0]
        return float(-logits_V.float().log_softmax(-1)[token])

    loss = loss_of(clean.end_BSE[0], position)
    found = []
    for number, feature in enumerate(features):
        check(number / max(len(features), 1))
        a_T = torch.as_tensor(fired.value_of(feature), dtype=torch.float32)
        direction_O = sae.W_dec_FO[feature].float()
        delta_1TO = (-a_T.to(direction_O.device)[:, None] * direction_O)[None]
        start = int(np.flatnonzero(fired.value_of(feature))[0])
        if start > position:
            found.append(0.0)
            continue
        end_QE = rerun.again(clean, torch.zeros(1, dtype=torch.long), delta_1TO, start)[0]
        at = position - len(fired.keep_T)  # counted from the end, whatever was left out before
        found.append(loss_of(end_QE, at) - loss)
    return np.array(found)


def sample(features_A: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` features chosen by a hash, rising."""
    hashes = hash_tokens(seed, features_A.astype(np.uint32), (1 << 31) - 1)
    return np.sort(features_A[np.argsort(hashes, kind="stable")[:count]])


def agreement(first: NDArray[np.float64], exact: NDArray[np.float64]) -> float | None:
    """Pearson's r; None for fewer than three pairs or where one side is constant."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(exact):
        return None
    return float(np.corrcoef(first, exact)[0, 1])


def choose_token(end: Ending, wanted: int | None) -> int:
    """The token asked about: the named one, else the model's likeliest."""
    if wanted is None:
        return int(end.log_p_V.argmax())
    if not 0 <= wanted < len(end.log_p_V):
        raise InvalidInput("This token is not of the model's vocabulary.")
    return wanted
