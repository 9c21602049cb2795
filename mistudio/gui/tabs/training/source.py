"""What a new training reads: a model and texts, or an activation set; and what is missing still."""

from __future__ import annotations

import dataclasses

from mistudio.core.configs import SAE_HOOKS
from mistudio.core.errors import InvalidInput
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.tabs.training.choices import Choices, hooks_of, layers_of
from mistudio.gui.tabs.training.training_form import TrainingForm
from mistudio.store.hook_width import hook_width
from mistudio.store.records import ActivationSetRow, ModelRow


def fit_to_source(form: TrainingForm, choices: Choices, model: ModelRow | None) -> ModelRow | None:
    """Offer the layers and hooks of the chosen set, else of the model; returns whose they are."""
    stored = choices.stored(form.activations.value())
    if stored is None:
        form.given_hook = False
        form.layers.set_layers(model.num_layers if model else None)
        form.hooks.offer(SAE_HOOKS)
        return model
    own = choices.model(stored.model_id or "")
    layers, hooks = layers_of(stored), hooks_of(stored)
    form.given_hook = not set(hooks) & set(SAE_HOOKS)
    form.layers.set_layers((own and own.num_layers) or max(layers) + 1, layers)
    form.hooks.offer(hooks)
    return own


def width_read(form: TrainingForm, model: ModelRow | None) -> int | None:
    """The width that an expansion factor multiplies: that of the chosen hooks where they have one
    width, else the model's."""
    if model is None:
        return None
    is_sae = form.fields["encoder"].editor.value() == "sae"
    widths = {hook_width(model, hook) for hook in form.hooks.value()} if is_sae else set()
    return widths.pop() if len(widths) == 1 else model.hidden_dim


def plannable(config: TrainConfig | None, stored: ActivationSetRow | None) -> TrainConfig | None:
    """The config with the model and text of its activation set, none for bare vectors."""
    if config is None or stored is None:
        return config
    if not (stored.model_id and stored.tokenization_id):
        return dataclasses.replace(config, model="", dataset="", more_datasets=())
    return dataclasses.replace(config, model=stored.model_id, dataset=stored.tokenization_id)


def missing(form: TrainingForm, choices: Choices) -> tuple[str, str]:
    """Why it cannot start, and the tab that helps; ("", "") if it can."""
    if (stored := choices.stored(form.activations.value())) is not None:
        return _missing_in(form, stored) or _wrong(form), ""
    if not choices.models:
        return "There is no model yet.", "Models"
    if not choices.datasets:
        return "There is no dataset yet.", "Datasets"
    if not form.model.value() or not form.dataset.value():
        return "Choose a model and a dataset.", ""
    return _wrong(form), ""


def _missing_in(form: TrainingForm, stored: ActivationSetRow) -> str:
    try:
        config = form.training()
    except InvalidInput:
        return ""
    wanted = () if config.encoder == "sae" else (config.hook_in, config.hook_out)
    lacking = next((hook for hook in wanted if hook not in hooks_of(stored)), "")
    return f"{stored.name} holds nothing of {lacking}." if lacking else ""


def _wrong(form: TrainingForm) -> str:
    if not form.layers.value():
        return "Choose at least one layer."
    is_sae = form.fields["encoder"].editor.value() == "sae"
    if is_sae and not (form.hooks.value() or form.given_hook):
        return "Choose at least one hook."
    return "" if form.is_valid() else "Correct the fields marked in red."
