"""What edits name, as tensors: SAEs at their places, and vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from mistudio.core.configs import STREAM_HOOKS
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.steering_spec import Direction, Feature, Source
from mistudio.ml.sae.base import SparseAutoencoder

# the order in which a block runs
_WITHIN_BLOCK = {
    name: number
    for number, name in enumerate(
        ("resid_pre", "attn_z", "attn_out", "resid_mid", "mlp_out", "resid_post")
    )
}


class Place(NamedTuple):
    """Where something is added to the model: a layer and one of its hooks."""

    layer: int
    hook: str

    @property
    def order(self) -> tuple[int, int]:
        """Earlier places come first."""
        return self.layer, _WITHIN_BLOCK.get(self.hook, len(_WITHIN_BLOCK))

    @property
    def words(self) -> str:
        """How results name it, such as "3.resid_post"."""
        return f"{self.layer}.{self.hook}"

    @property
    def is_stream(self) -> bool:
        """Whether directions there are those of the residual stream, as at other such places."""
        return self.hook in STREAM_HOOKS


@dataclass(frozen=True)
class PlacedSae:
    """An SAE with the place its directions are added at.

    `hook_in` is where a transcoder reads, "" for an SAE, which reads what it edits. `largest` holds
    each feature's largest activation on the text read, for the unit × max. `median_norm` is the
    median |x| at the place (M_L), None if it is not known.
    """

    sae: SparseAutoencoder
    layer: int
    hook: str
    hook_in: str = ""
    largest: Mapping[int, float] = field(default_factory=dict[int, float])
    median_norm: float | None = None

    @property
    def place(self) -> Place:
        return Place(self.layer, self.hook)

    @property
    def reads_elsewhere(self) -> bool:
        """Whether activations come from another hook than the one that is edited."""
        return self.hook_in not in ("", self.hook)


@dataclass(frozen=True)
class Vector:
    """A raw direction [D] in residual units, of any length, and the place it belongs to."""

    direction_D: torch.Tensor
    layer: int
    hook: str = "resid_post"
    median_norm: float | None = None


@dataclass(frozen=True)
class Library:
    """Everything that the edits of a run can name: SAEs by id, vectors by name.

    `norms` are median |x| at places that neither of these tells of.
    """

    saes: Mapping[str, PlacedSae] = field(default_factory=dict[str, PlacedSae])
    vectors: Mapping[str, Vector] = field(default_factory=dict[str, Vector])
    norms: Mapping[Place, float] = field(default_factory=dict[Place, float])


class Found(NamedTuple):
    """A source looked up: its place, direction (fp32) and the scales of its units."""

    place: Place
    direction_D: torch.Tensor
    largest: float | None
    median_norm: float | None


def find_sae(library: Library, name: str) -> PlacedSae:
    """An SAE of the library; raises `InvalidInput` if it is not there."""
    found = library.saes.get(name)
    if found is None:
        raise InvalidInput(f"The SAE {name!r} of this specification is not at hand.")
    return found


def find(library: Library, source: Source, width: int, device: torch.device) -> Found:
    """Look up a source.

    Raises `InvalidInput` for what does not exist and `Mismatch` if its width is not the model's.
    """
    if isinstance(source, Feature):
        return _feature(find_sae(library, source.sae), source, width, device)
    return _vector(library, source, width, device)


def _feature(placed: PlacedSae, source: Feature, width: int, device: torch.device) -> Found:
    sae = placed.sae
    if placed.place.is_stream and sae.d_out != width:
        raise Mismatch(
            f"The SAE writes vectors of width {sae.d_out:,}, the model's stream is {width:,} wide; "
            "choose the model it was trained on."
        )
    if not 0 <= source.index < sae.n_latents:
        raise InvalidInput(
            f"{source.words} does not exist; the SAE has {sae.n_latents:,} latents "
            f"(0 to {sae.n_latents - 1:,})."
        )
    direction_D = sae.W_dec_FO[source.index].float().to(device)
    largest = placed.largest.get(source.index)
    return Found(placed.place, direction_D, largest, placed.median_norm)


def _vector(library: Library, source: Direction, width: int, device: torch.device) -> Found:
    vector = library.vectors.get(source.name)
    if vector is None:
        raise InvalidInput(f"There is no vector {source.name!r}.")
    direction_D = vector.direction_D.float().to(device)
    layer = vector.layer if source.layer is None else source.layer
    place, own = Place(layer, source.hook or vector.hook), Place(vector.layer, vector.hook)
    if place != own and not (place.is_stream and own.is_stream):
        raise InvalidInput(
            f"{source.words} belongs to {own.words} and cannot act at {place.words}: only "
            "directions of the stream can be moved, and only to another place of it."
        )
    if place.is_stream and direction_D.shape != (width,):
        raise Mismatch(
            f"{source.words} has shape {tuple(direction_D.shape)}, the model's stream is "
            f"{width:,} wide."
        )
    if not torch.isfinite(direction_D).all():
        raise InvalidInput(f"{source.words} holds values that are no numbers.")
    return Found(place, direction_D, None, vector.median_norm if place == own else None)
