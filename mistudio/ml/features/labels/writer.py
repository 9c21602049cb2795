"""A language model of the library as a writer and judge of labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from mistudio.core.errors import OutOfMemory
from mistudio.ml.features.labels.prompts import ANSWER_TOKENS, Prompt
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.generate import end_ids

PREFILL = 256  # tokens of a prompt per pass, so that a cancel acts soon
BATCH_TOKENS = {"cpu": 512, "cuda": 16_384}  # of judged prompts at a time
Check = Callable[[], None]


class Writer(Protocol):
    """Who answers: a model of the library or a server on this machine."""

    name: str

    def answer(self, prompt: Prompt, check: Check) -> str:
        """A short greedy answer; `check` may raise."""
        ...

    def fits(self, prompts: Sequence[Prompt], check: Check) -> list[float]:
        """P(1) / (P(0) + P(1)) of each prompt's answer."""
        ...


class LocalWriter:
    """A loaded model; one with a chat template is asked in its own format."""

    def __init__(self, loaded: LoadedModel, name: str) -> None:
        self.name = name
        self._loaded = loaded
        self._ends = end_ids(loaded)
        tokenizer = loaded.tokenizer
        self._chats = bool(getattr(tokenizer, "chat_template", None))
        # transformers 5.24 renamed the argument and the field of the output
        parameters = inspect.signature(loaded.model.forward).parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"
        self._digits = [_ids_of(tokenizer, digit) for digit in "01"]

    def answer(self, prompt: Prompt, check: Check) -> str:
        """At most `ANSWER_TOKENS` tokens, the likeliest each time, to the end of the line."""
        ids = self._ids(prompt)
        room = (self._loaded.facts.max_positions or len(ids) + ANSWER_TOKENS) - ANSWER_TOKENS
        ids = ids[-max(room, 1) :]
        found: list[int] = []
        cache: Any = None
        feed = ids
        while len(found) < ANSWER_TOKENS:
            logits_V, cache = self._forward(feed, cache, check)
            token = int(logits_V.argmax())
            if token in self._ends:
                break
            found.append(token)
            feed = [token]
            text = self._loaded.tokenizer.decode(found)
            if "\n" in text.strip("\n "):
                break
        return str(self._loaded.tokenizer.decode(found, skip_special_tokens=True))

    def fits(self, prompts: Sequence[Prompt], check: Check) -> list[float]:
        """Prompts of about equal length are read together, padded behind their ends."""
        ids = [self._ids(prompt) for prompt in prompts]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        found = [0.5] * len(ids)
        most = BATCH_TOKENS.get(self._loaded.device.type, 512)
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and len(ids[order[stop]]) * (stop - start + 1) <= most:
                stop += 1
            check()
            part = order[start:stop]
            for place, value in zip(part, self._judge([ids[i] for i in part]), strict=True):
                found[place] = value
            start = stop
        return found

    def _ids(self, prompt: Prompt) -> list[int]:
        tokenizer = self._loaded.tokenizer
        if not self._chats:
            return list(tokenizer(prompt.plain()).input_ids)
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user},
        ]
        try:
            text = self._templated(messages)
        except Exception:  # noqa: BLE001  a template's own code: some refuse a system message
            text = self._templated(
                [{"role": "user", "content": f"{prompt.system}\n\n{prompt.user}"}]
            )
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    def _templated(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._loaded.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )

    @torch.inference_mode()
    def _forward(self, ids: list[int], cache: Any, check: Check) -> tuple[torch.Tensor, Any]:
        """Logits behind the last id, and the cache with all ids in it."""
        logits_V = torch.empty(0)
        for start in range(0, len(ids), PREFILL):
            check()
            part = torch.tensor([ids[start : start + PREFILL]], device=self._loaded.device)
            try:
                output = self._loaded.model(
                    input_ids=part, use_cache=True, **{self._cache_name: cache}
                )
            except (torch.OutOfMemoryError, MemoryError) as error:
                raise _too_large(error) from error
            cache, logits_V = output[self._cache_name], output.logits[0, -1]
        return logits_V, cache

    @torch.inference_mode()
    def _judge(self, ids: list[list[int]]) -> list[float]:
        longest = max(len(one) for one in ids)
        # causal attention: what stands behind an end changes nothing before it
        pad = self._loaded.tokenizer.pad_token_id or 0
        device = self._loaded.device
        ids_BS = torch.tensor([one + [pad] * (longest - len(one)) for one in ids], device=device)
        size_B = torch.tensor([len(one) for one in ids], device=device)
        mask_BS = (torch.arange(longest, device=device) < size_B[:, None]).long()
        try:
            output = self._loaded.model(input_ids=ids_BS, attention_mask=mask_BS, use_cache=False)
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _too_large(error) from error
        logits_BV = output.logits[torch.arange(len(ids), device=device), size_B - 1].float()
        no_B, yes_B = (torch.logsumexp(logits_BV[:, d], dim=1) for d in self._digits)
        return torch.sigmoid(yes_B - no_B).tolist()


def _ids_of(tokenizer: Any, digit: str) -> list[int]:
    """The single tokens that read as a digit, with and without a blank before it."""
    found = []
    for text in (digit, f" {digit}"):
        ids = tokenizer(text, add_special_tokens=False).input_ids
        if ids and tokenizer.decode(ids[-1:]).strip() == digit:
            found.append(int(ids[-1]))
    return sorted(set(found))


def _too_large(error: BaseException) -> OutOfMemory:
    return OutOfMemory(
        "The texts do not fit into memory beside this model; free memory or take a smaller model.",
        details=str(error),
    )
