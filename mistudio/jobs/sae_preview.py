"""What importing an SAE of this machine would bring; callable in a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.configs import SaePlaceConfig
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.sae_readings import read_as
from mistudio.jobs import sae_places
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_places import Hooks

if TYPE_CHECKING:
    from mistudio.ml.sae.base import SparseAutoencoder
    from mistudio.store.records import ModelRow

LARGEST = 2_000_000_000  # bytes of weights that are read only to be shown


@dataclass(frozen=True)
class SaePreview:
    """What the files say. `missing` are the settings, of "model", "layer", "hook", "hook_out",
    that they leave open; `doubt` is a sentence about what they say that cannot be used."""

    format: str
    place: Path
    """the folder or file of the SAE, which may be below the one that was named"""
    size_bytes: int
    dtype: str
    """types of the stored numbers, "" where that cannot be told"""
    is_read: bool = True
    """False for files too large to be read before the import; all that follows is empty then"""
    encoder: str = ""
    architecture: str = ""
    d_in: int = 0
    d_out: int = 0
    n_latents: int = 0
    k: int | None = None
    model_name: str = ""
    """the model as the files call it"""
    model: str = ""
    """the model of the library that this is"""
    layer: int | None = None
    hook: str | None = None
    hook_out: str | None = None
    missing: tuple[str, ...] = ()
    doubt: str = ""
    read_as: str = ""
    """what of the files is used as something else, in sentences"""


def preview_sae(studio: Studio, path: str) -> SaePreview:
    """Detect and read an SAE without keeping it.

    It reads the weights, which can take seconds. Raises the `StudioError` that importing it
    would end with, whatever were named beside the path.
    """
    from mistudio.ml.formats.registry import detect
    from mistudio.ml.formats.stored import stored_dtype, weights_file

    found = detect(Path(path).expanduser())
    weights = weights_file(found)
    size = weights.stat().st_size if weights.is_file() else 0
    if size > LARGEST:
        told = stored_dtype(weights) if weights.suffix != ".pt" else ""
        return SaePreview(found.format.title, found.folder, size, told, is_read=False)
    sae, metadata = found.format.read(found.folder)
    model = sae_places.model_for(studio, SaePlaceConfig(), metadata)
    hooks, doubt = _hooks(sae, metadata, model)
    try:
        sae_places.check_fits(sae, model, hooks.layer, hooks.read)
    except Mismatch as error:
        model, doubt = None, error.sentence
    lacking = {
        "model": model is None,
        "layer": hooks.layer is None,
        "hook": hooks.read is None,
        "hook_out": sae.is_transcoder and hooks.written is None,
    }
    return SaePreview(
        found.format.title,
        found.folder,
        size,
        stored_dtype(weights),
        encoder=sae.encoder,
        architecture=sae.architecture,
        d_in=sae.d_in,
        d_out=sae.d_out,
        n_latents=sae.n_latents,
        k=sae.k,
        model_name=str(metadata.get("model_name") or ""),
        model=model.name if model else "",
        layer=hooks.layer,
        hook=hooks.read,
        hook_out=hooks.written if sae.is_transcoder else None,
        missing=tuple(name for name, lacks in lacking.items() if lacks),
        doubt=doubt,
        read_as=" ".join(read_as(metadata)),
    )


def _hooks(
    sae: SparseAutoencoder, metadata: Mapping[str, Any], model: ModelRow | None
) -> tuple[Hooks, str]:
    """Where it reads, and what is to be said about it.

    A hook that none of ours is counts as not known, for another can be named in its place.
    """
    if sae.is_transcoder and sae_places.reads_before_gain(metadata):
        layer = sae_places.read_hook_name(str(metadata.get("hook_name") or ""))[0]
        metadata = {**metadata, "hook_name": f"blocks.{layer or 0}.mlp.hook_in"}
        doubt = "" if model else "Its model is needed: the gain of a norm is taken from there."
        return _hooks_of(sae, metadata, SaePlaceConfig()), doubt
    try:
        return _hooks_of(sae, metadata, SaePlaceConfig()), ""
    except InvalidInput as error:
        named = SaePlaceConfig(hook="mlp_in" if sae.is_transcoder else "resid_post")
        try:
            known = _hooks_of(sae, metadata, named)
        except InvalidInput:
            raise error from None  # naming another hook would not help
        return known._replace(read=None), error.sentence.partition(" Name one with")[0]


def _hooks_of(sae: SparseAutoencoder, metadata: Mapping[str, Any], config: SaePlaceConfig) -> Hooks:
    return sae_places.hooks_for(config, metadata, is_transcoder=sae.is_transcoder)
