"""What an SAE's files hold that is used as something else here, and what is said of it.

Readers say it in the metadata; an import keeps these entries in the SAE's row too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNSET_THRESHOLD = "threshold_unset"
"""a BatchTopK that has none yet is read as the TopK of its k"""
KEPT = (UNSET_THRESHOLD,)


def kept_of(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What of an SAE's metadata its row is to keep."""
    return {name: metadata[name] for name in KEPT if metadata.get(name)}


def read_as(told: Mapping[str, Any] | None) -> list[str]:
    """A sentence for each thing that is not used as it is in the files; `told` is an SAE's metadata
    or what its row kept of it."""
    sentences: list[str] = []
    if told and told.get(UNSET_THRESHOLD):
        sentences.append(
            "Its threshold was never set; the k largest latents of each token stand in."
        )
    return sentences
