"""Which positions of a row an SAE of the library leaves out, wherever it is measured or used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import InvalidInput
from mistudio.core.listed_positions import (
    format_positions,
    kept_slice,
    left_out_by,
    read_positions,
    read_slice,
)

if TYPE_CHECKING:
    from mistudio.ml.data.row_table import RowTable
    from mistudio.ml.sae.base import SparseAutoencoder

OWN, SAELENS = "skip_positions", "seqpos_slice"  # in the files of an SAE


def told_to_others(text: str, context: int | None) -> dict[str, Any]:
    """What an SAE's files say of the positions `text` that its training on such rows skipped.

    SAELens's slice says it where one can; where none can, it keeps all and only our own key tells.
    """
    positions = read_positions(text)
    if not positions:
        return {SAELENS: [None]}
    kept = kept_slice(positions, context) if context else None
    return {SAELENS: kept or [None], OWN: format_positions(positions)}


def skipped_by(metadata: Mapping[str, Any], context: int) -> tuple[int, ...]:
    """The positions below `context` that an SAE leaves out, as its files tell, rising.

    Our own key goes before SAELens's slice. What cannot be read leaves none out (the import has
    said so).
    """
    own = metadata.get(OWN)
    try:
        if isinstance(own, str) and own:
            return tuple(position for position in read_positions(own) if position < context)
        return left_out_by(read_slice(metadata.get(SAELENS)), _context_size(metadata), context)
    except InvalidInput:
        return ()


def with_skipped(table: RowTable, *saes: SparseAutoencoder) -> RowTable:
    """The rows of a text without the positions that one of these SAEs leaves out."""
    from mistudio.ml.data.listed_rows import with_listed

    found = {p for sae in saes for p in skipped_by(sae.metadata, table.context)}
    return with_listed(table, sorted(found))


def remark(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """What is to be told of the positions that an imported SAE leaves out, and how urgently.

    ("", "") if its files name none.
    """
    own, size = metadata.get(OWN), _context_size(metadata)
    try:
        if isinstance(own, str) and own:
            skipped = read_positions(own)
        else:
            kept = read_slice(metadata.get(SAELENS))
            # of rows of unknown length the beginning shows what is left out
            reach = max((abs(end) for end in kept if end is not None), default=0)
            skipped = left_out_by(kept, size, size or reach + 1)
    except InvalidInput as error:
        return f"{error.sentence} No position is left out.", "warning"
    if not skipped:
        return "", ""
    told = (
        f"Positions {format_positions(skipped)} of a row are left out wherever this SAE is "
        "measured or its features are found, as its training left them out."
    )
    return told, "info"


def _context_size(metadata: Mapping[str, Any]) -> int | None:
    size = metadata.get("context_size")
    return size if isinstance(size, int) and size > 0 else None
