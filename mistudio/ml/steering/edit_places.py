"""Where an edit may act, and which directions go together."""

from __future__ import annotations

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_spec import Edit, Source
from mistudio.ml.steering.sources import Found, Place


def further_places(edit: Edit, own: Place) -> list[Place]:
    """The residual streams of the further layers that an addition acts at."""
    places = [Place(layer, "resid_post") for layer in edit.layers]
    if own in places:
        raise InvalidInput(f"{edit.source.words} acts at layer {own.layer} already.")
    if places and not own.is_stream:
        raise InvalidInput(
            f"{edit.source.words} acts on the heads at {own.words}; its direction means nothing in "
            "the stream of further layers."
        )
    return places


def check_space(edit: Edit, own: Found, other: Source, found: Found) -> None:
    """Raise `InvalidInput` unless two directions are of one space."""
    if own.place != found.place and not (own.place.is_stream and found.place.is_stream):
        raise InvalidInput(
            f"{edit.source.words} ({own.place.words}) cannot go with {other.words} "
            f"({found.place.words}): directions of heads only go with others of the same layer's."
        )


def check_order(edit: Edit, place: Place, feature: int, read_at: Place) -> None:
    """Raise `InvalidInput` if the feature of a condition is read behind the place that it rules."""
    if read_at.order > place.order:
        raise InvalidInput(
            f"{edit.source.words} acts at {place.words} and can only depend on a feature read "
            f"there or before; feature {feature:,} is read at {read_at.words}."
        )
