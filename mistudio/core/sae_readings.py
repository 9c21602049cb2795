"""What an SAE's files hold that is used as something else here, and what is said of it.

Readers say it in the metadata; an import keeps these entries in the SAE's row too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio.core.errors import Unsupported

UNSET_THRESHOLD = "threshold_unset"
"""a BatchTopK that has none yet is read as the TopK of its k"""
CROSS_LAYER, OUTPUT_LAYERS = "cross_layer", "output_layers"
"""a transcoder across layers is read with the sum of what each latent writes; into how many"""
KEPT = (UNSET_THRESHOLD, CROSS_LAYER, OUTPUT_LAYERS)


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
    if is_cross_layer(told):
        sentences.append(
            f"A transcoder across layers: what a latent writes into {_layers(told)} is added up to "
            "one row, so that features are exact and no layer's output is reconstructed."
        )
    return sentences


def is_cross_layer(told: Mapping[str, Any] | None) -> bool:
    """Whether its decoder is a sum over the layers that it writes into."""
    return bool(told and told.get(CROSS_LAYER))


def steers_by(told: Mapping[str, Any] | None) -> str:
    """What a steering with such a feature adds, where that is not what the feature does; or ""."""
    if not is_cross_layer(told):
        return ""
    return f"Adds here, at one layer, the sum of what the feature writes into {_layers(told)}."


def refuse_cross_layer(told: Mapping[str, Any] | None, what: str) -> None:
    """Raise `Unsupported` for what a sum over layers has no meaning for; `what` ends a sentence."""
    if is_cross_layer(told):
        raise Unsupported(
            "This transcoder writes into several layers and is read with the sum of all it "
            f"writes, so that {what}.",
            code="cross_layer",
        )


def _layers(told: Mapping[str, Any] | None) -> str:
    number = (told or {}).get(OUTPUT_LAYERS)
    return f"{number:,} layers" if isinstance(number, int) else "several layers"
