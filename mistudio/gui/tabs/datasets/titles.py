"""How tokenisations are named in lists and choices."""

from __future__ import annotations

from collections.abc import Mapping

from mistudio.core.dataset_configs import HELD_OUT_SHARE
from mistudio.core.units import format_bytes, format_count
from mistudio.store.records import TokenizationRow


def tokenizer_of(row: TokenizationRow, model_names: Mapping[str, str]) -> str:
    """The tokenizer's readable name: of its model, else what it was called when it was used."""
    known = model_names.get(row.model_id or "")
    return known or str((row.statistics or {}).get("tokenizer") or "a tokenizer that is gone")


def title_of(row: TokenizationRow, model_names: Mapping[str, str]) -> str:
    """ "SmolLM2-135M, 512 tokens per row"."""
    return f"{tokenizer_of(row, model_names)}, {row.context:,} tokens per row"


def facts_of(row: TokenizationRow) -> str:
    """Arrangement, rows, tokens and size."""
    settings = row.settings
    packed = settings.get("arrangement") != "document"
    parts = ["packed" if packed else "one document per row"]
    if settings.get("column"):
        parts.append(f"column {settings['column']}")
    if settings.get("split"):
        parts.append(f"split {settings['split']}")
    if settings.get("special_tokens") is False:
        parts.append("no special tokens")
    if (share := float(settings.get("held_out_share", HELD_OUT_SHARE))) != HELD_OUT_SHARE:
        parts.append(f"{share:g} % held out")
    parts += [
        f"{format_count(row.rows)} rows",
        f"{format_count(row.tokens)} tokens",
        format_bytes(row.size_bytes),
    ]
    return " · ".join(parts)
