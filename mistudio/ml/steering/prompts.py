"""A prompt as the model reads it: tokens, the text they come from, and who says what in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mistudio.core.errors import InvalidInput


@dataclass(frozen=True)
class Prompt:
    """Token ids and, where it is known, the text they were made from.

    `text` is the final text, chat template included. `spans` gives each token's first character
    and the one behind its last; `turns` gives role, first and last character of each chat turn.
    """

    ids: tuple[int, ...]
    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()
    turns: tuple[tuple[str, int, int], ...] = ()


def read_prompt(tokenizer: Any, text: str, *, chat: bool = False) -> Prompt:
    """Tokenise a prompt, as it is or as the user's turn of a chat.

    Raises `InvalidInput` for an empty prompt, or for a chat with a model that has no template.
    """
    if not text:
        raise InvalidInput("The prompt holds no text; write some words to continue.")
    turns: tuple[tuple[str, int, int], ...] = ()
    if chat:
        if not getattr(tokenizer, "chat_template", None):
            raise InvalidInput(
                "This model has no chat template: it continues text. Turn the chat template off."
            )
        said = text
        turn = [{"role": "user", "content": said}]
        text = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        start = text.find(said)
        if start < 0:  # some templates strip what is said
            said = said.strip()
            start = text.find(said)
        turns = _turns(text, start, len(said)) if start >= 0 and said else ()
    found = tokenizer(text, return_offsets_mapping=True, add_special_tokens=not chat)
    ids = tuple(int(i) for i in found["input_ids"])
    if not ids:
        raise InvalidInput("The prompt holds no text; write some words to continue.")
    spans = tuple((int(low), int(high)) for low, high in found["offset_mapping"])
    return Prompt(ids, text, spans, turns)


def _turns(text: str, start: int, length: int) -> tuple[tuple[str, int, int], ...]:
    """What the template puts before the user's words counts as the system's turn."""
    user = ("user", start, start + length)
    return (("system", 0, start), user) if start else (user,)
