"""The form of one training or of several from one pass, which are submitted in different ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from mistudio.core.config import Config, Violation, command_line, settings_of, to_dict
from mistudio.core.configs import HOOKS, SAE_HOOKS, TRANSCODER_INPUTS
from mistudio.core.model_configs import chosen_layers
from mistudio.core.settings import SettingsFile
from mistudio.core.sweep_configs import SHARED, SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES
from mistudio.gui.tabs.models.layer_grid import HooksEditor
from mistudio.gui.tabs.training.choices import Pairs
from mistudio.gui.tabs.training.fields import (
    ENCODER_TEXTS,
    MOST_LAYERS,
    LayersEditor,
    architecture_pairs,
    hook_pairs,
)
from mistudio.gui.tabs.training.lines_editor import LinesEditor
from mistudio.gui.tabs.training.sizes import (
    AutoSaveEditor,
    BatchEditor,
    expansion_editor,
    steps_editor,
)
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.jobs.shipped_templates import Scaling, fitted

FIELDS = (
    "model",
    "dataset",
    "activations",
    "layers",
    "hooks",
    "hook_in",
    "hook_out",
    "encoder",
    "architecture",
    "width",
    "k",
    "target_l0",
    "tokens",
    "seed",
    "name",
    "context",
    "dataset_weight",
    "more_datasets",
    "vary",
)
SPANS = {"layers": 2, "more_datasets": 2, "vary": 3}
# a new run learns a layer at half the depth with eight latents per dimension
FRESH = Scaling(expansion=8, depths=(0.5,))
ONE_PASS = "0"  # as a length
# texts that a comma cannot separate, or that name something of the library
_NOT_VARIED = ("group_sizes", "continue_from", "init_from")


class TrainingForm(ConfigForm[SweepConfig]):
    """Edits a `SweepConfig`; `training()` is a `TrainConfig` where it makes one SAE only.

    `given_hook`: whether the activation set decides the hook, so that none is to be chosen.
    Layer and latents follow the model until somebody chooses them.
    """

    given_hook = False

    def __init__(self, settings: SettingsFile, parent: QWidget | None = None) -> None:
        self._open = _unchosen()  # what was put for layers and width while nobody chose them
        self._reads_set = False  # whether an activation set was chosen when the length was put
        self._live_length = ""  # what one pass took the place of, "" where it did not
        self._hidden_dim: int | None = None
        self._num_layers: int | None = None
        self.model = LibraryChoice("Choose a model")
        self.dataset = LibraryChoice("Choose a dataset")
        self.activations = LibraryChoice("Live, from the model")
        self.more_datasets = LinesEditor(
            "dataset",
            prompt="Choose a dataset",
            hint="Weight",
            text="1",
            nothing="Mixes in other text; weights say how many tokens come from each.",
        )
        self.layers = LayersEditor()
        self.hooks = HooksEditor(SAE_HOOKS)
        self.sae = LibraryChoice("Fresh weights")
        self.architecture = ChoiceEditor(architecture_pairs(ARCHITECTURES))
        self.vary = LinesEditor(
            "setting",
            prompt="Choose a setting",
            hint="Its values, such as 16, 32, 64",
            nothing="Trains an SAE for every combination of values, all from the same pass: "
            "k with 16, 32, 64 makes three.",
        )
        self.vary.offer(vary_pairs(SweepConfig()))
        self.width_editor, self.length_editor = expansion_editor(), steps_editor()
        self.batch_editor = BatchEditor()
        super().__init__(
            SweepConfig,
            (*FIELDS, *_advanced()),
            editors={
                "model": self.model,
                "dataset": self.dataset,
                "activations": self.activations,
                "more_datasets": self.more_datasets,
                "layers": self.layers,
                "hooks": self.hooks,
                "vary": self.vary,
                "encoder": ChoiceEditor(list(ENCODER_TEXTS.items())),
                "init_from": self.sae,
                "width": self.width_editor,
                "tokens": self.length_editor,
                "batch": self.batch_editor,
                "checkpoint_every": AutoSaveEditor(),
                "hook_in": ChoiceEditor(hook_pairs(TRANSCODER_INPUTS)),
                "hook_out": ChoiceEditor(hook_pairs(HOOKS)),
                "architecture": self.architecture,
            },
            columns=3,
            spans=SPANS,
            settings=settings,
            remember="train",
            command="train",
            parent=parent,
        )
        self.fields["layers"].caption.hide()  # the grid tells how many beside its name
        self._fit_steps()

    def training(self) -> TrainConfig:
        """What is to be trained; raises `InvalidInput` as `values`."""
        return narrowed(self.values())

    def set_values(self, values: Mapping[str, Any] | Config) -> None:
        """Take values over; a layer or hook counts where no layers or hooks are named."""
        given = to_dict(values) if isinstance(values, Config) else dict(values)
        if not given.get("layers") and "layer" in given:
            given["layers"] = str(given["layer"])
        if not given.get("hooks") and "hook" in given:
            given["hooks"] = [given["hook"]]
        for name in given:
            self._open.pop(name, None)
        if "tokens" in given:  # a length that is given stays, whatever is read
            self._live_length = ""
            self._reads_set = bool(given.get("activations", self.activations.value()))
        super().set_values(given)

    def reset(self, *, announce: bool = True) -> None:
        super().reset(announce=False)
        default = TrainConfig()
        self._quiet = True
        self.layers.set_value(default.layer)
        self.hooks.set_value(default.hook)
        self._quiet = False
        self._open = _unchosen()
        self._reads_set, self._live_length = False, ""
        self._fit_to_model()
        if announce:
            self._on_edited()

    def set_model(self, hidden_dim: int | None, num_layers: int | None) -> None:
        """The model whose width an expansion factor multiplies, and its blocks; None: not known."""
        self.width_editor.set_factor(hidden_dim)
        if (hidden_dim, num_layers) != (self._hidden_dim, self._num_layers):
            self._hidden_dim, self._num_layers = hidden_dim, num_layers
            self._fit_to_model()

    def _fit_to_model(self) -> None:
        """Put what follows from the model where what was put before still stands."""
        wanted = fitted(FRESH, self._hidden_dim, self._num_layers)
        self._quiet = True
        for name, put in list(self._open.items()):
            editor = self.fields[name].editor
            if editor.value() != put:
                del self._open[name]
            elif name in wanted:
                editor.set_value(wanted[name])
                self._open[name] = str(wanted[name])
        self._quiet = False
        self._refresh()

    def _on_edited(self) -> None:
        if not self._quiet:
            self._fit_length()
            self._fit_steps()
        super()._on_edited()

    def _fit_length(self) -> None:
        """Of a set take one pass, unless somebody has chosen a length; back, what there was."""
        reads_set = bool(self.activations.value())
        if reads_set == self._reads_set:
            return
        self._reads_set = reads_set
        usual = str(self._proposed.get("tokens", TrainConfig().tokens))
        put = self._live_length
        self._quiet = True
        if reads_set and self.length_editor.value() == usual:
            self._live_length = usual
            self.length_editor.set_value(ONE_PASS)
        elif not reads_set:
            if put and self.length_editor.value() == ONE_PASS:
                self.length_editor.set_value(put)
            self._live_length = ""
        self._quiet = False

    def _kept(self) -> dict[str, Any]:
        """Of a length that was put for a set, the one of the next run, which reads none."""
        kept = super()._kept()
        if self._live_length and kept["tokens"] == ONE_PASS:
            kept["tokens"] = self._live_length
        return kept

    def _fit_steps(self) -> None:
        """Steps are of the batch that is typed, as far as it is a number."""
        typed = self.batch_editor.value()
        self.length_editor.set_factor(int(typed) if typed.isdecimal() and int(typed) else None)

    def copy_command(self) -> None:
        """Put the command that does the same on the clipboard."""
        if not self._read()[1]:
            config = self.training()
            words = "sweep" if isinstance(config, SweepConfig) else "train"
            QGuiApplication.clipboard().setText(command_line(words, config))

    def _read(self) -> tuple[SweepConfig, list[Violation]]:
        config, problems = super()._read()
        typed = {
            "width": self.width_editor.problem,
            "tokens": self.length_editor.problem,
            "batch": self.batch_editor.problem,
        }
        problems += [Violation(name, sentence) for name, sentence in typed.items() if sentence]
        changes: dict[str, Any] = {}
        if config.activations:  # it tells what it was made from
            changes |= {"model": "", "dataset": "", "more_datasets": ()}
        layers = chosen_layers(config.layers, MOST_LAYERS) if config.layers else []
        if not layers:
            problems.append(Violation("layers", "Choose at least one layer."))
        elif len(layers) == 1:
            changes |= {"layer": layers[0], "layers": ""}
        if len(config.hooks) == 1 or config.encoder != "sae":
            changes |= {"hook": (*config.hooks, TrainConfig().hook)[0], "hooks": ()}
        elif not config.hooks and not self.given_hook:
            problems.append(Violation("hooks", "Choose at least one hook."))
        return dataclasses.replace(config, **changes), problems


def narrowed(config: SweepConfig) -> TrainConfig:
    """The config of a single training where there is one layer, one hook and nothing varied."""
    if config.layers or config.hooks or config.vary:
        return config
    return TrainConfig(**{s.name: getattr(config, s.name) for s in settings_of(TrainConfig)})


def vary_pairs(config: TrainConfig) -> Pairs:
    """(name, label) of the settings that can be varied and have an effect beside the others."""
    return [
        (s.name, s.option.label)
        for s in settings_of(TrainConfig)
        if s.name not in SHARED
        and s.name not in _NOT_VARIED
        and (s.option.applies is None or s.option.applies(config))
    ]


def _unchosen() -> dict[str, str]:
    """The layers and the width of a form that knows no model."""
    return {"layers": str(TrainConfig().layer), "width": str(TrainConfig().width)}


def _advanced() -> tuple[str, ...]:
    return tuple(
        s.name for s in settings_of(TrainConfig) if s.option.advanced and s.name != "continue_from"
    )
