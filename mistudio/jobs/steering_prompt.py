"""What is known of a prompt before anything runs: its tokens, and whether the model can chat."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mistudio.jobs.runner import Studio
from mistudio.store.tables import MODELS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_TOKENS = 1_024  # of a prompt


class PromptFacts(NamedTuple):
    """None where the model's files do not say."""

    tokens: int | None
    has_template: bool | None


def prompt_facts(studio: Studio, model_id: str, text: str) -> PromptFacts:
    """Tokens of a prompt as it is fed without a chat template, by the model's tokenizer.json."""
    row = MODELS.find(studio.db(), model_id)
    if row is None:
        return PromptFacts(None, None)
    folder = studio.paths.absolute(row.path)
    path = folder / "tokenizer.json"
    try:
        tokens = len(_tokenizer(path, path.stat().st_mtime_ns).encode(text).ids)
    except Exception:  # noqa: BLE001 - the library raises bare exceptions for odd files
        tokens = None
    return PromptFacts(tokens, _has_template(folder))


@lru_cache(maxsize=4)
def _tokenizer(path: Path, changed_at: int) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(path))


def _has_template(folder: Path) -> bool | None:
    if not folder.is_dir():
        return None
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        return bool(
            json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
        )
    except (OSError, ValueError, AttributeError):
        return False
