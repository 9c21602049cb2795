"""Turns ids into text as they arrive, holding back characters that are not complete yet."""

from __future__ import annotations

from typing import Any

_INCOMPLETE = "\ufffd"


class TextStream:
    """The text of a growing list of token ids, after a prompt whose text is not part of it."""

    def __init__(self, tokenizer: Any, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        # A few prompt tokens give the first generated one its context (a leading space).
        self._ids = list(prompt_ids[-8:])
        self._prefix, self._read = 0, len(self._ids)
        self.text = ""

    def add(self, token: int) -> str:
        """Append a token and return the whole text so far."""
        self._ids.append(token)
        self._take(whole=False)
        return self.text

    def finish(self) -> str:
        """The whole text, with whatever was held back."""
        self._take(whole=True)
        return self.text

    def _take(self, *, whole: bool) -> None:
        known = self._decode(self._prefix, self._read)
        grown = self._decode(self._prefix, len(self._ids))
        if not whole and grown.endswith(_INCOMPLETE):
            return
        if len(grown) > len(known):
            self.text += grown[len(known) :]
            self._prefix, self._read = self._read, len(self._ids)

    def _decode(self, low: int, high: int) -> str:
        return self._tokenizer.decode(
            self._ids[low:high], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
