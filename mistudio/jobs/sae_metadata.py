"""What the files of an SAE tell other programs: its model, where it reads, on which text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.configs import SaePlaceConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import skipped_positions
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_places import model_for, read_hook_name
from mistudio.store import trainings
from mistudio.store.records import (
    ActivationSetRow,
    ModelRow,
    SaeRow,
    TokenizationRow,
    TrainingRow,
)
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, MODELS, TOKENIZATIONS, TRAININGS

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel

MODEL_CLASS = "AutoModelForCausalLM"  # by which SAELens loads a model whose modules are named


class Source(NamedTuple):
    """What a run reads: a model, or stored vectors, which may tell of which model they are.

    `is_placed` says whether it is known which layer and hook that is.
    """

    model: ModelRow | None
    stored: ActivationSetRow | None
    is_placed: bool


def source_of(studio: Studio, training: TrainingRow, config: TrainConfig) -> Source:
    """Where the activations of a run come from, as far as it is still there."""
    db = studio.db()
    stored = ACTIVATION_SETS.find(db, training.activation_set_id or "")
    if config.model or stored is None:
        model = MODELS.find(db, training.model_id or config.model)
        return Source(model, stored, bool(config.model))
    placed = int(stored.config.get("layer", -1)) >= 0
    return Source(MODELS.find(db, stored.model_id or ""), stored, placed)


def of_training(
    studio: Studio,
    training: TrainingRow,
    config: TrainConfig,
    steps: int,
    loaded: LoadedModel | None = None,
) -> dict[str, Any]:
    """What is known of an SAE that a run has made after so many steps.

    The modules' paths are those of the loaded model; without one they are those that were found
    when the model was checked. `layer` and `hook` are left out where nobody knows them.
    """
    from mistudio.ml.hooks import place_metadata

    source = source_of(studio, training, config)
    told: dict[str, Any] = {
        "hook_head_index": None,
        "exclude_special_tokens": config.mask_special,
        "model_from_pretrained_kwargs": {},
        "training_architecture": config.architecture,
        "norm_cut": config.norm_cut,
        "trained_steps": steps,
    }
    written = None if config.encoder == "sae" else config.hook_written
    place = (config.layer, config.hook_read, written)
    if loaded is not None and source.is_placed:
        told |= place_metadata(loaded, *place)
    elif source.is_placed:
        told |= place_names(source.model, *place)
    elif source.stored is not None:
        told["hook_name"] = source.stored.name
    if source.model is not None:
        told["model_name"] = public_name(source.model)
    told |= _loading(told) | _of_text(studio, training, source.stored)
    return told | skipped_positions.told_to_others(config.skip_positions, told.get("context_size"))


def place_names(
    model: ModelRow | None, layer: int, hook_in: str, hook_out: str | None = None
) -> dict[str, Any]:
    """`ml.hooks.place_metadata` by what the model's row knows, without loading it."""
    from mistudio.ml.hooks import INPUT, named_place, reads_input

    tree: list[dict[str, Any]] = ((model.layer_map if model else None) or {}).get("tree") or []
    blocks = [row for row in tree if row.get("kind") == "block"]
    known: dict[str, str] = (blocks[layer].get("hooks") or {}) if layer < len(blocks) else {}
    paths = {hook: f"{path}{INPUT * reads_input(hook)}" for hook, path in known.items()}
    return named_place(layer, hook_in, hook_out, paths)


def public_name(model: ModelRow) -> str:
    """A model's name for others: its repository's on the Hub, or its own."""
    return model.repo_id or model.name


def for_export(studio: Studio, row: SaeRow, told: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be written of an SAE beside what its files tell (`told`), or in its place.

    What the files tell rightly stays as it is; what nobody knows is not made up.
    """
    added: dict[str, Any] = {}
    model = MODELS.find(studio.db(), row.model_id or "")
    training = TRAININGS.find(studio.db(), row.training_id or "")
    if training is not None:  # an older version has written less, and names of its own
        stored = ACTIVATION_SETS.find(studio.db(), training.activation_set_id or "")
        text = _of_text(studio, training, stored)
        added |= {n: v for n, v in text.items() if n not in told or n == "dataset_path"}
    keeps = False
    if row.layer is not None and row.hook_in is not None:
        written = row.hook_out if row.encoder_type != "sae" else None
        names = place_names(model, row.layer, row.hook_in, written)
        if row.origin != "trained":
            del names["tl_processing"]  # how its activations were made is not known
        keeps = row.source_format == "saelens" and _tells(told, names)
        if keeps:  # in SAELens's own notation
            names = {n: v for n, v in names.items() if told.get(n) is None}
        added |= names
        loading = _loading({**told, **added})
        added |= {n: v for n, v in loading.items() if not keeps or told.get(n) is None}
    name = told.get("model_name")
    if row.origin == "trained" or not (name and (keeps or _is_named(studio, row, told))):
        name = public_name(model) if model is not None else name or row.model_name
    return {**added, "model_name": name} if name else added


def _tells(told: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    """Whether the hooks that the files name are the very ones."""
    for suffix, hook in (("", "hook"), ("_out", "hook_out")):
        if hook in names:
            found = told.get("layer"), told.get(hook)
            if None in found:
                found = read_hook_name(str(told.get(f"hook_name{suffix}") or ""))
            if found != (names["layer"], names[hook]):
                return False
    return True


def _is_named(studio: Studio, row: SaeRow, told: Mapping[str, Any]) -> bool:
    """Whether the model that the files name is that of the SAE, or nobody knows another."""
    found = model_for(studio, SaePlaceConfig(), told)
    return row.model_id is None or (found is not None and found.id == row.model_id)


def _loading(told: Mapping[str, Any]) -> dict[str, str]:
    """How SAELens loads the model where the hook is named by a module's path."""
    path = told.get("hf_hook_name")
    return {"model_class_name": MODEL_CLASS} if path and told.get("hook_name") == path else {}


def _of_text(
    studio: Studio, training: TrainingRow, stored: ActivationSetRow | None
) -> dict[str, Any]:
    """What a run has read: its first text, or vectors without any."""
    db = studio.db()
    text = TOKENIZATIONS.find(db, trainings.tokenization_of(db, training.id) or "")
    if text is None:
        return {} if stored is None else {"dataset_path": stored.name}
    dataset = DATASETS.find(db, text.dataset_id)
    statistics = text.statistics or {}
    told: dict[str, Any] = {
        "context_size": text.context,
        "prepend_bos": statistics.get("row_start_id") is not None,
        **_separator(text),
    }
    if dataset is not None:
        told["dataset_path"] = dataset.repo_id or dataset.name
    return told


def _separator(text: TokenizationRow) -> dict[str, Any]:
    """The token between documents, by SAELens's word for it or its id; None for none."""
    statistics = text.statistics or {}
    if "separator_id" not in statistics:
        return {}
    token = statistics["separator_id"]
    words = {statistics.get("bos_id"): "bos", statistics.get("eos_id"): "eos", None: None}
    return {"sequence_separator_token": words.get(token, token)}
