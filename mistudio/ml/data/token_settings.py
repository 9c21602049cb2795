"""The settings of a tokenisation, what they mean for a tokenizer, and when two are the same."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from mistudio.core.dataset_configs import HELD_OUT_SHARE
from mistudio.core.errors import InvalidInput
from mistudio.ml.facts import ModelFacts
from mistudio.ml.loading import tokenizer_fingerprint

ARRANGEMENTS = ("packed", "document")
START_TOKENS = ("model", "on", "off")
TRUNCATIONS = ("longest_first", "split", "do_not_truncate")
PADDINGS = ("max_length", "longest", "do_not_pad")
# Settings that older tokenisations have too; the hash holds others only where they differ.
_ALWAYS_HASHED = ("context", "arrangement", "start_token")


@dataclass(frozen=True)
class TokenizeSettings:
    """How text becomes rows."""

    context: int  # most tokens per row
    arrangement: str = "packed"  # or "document": each document in rows of its own
    start_token: str = "model"  # or "on", "off": whether rows start with BOS
    truncation: str = (
        "longest_first"  # of long documents: cut; "split"; "do_not_truncate": left out
    )
    padding: str = "max_length"  # or "longest", "do_not_pad"; of rows of one document
    special_tokens: bool = True  # start tokens and separators
    column: str = ""  # of the dataset, "" for its text
    split: str = ""  # of the dataset, "" for all
    skip_bad: bool = False  # leave out what the tokenizer refuses
    held_out_share: float = HELD_OUT_SHARE  # per cent, for evaluation and for calibration each

    def applied(self) -> TokenizeSettings:
        """The same with every setting that does not act at its default."""
        found = self
        if self.arrangement != "document":
            found = replace(found, truncation="longest_first", padding="max_length")
        if not self.special_tokens:
            found = replace(found, start_token="model")
        return found

    def check(self) -> None:
        """Raise `InvalidInput` for a value out of range."""
        least = 2 if self.special_tokens else 1
        if not least <= self.context <= 4096:
            raise InvalidInput(f"Context must lie between {least} and 4,096.")
        if not 0 < self.held_out_share < 50:
            raise InvalidInput("The held-out share must lie between 0 and 50 %.")
        for name, value, known in (
            ("Arrangement", self.arrangement, ARRANGEMENTS),
            ("Start token", self.start_token, START_TOKENS),
            ("Long documents", self.truncation, TRUNCATIONS),
            ("Padding", self.padding, PADDINGS),
        ):
            if value not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}.")


@dataclass(frozen=True)
class SpecialTokens:
    """What surrounds documents: ids, or None where the tokenizer has none or the rule says no."""

    bos: int | None  # at the start of each row
    separator: int | None  # after each document of a packed row: EOS, else BOS
    padding: int
    ids: frozenset[int]  # every special id of the tokenizer


def special_tokens(tokenizer: Any, settings: TokenizeSettings) -> SpecialTokens:
    """Apply the start-token rule. Raises `InvalidInput` if BOS is asked for but does not exist."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    on = settings.special_tokens
    if on and settings.start_token == "on" and bos is None:
        raise InvalidInput("This tokenizer has no BOS token; choose the start token model or off.")
    start = on and (
        settings.start_token == "on" or (settings.start_token == "model" and adds_bos(tokenizer))
    )
    padding = next((i for i in (tokenizer.pad_token_id, eos, bos) if i is not None), 0)
    separator = eos if eos is not None else bos
    return SpecialTokens(
        bos=bos if start else None,
        separator=separator if on and settings.arrangement == "packed" else None,
        padding=padding,
        ids=frozenset(int(i) for i in tokenizer.all_special_ids),
    )


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer by itself puts its BOS token before a text."""
    bos = tokenizer.bos_token_id
    return bos is not None and list(tokenizer("a")["input_ids"])[:1] == [bos]


def default_context(facts: ModelFacts) -> int:
    """The smaller of 512 and what the model allows."""
    return min(512, facts.max_positions or 512)


def settings_hash(settings: TokenizeSettings, tokenizer: Any) -> str:
    """SHA-256 of the settings and the tokenizer, as hex: equal means equal rows."""
    return hash_of(settings, tokenizer_fingerprint(tokenizer))


def hash_of(settings: TokenizeSettings, fingerprint: str) -> str:
    """`settings_hash` of a tokenizer whose fingerprint is known."""
    settings = settings.applied()
    plain = {f.name: f.default for f in fields(settings)}
    parts = {
        name: value
        for name, value in asdict(settings).items()
        if name in _ALWAYS_HASHED or value != plain[name]
    }
    parts["tokenizer"] = fingerprint
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
