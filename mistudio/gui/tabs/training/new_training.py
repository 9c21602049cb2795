"""The card that starts a training."""

from __future__ import annotations

import dataclasses
from typing import Any

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QSizePolicy, QWidget

from mistudio.core.config import to_dict
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES, TRANSCODER_ARCHITECTURES
from mistudio.gui.services import Services
from mistudio.gui.tabs.models.template_panel import TemplatePanel
from mistudio.gui.tabs.training.choices import Choices, Pairs, holds_one, read_choices
from mistudio.gui.tabs.training.fields import architecture_pairs
from mistudio.gui.tabs.training.plan_box import PlanBox
from mistudio.gui.tabs.training.source import fit_to_source, missing, plannable, width_read
from mistudio.gui.tabs.training.summary import summary
from mistudio.gui.tabs.training.training_form import TrainingForm, narrowed, vary_pairs
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.layout import Collapsible
from mistudio.jobs.shipped_templates import Scaling, fitted
from mistudio.jobs.templates import Loaded
from mistudio.store.records import ActivationSetRow

_OWN: dict[str, Any] = {
    "model": "",
    "dataset": "",
    "more_datasets": (),
    "activations": "",
    "name": "",
}  # what a template leaves open
KINDS = ("models", "datasets", "tokenizations", "saes", "activation_sets")


class NewTraining(Card):
    """Starts one run or several from one pass. `started(job id)` follows a submitted job."""

    started = Signal(str)

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__("list", parent)
        self._services = services
        self._choices = Choices()
        self._pairs: Pairs = []
        self._offered: tuple[str, ...] = ARCHITECTURES
        self._saes: Pairs = []
        self._sets: Pairs = []
        self._begun_at = ""  # the SAE whose latents the form took over
        self.section = Collapsible("New training", self, is_open=self._recalled())
        self.form = TrainingForm(services.settings, self.section.body)
        self.form.set_values({"init_from": "", "activations": ""})  # each run asks for them anew
        self.model, self.dataset = self.form.model, self.form.dataset
        self.layers = self.form.layers
        self.templates = TemplatePanel(services, "training")
        self._scaling = Scaling()  # what a loaded template leaves to the model
        self.note = label("", "text-yellow", wrap=True)
        self.note.hide()
        self.summary = label("", "muted", wrap=True)
        self.warning = label("", "warning", wrap=True)
        self.plan = PlanBox(services)
        self.problem = label("", "error", wrap=True)
        self.problem.hide()
        self.reason = label("", "muted")
        self.start_button = button(
            "Start training",
            self.start,
            variant="primary",
            icon="play",
            tip="Queue the run that the form describes (Ctrl+Return)",
        )
        self.start_button.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.get_button = button(
            "", self._open_library, variant="link", tip="Go where what is missing is got"
        )
        self._build()
        self.form.changed.connect(self._on_changed)
        self.plan.changed.connect(self._show_reason)
        self.plan.chosen.connect(self.form.set_values)
        services.publisher.changed.connect(self._on_published)
        self.reload()

    def _build(self) -> None:
        self.section.heading.setProperty("role", "card")
        self.section.heading.setToolTip("Show or hide the form of a new training")
        self.section.toggled.connect(self._on_toggled)
        self.templates.loaded.connect(self.load)
        self.templates.save_asked.connect(self._save_template)
        self.templates.problem.connect(self._say)
        above = (self.templates, self.note, self.form, self.summary, self.warning, self.plan)
        for part in (*above, self.problem, self.start_button):
            self.section.box.addWidget(part)
        self.section.box.addLayout(row(self.reason, self.get_button, None))
        self.box.addWidget(self.section)
        pad = appearance().px(12)
        self.box.setContentsMargins(pad, pad, pad, pad)

    def _recalled(self) -> bool:
        return bool(self._services.settings.recall("training.form_open", True))

    def _on_toggled(self, is_open: bool) -> None:
        self._services.settings.remember("training.form_open", is_open)

    def reload(self) -> None:
        """Read again what can be chosen."""
        self._services.query.ask(read_choices, self._on_choices, key="choices")

    def start(self) -> None:
        """Queue the run; what is wrong is said beside the field or below the form."""
        checked = self.form.checked()
        if checked is None or not self.start_button.isEnabled():
            return
        config = narrowed(checked)
        if self._choices.tokenization(config.dataset) is not None:
            config = dataclasses.replace(config, context=0)
        self._submit(config)

    def _submit(self, config: TrainConfig) -> None:
        try:
            kind = "sweep" if isinstance(config, SweepConfig) else "train"
            job_id = self._services.submit(kind, config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self._services.publisher.publish("trainings")
        self.started.emit(job_id)

    def train_on(self, set_id: str) -> None:
        """Choose an activation set, at once or when the library is read."""
        self.form.set_values({"activations": set_id})
        self.section.set_open(True)

    def use(self, values: dict[str, object]) -> None:
        """Fill the form with the settings of an earlier run."""
        shown = dict(values)
        model = next((m for m in self._choices.models if m.id == shown.get("model")), None)
        dataset = next((d for d in self._choices.datasets if d.id == shown.get("dataset")), None)
        named = (row.name if row else None for row in (model, dataset))
        for name, found, options in zip(
            ("model", "dataset"), named, (self.model, self.dataset), strict=True
        ):
            if found and options.combo.findData(found) >= 0:
                shown[name] = found
        self.form.set_values({**shown, "name": "", "continue_from": ""})
        self.section.set_open(True)

    @Slot(object)
    def load(self, found: Loaded) -> None:
        """Take the settings of a template; model and text stay unless it names others."""
        values = to_dict(found.config)
        for name in ("model", "dataset", "activations", "more_datasets"):
            if not values.get(name):
                values.pop(name)
        self._scaling = found.scaling
        self.form.set_values({**values, "continue_from": ""})
        self._fit_to_template()
        waits = self._scaling != Scaling()
        told = [*found.warnings, "Layer and latents follow from the model you choose."]
        sentences = told if waits else found.warnings
        self.note.setText(" ".join(sentences))
        self.note.setVisible(bool(sentences))

    def _fit_to_template(self) -> None:
        """Set what the template leaves to the model, once there is one."""
        model = self._choices.model(self.model.value())
        if model is None or self._scaling == Scaling():
            return
        scaling, self._scaling = self._scaling, Scaling()
        self.note.hide()
        self.form.layers.set_layers(model.num_layers)
        self.form.set_values(fitted(scaling, model.hidden_dim, model.num_layers))

    def _save_template(self) -> None:
        try:
            config = self.form.training()
        except InvalidInput as error:
            self._say(error.sentence)
        else:
            self.templates.save(dataclasses.replace(config, **_OWN))

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))

    @Slot(object)
    def _on_choices(self, choices: Choices) -> None:
        self._choices = choices
        self.model.offer(choices.model_pairs(), choices.only_model())
        self._fit_to_model()
        self._on_changed()

    @Slot()
    def _on_changed(self) -> None:
        self._fit_to_model()
        self._fit_to_encoder()
        self._fit_to_template()
        stored = self._stored()
        tokenized = self._choices.tokenization(self.dataset.value()) is not None
        needless = ["context"] if tokenized or stored else []
        if stored is not None and holds_one(stored):
            needless += ["layers", "hooks"]  # there is nothing to choose
        self.form.leave_out(needless)
        self._say("")
        self._tell()

    def _fit_to_model(self) -> None:
        """Offer only what goes with the chosen model."""
        model = self._choices.model(self.model.value())
        sets = self._choices.set_pairs()
        if sets != self._sets:
            self._sets = sets
            self.form.activations.offer(sets)
        model = fit_to_source(self.form, self._choices, model)
        blocks = model.num_layers if model and self._stored() is None else None
        self.form.set_model(width_read(self.form, model), blocks)
        saes = self._choices.sae_pairs(model)
        if saes != self._saes:
            self._saes = saes
            self.form.sae.offer(saes)
        self._fit_to_sae()
        pairs = self._choices.text_pairs(model)
        if pairs != self._pairs:
            self._pairs = pairs
            self.dataset.offer(pairs, self._choices.only_dataset())
            self.form.more_datasets.offer(pairs)

    def _stored(self) -> ActivationSetRow | None:
        """The activation set that is chosen."""
        return self._choices.stored(self.form.activations.value())

    def _fit_to_encoder(self) -> None:
        """Offer only the architectures that the encoder has."""
        is_sae = self.form.fields["encoder"].editor.value() == "sae"
        offered = ARCHITECTURES if is_sae else TRANSCODER_ARCHITECTURES
        if offered != self._offered:
            self._offered = offered
            self.form.architecture.set_choices(architecture_pairs(offered))

    def _fit_to_sae(self) -> None:
        """Take over the number of latents of the SAE that the run is to start from."""
        found = self._choices.sae(self.form.sae.value())
        if found is not None and found.id != self._begun_at:
            self._begun_at = found.id
            self.form.set_values({"width": found.n_latents})
        elif found is None:
            self._begun_at = ""

    def _tell(self) -> None:
        config, warnings = None, []
        try:
            config = self.form.training()
            self.form.vary.offer(vary_pairs(config))
            text = summary(config, self._choices.model(config.model))
            warnings = config.warnings()
            if (sae := self._choices.sae(config.init_from)) is not None:
                text = f"{text} · starts with the weights of {sae.name}"
        except InvalidInput:
            config, text = None, ""
        self.summary.setText(text)
        self.warning.setText(" ".join(warnings))
        self.warning.setVisible(bool(warnings))
        ready = None if missing(self.form, self._choices)[0] else config
        self.plan.show_config(plannable(ready, self._stored()))
        self._show_reason()

    @Slot()
    def _show_reason(self) -> None:
        """Say what keeps the run from starting."""
        reason, place = missing(self.form, self._choices)
        self.reason.setText(reason)
        self.reason.setVisible(bool(reason))
        self.get_button.setText(f"Open {place}" if place else "")
        self.get_button.setVisible(bool(place))
        self.start_button.setEnabled(not (reason or self.plan.refuses))
        self.start_button.setToolTip(reason or self.plan.refuses)

    def _open_library(self) -> None:
        self._services.open_tab(missing(self.form, self._choices)[1])

    @Slot(str, str)
    def _on_published(self, kind: str, object_id: str) -> None:
        if kind in KINDS:
            self.reload()
