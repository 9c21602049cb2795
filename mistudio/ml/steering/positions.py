"""Which tokens of a text may be steered, by absolute position."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_positions import Positions, Range
from mistudio.ml.steering.prompts import Prompt


def special_ids(tokenizer: Any) -> frozenset[int]:
    """Ids of tokens that carry no text: BOS, EOS, padding, chat markers."""
    found = set(tokenizer.all_special_ids)
    added = getattr(tokenizer, "added_tokens_decoder", {})
    found |= {index for index, token in added.items() if getattr(token, "special", False)}
    return frozenset(int(index) for index in found if index is not None)


def ranges_of(rule: Positions, prompt: Prompt) -> tuple[Range, ...]:
    """The absolute positions that a rule names in a prompt and what follows it, half open.

    Raises `InvalidInput` if a text, pattern or role does not occur in the prompt.
    """
    length = len(prompt.ids)
    plain: dict[str, tuple[Range, ...]] = {
        "all": ((0, None),),
        "prompt": ((0, length),),
        "generated": ((length, None),),
        "last": ((length - 1, length),),
        "first": ((0, rule.count),),
        "ranges": rule.ranges,
    }
    if rule.rule in plain:
        return plain[rule.rule]
    if rule.rule == "role":
        spans = [(low, high) for role, low, high in prompt.turns if role == rule.role]
        behind: tuple[Range, ...] = ((length, None),) if rule.role == "assistant" else ()
        if not spans and not behind:
            raise InvalidInput(
                f"Nobody speaks as {rule.role} in this prompt; a role needs the chat template."
            )
        return (*_tokens(prompt, spans), *behind)
    pattern = rule.pattern if rule.rule == "regex" else re.escape(rule.pattern)
    spans = [match.span() for match in re.finditer(pattern, prompt.text)]
    found = _tokens(prompt, spans)
    if not found:
        raise InvalidInput(f"{rule.pattern!r} does not occur in the prompt, so nothing is steered.")
    return found


def _tokens(prompt: Prompt, spans: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """Tokens that share a character with a span."""
    wanted = list(spans)
    found: list[Range] = []
    for index, (low, high) in enumerate(prompt.spans):
        if any(low < end and start < high for start, end in wanted):
            if found and found[-1][1] == index:
                found[-1] = (found[-1][0], index + 1)
            else:
                found.append((index, index + 1))
    return tuple(found)


class Allowed:
    """Which tokens of each row may be steered, by their absolute position and id."""

    def __init__(
        self,
        ranges: Sequence[tuple[Range, ...]],
        steers_special: Sequence[bool],
        special: frozenset[int],
        device: torch.device,
    ) -> None:
        """One entry of `ranges` and of `steers_special` per row B."""
        most = max((len(parts) for parts in ranges), default=0) or 1
        never: Range = (0, 0)
        padded = [[*parts, *[never] * (most - len(parts))] for parts in ranges]
        end = 2**62
        lows = [[low for low, _ in parts] for parts in padded]
        highs = [[end if high is None else high for _, high in parts] for parts in padded]
        self._low_BR = torch.tensor(lows, device=device)
        self._high_BR = torch.tensor(highs, device=device)
        self._special = torch.tensor(sorted(special), dtype=torch.int64, device=device)
        self._steers_special_B = torch.tensor(list(steers_special), device=device)

    def __call__(self, ids_BS: torch.Tensor, position_BS: torch.Tensor) -> torch.Tensor:
        """Bool [B, S]; a negative position is padding and never steered.

        Tokens of extreme norm are left out later, where their activation is known.
        """
        place = position_BS[:, :, None]
        inside = (place >= self._low_BR[:, None]) & (place < self._high_BR[:, None])
        plain_BS = ~torch.isin(ids_BS, self._special) | self._steers_special_B[:, None]
        return inside.any(2) & plain_BS & (position_BS >= 0)
