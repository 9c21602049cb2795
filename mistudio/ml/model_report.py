"""How far a model in one format is from its 16-bit form: agreement, divergence, perplexity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.nn import functional

from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.model_configs import format_of
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.device import half_dtype
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.read_weights import Step, no_step

_LARGEST = 700.0  # nats; beyond this a perplexity is no number
CHUNK_LOGITS = 1 << 24  # logits turned into distributions at a time (64 MB each)


@dataclass(frozen=True)
class Comparison:
    """Means over `tokens` next-token predictions of both models on the same text.

    `agreement` is the share whose likeliest token is the same, `kl` the mean of
    KL(reference‖judged) in nats, the perplexities are exp(mean -log p(true next token)).
    """

    tokens: int
    agreement: float
    kl: float
    perplexity: float
    reference_perplexity: float

    def to_dict(self) -> dict[str, float | int]:
        """Plain JSON values."""
        return asdict(self)


def load_reference(
    path: Path, device: torch.device, *, allow_code: bool = False, step: Step = no_step
) -> LoadedModel:
    """The 16-bit form that others are judged against.

    Its weights are rounded to the device's 16-bit type. On a CPU it computes in float32, so that
    the rounding of its own arithmetic is no part of the difference; on a GPU in 16 bit, as it is
    used, since twice the memory is seldom free there.
    """
    half = format_of(str(half_dtype(device)).removeprefix("torch."))
    loaded = load_model(path, device, half, allow_code=allow_code, step=step)
    if device.type == "cpu":
        loaded.model.float()
    return loaded


@torch.inference_mode()
def compare(
    reference: LoadedModel,
    judged: LoadedModel,
    rows: Iterable[torch.Tensor],
    step: Callable[[int], None] = lambda _tokens: None,
) -> Comparison:
    """Compare two models on rows of token ids [S], each read from an empty context.

    Each row gives S - 1 predictions. Probabilities are taken in float32 and summed in float64.
    `step` gets the predictions made so far and may raise. Raises `InvalidInput` if no row has two
    tokens.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    count = 0
    for ids_S in rows:
        if len(ids_S) < 2:
            continue
        step(count)
        check_ids(ids_S[None], judged.facts.vocab_size)
        reference_SV = _logits(reference, ids_S)
        judged_SV = _logits(judged, ids_S)
        next_S = ids_S[1:].to(judged_SV.device)
        part = max(1, CHUNK_LOGITS // judged_SV.shape[1])
        for start in range(0, len(next_S), part):
            chunk = slice(start, start + part)
            sums += _sums(reference_SV[chunk], judged_SV[chunk], next_S[chunk])
        count += len(next_S)
    if not count:
        raise InvalidInput("There is no text to compare the models on: every row is too short.")
    agreed, kl, own, other = (sums / count).tolist()
    if not all(value < _LARGEST for value in (kl, own, other)):
        raise Unsupported(
            "One of the models gives probabilities that are no numbers; choose another format.",
            code="not_finite",
        )
    return Comparison(count, agreed, kl, math.exp(own), math.exp(other))


def _logits(loaded: LoadedModel, ids_S: torch.Tensor) -> torch.Tensor:
    output = loaded.model(input_ids=ids_S[None].to(loaded.device), use_cache=False)
    return output.logits[0, :-1]


def _sums(
    reference_TV: torch.Tensor, judged_TV: torch.Tensor, next_T: torch.Tensor
) -> torch.Tensor:
    """Sums over positions: agreement, KL, -log p of the judged, -log p of the reference."""
    reference_TV = functional.log_softmax(reference_TV.float(), 1)
    judged_TV = functional.log_softmax(judged_TV.float(), 1)
    kl_T = functional.kl_div(judged_TV, reference_TV, reduction="none", log_target=True).sum(1)
    own_T = judged_TV.gather(1, next_T[:, None])
    other_T = reference_TV.gather(1, next_T[:, None])
    agreed_T = judged_TV.argmax(1) == reference_TV.argmax(1)
    values = (agreed_T, kl_T, -own_T, -other_T)
    return torch.stack([value.double().sum() for value in values]).cpu()
