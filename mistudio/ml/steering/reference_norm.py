"""The median norm of the stream at a hook, measured where nobody has measured it before."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Mismatch
from mistudio.ml.activations.capture import Capture
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.positions import special_ids

ROW = 128  # tokens read together
TOKENS = 4096  # content tokens whose median is taken, as when features are found


@torch.inference_mode()
def measure_median_norm(
    loaded: LoadedModel,
    layer: int,
    hook: str,
    texts: Iterable[str],
    control: JobControl,
    tokens: int = TOKENS,
) -> float:
    """Median |x| over the first `tokens` content tokens of texts, each cut to one row.

    Special tokens and norms that are no numbers do not count. Raises as `Capture`, `Cancelled`,
    and `Mismatch` if the texts hold nothing that counts.
    """
    capture = Capture(loaded, layer, hook)
    special = torch.tensor(sorted(special_ids(loaded.tokenizer)), device=loaded.device)
    norms: list[torch.Tensor] = []
    count = 0
    for text in texts:
        control.check()
        ids = loaded.tokenizer(text, truncation=True, max_length=ROW)["input_ids"]
        if not ids:
            continue
        ids_BS = torch.tensor([ids], device=loaded.device)
        norm_S = capture(ids_BS)[0].float().norm(dim=1)
        kept = norm_S[~torch.isin(ids_BS[0], special) & norm_S.isfinite()]
        norms.append(kept.cpu())
        count += len(kept)
        if count >= tokens:
            break
    if not count:
        raise Mismatch("The text to measure the norm of the stream on holds no token that counts.")
    return float(torch.cat(norms)[:tokens].median())
