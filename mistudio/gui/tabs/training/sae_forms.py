"""Small windows that start a job about an SAE: evaluate, export."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.config import Config
from mistudio.core.configs import SAE_FORMATS, EvaluateConfig, ExportSaeConfig
from mistudio.core.errors import StudioError
from mistudio.core.sae_figures import NO_MODEL
from mistudio.core.sae_readings import is_cross_layer
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.choices import Choices, read_choices
from mistudio.gui.widgets.banner import BannerArea
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor, Editor, PathEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.jobs import lookup
from mistudio.store.records import SaeRow

INPUTS = ("attn_z", "resid_pre", "resid_mid")  # hooks that are what a module reads


class JobDialog(Dialog):
    """A form and a button that queues its job; stays open with the sentence if it is refused."""

    def __init__(
        self,
        services: Services,
        title: str,
        kind: str,
        config: Config,
        fields: Sequence[str],
        editors: Mapping[str, Editor],
        *,
        explanation: str,
        action: str,
        icon: str,
        command: str,
        parent: QWidget,
    ) -> None:
        super().__init__(title, parent, width=640, height_share=0.6)
        self._services, self._kind = services, kind
        self._noun = title
        self.banners = BannerArea()
        self.form: ConfigForm[Any] = ConfigForm(
            type(config), fields, editors=editors, columns=1, command=command, positional=("path",)
        )
        self.form.set_values(config)
        self.box.addWidget(label(explanation, "muted", wrap=True))
        self.box.addWidget(self.banners)
        self.box.addWidget(self.form)
        self.box.addStretch(1)
        self.start_button = button(
            action,
            self.start,
            variant="primary",
            icon=icon,
            tip="Queue it; the Jobs panel shows it",
        )
        self.buttons.addWidget(self.start_button)
        self.add_close("Cancel")

    def offer_library(self, name: str) -> None:
        """Fill the combo of a field with models or datasets."""
        self._field = name
        self._services.query.ask(read_choices, self._on_choices)

    @Slot(object)
    def _on_choices(self, choices: Choices) -> None:
        editor = self.form.fields[self._field].editor
        if isinstance(editor, LibraryChoice):
            pairs = choices.model_pairs() if self._field == "model" else choices.text_pairs(None)
            editor.offer(pairs)

    def start(self) -> None:
        """Queue the job and close."""
        config = self.form.checked()
        if config is None:
            return
        try:
            self._services.submit(self._kind, config)
        except StudioError as error:
            self.banners.show_banner(error.sentence, level="error", details=error.details)
        else:
            self._services.banner(f"Queued: {self._noun}. The Jobs panel shows it (Ctrl+J).")
            self.accept()


def reads_text(sae: SaeRow) -> bool:
    """Whether an SAE can be measured on a text: not if only vectors are known of its model."""
    return sae.model_id is not None or not lookup.reads_vectors(sae)


def evaluate_form(services: Services, sae: SaeRow, parent: QWidget) -> JobDialog:
    """Measure an SAE on a dataset, or on the vectors it was trained on."""
    own = "The text it was trained on" if sae.training_id else "Choose a dataset"
    explanation = "Measures reconstruction and the model's loss on held-out documents."
    if lookup.reads_vectors(sae):
        own = "The vectors it was trained on"
        explanation = f"Measures reconstruction on held-out vectors. {NO_MODEL}"
    dialog = JobDialog(
        services,
        f"Evaluate {sae.name}",
        "evaluate",
        EvaluateConfig(sae=sae.id),
        ("dataset", "tokens", "loss_tokens") if reads_text(sae) else ("tokens",),
        {"dataset": LibraryChoice(own)} if reads_text(sae) else {},
        explanation=explanation,
        action="Evaluate",
        icon="curve",
        command="sae eval",
        parent=parent,
    )
    if reads_text(sae):
        dialog.offer_library("dataset")
    return dialog


def export_form(services: Services, sae: SaeRow, parent: QWidget) -> JobDialog:
    """Write an SAE for another program."""
    folder = services.studio.paths.exports / _file_name(sae.name)
    formats = formats_for(sae)
    return JobDialog(
        services,
        f"Export {sae.name}",
        "export_sae",
        ExportSaeConfig(sae=sae.id, format=formats[0] if formats else "saelens", out=str(folder)),
        ("format", "out", "others"),
        {"format": ChoiceEditor(formats), "out": PathEditor("folder")},
        explanation="Writes the files that the chosen program reads into a new folder. SAELens: "
        "cfg.json and sae_weights.safetensors. dictionary_learning: ae.pt and config.json. "
        "sparsify, which only holds topk and groupmax: cfg.json and sae.safetensors. "
        "circuit-tracer, which only holds transcoders: config.yaml and a file for every layer "
        "from 0 on.",
        action="Export",
        icon="upload",
        command="sae export",
        parent=parent,
    )


def formats_for(sae: SaeRow) -> list[str]:
    """The formats that hold an SAE of this kind."""
    is_transcoder, is_groupmax = sae.encoder_type != "sae", sae.architecture == "groupmax"
    keeps_k = is_groupmax or sae.architecture == "topk"
    usual = not is_groupmax and sae.architecture not in ("matching_pursuit", "temporal")
    fits = {
        "saelens": not is_groupmax and not (keeps_k and is_transcoder),
        "dictionary_learning": usual and not is_transcoder,
        "sparsify": keeps_k and sae.d_in == sae.d_out and sae.hook_in not in INPUTS,
        "circuit_tracer": is_transcoder
        and not keeps_k
        and sae.d_in == sae.d_out
        and not is_cross_layer(sae.config),
    }
    return [name for name in SAE_FORMATS if fits[name]]


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "sae"
