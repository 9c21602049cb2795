"""What an ablation needs besides its settings, kept from one job to the next of the same SAE."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mistudio.jobs import lookup, sae_library
from mistudio.jobs.runner import Studio
from mistudio.store.records import FeatureSetRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.clean_reads import KeptReads
    from mistudio.ml.features.rerun import Rerun
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.sae.base import SparseAutoencoder

_NAME = "ablation"


class Bench(NamedTuple):
    """The loaded model with its probed repetition, the SAE, and clean passes over windows."""

    loaded: LoadedModel
    rerun: Rerun
    sae: SparseAutoencoder
    kept: KeptReads


def bench(studio: Studio, row: SaeRow, found: FeatureSetRow, window_tokens: int) -> Bench:
    """The bench of the last job if nothing it was made from has changed, else a new one.

    It goes with the model: nothing of it stays when that is unloaded.
    """
    from mistudio.ml.features.clean_reads import KeptReads
    from mistudio.ml.features.rerun import Rerun

    model = lookup.model_of(studio, row)
    loaded = studio.models.get(model, studio.paths.absolute(model.path))
    places = (row.layer, row.hook_in, row.hook_out)
    key = (row.id, row.weights_hash, places, found.store_hash, window_tokens)
    held = studio.models.beside.get(_NAME)
    if held is not None and held[0] == key and held[1].loaded is loaded:
        made: Bench = held[1]
        return made
    studio.models.beside.pop(_NAME, None)
    sae = sae_library.read_sae(studio, row).to(loaded.device)
    rerun = Rerun(
        loaded, row.layer or 0, row.hook_in or "", row.hook_out, most_tokens=window_tokens
    )
    made = Bench(loaded, rerun, sae, KeptReads())
    studio.models.beside[_NAME] = (key, made)
    return made
