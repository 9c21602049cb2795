"""Which tokens of a text may be steered, by absolute position."""

from __future__ import annotations

from typing import Any

import torch

RULES = ("all", "prompt", "generated")


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of tokens that carry no text: BOS, EOS, padding, chat markers."""
    found = set(tokenizer.all_special_ids)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found |= {index for index, token in added.items() if getattr(token, "special", False)}
    return frozenset(int(index) for index in found if index is not None)


def allowed(
    ids_BS: torch.Tensor,
    first_position: int,
    prompt_length: int,
    rule: str,
    special: frozenset[int],
) -> torch.Tensor:
    """Bool [B, S]: tokens that the rule names and that are not special.

    `first_position` is the absolute position of column 0; `rule` is one of `RULES`. Tokens of
    extreme norm are left out later, where their activation is known.
    """
    position_S = torch.arange(first_position, first_position + ids_BS.shape[1])
    position_S = position_S.to(ids_BS.device)
    if rule == "prompt":
        chosen_S = position_S < prompt_length
    elif rule == "generated":
        chosen_S = position_S >= prompt_length
    else:
        chosen_S = torch.ones_like(position_S, dtype=torch.bool)
    listed = torch.tensor(sorted(special), dtype=ids_BS.dtype, device=ids_BS.device)
    return chosen_S & ~torch.isin(ids_BS, listed)
