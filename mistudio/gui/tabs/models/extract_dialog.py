"""The dialog that extracts activations of a model: what, how much of it, and what it will take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.config import to_dict
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.units import format_bytes, format_count, format_duration
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.jobs import JobWatch
from mistudio.gui.tabs.models.layer_grid import HooksEditor, LayerGrid
from mistudio.gui.tabs.models.template_panel import TemplatePanel
from mistudio.gui.tabs.models.texts import matching_texts
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.gui.widgets.library_choice import LibraryChoice
from mistudio.jobs import activation_pages
from mistudio.jobs.activation_pages import ExtractEstimate
from mistudio.jobs.templates import Loaded
from mistudio.store.hook_width import hook_width
from mistudio.store.records import JobRow, ModelRow

_FIELDS = ("dataset", "hooks", "rows", "batch", "dtype", "name", "tokens", "container", "top_k")
_BATCHES = [(str(2**power), str(2**power)) for power in range(10)]
_DTYPES = (("auto", "Automatic"), ("fp16", "FP16"), ("bf16", "BF16"), ("fp32", "FP32"))
_CONTAINERS = (("safetensors", "safetensors"), ("raw", "Raw numbers + JSON"))
_WAIT_MS = 200


class ExtractForm(ConfigForm[ExtractConfig]):
    """The form with the grid of layers in it; Reset empties the grid too."""

    def __init__(self, grid: LayerGrid, services: Services, texts: LibraryChoice) -> None:
        self._grid = grid
        super().__init__(
            ExtractConfig,
            _FIELDS,
            editors={
                "dataset": texts,
                "hooks": HooksEditor(),
                "batch": ChoiceEditor(_BATCHES),
                "dtype": ChoiceEditor(_DTYPES),
                "container": ChoiceEditor(_CONTAINERS),
            },
            columns=2,
            settings=services.settings,
            remember="extract_activations",
            command="activations extract",
        )
        self.insert_row(grid)

    def reset(self, *, announce: bool = True) -> None:
        self._grid.set_value("")
        super().reset(announce=announce)


class ExtractDialog(Dialog):
    """Queues extractions of one model; `queued(job id)` follows."""

    queued = Signal(str)

    def __init__(self, services: Services, model: ModelRow, parent: QWidget | None = None) -> None:
        super().__init__(f"Extract activations: {model.name}", parent, height_share=0.92)
        self._services, self._model = services, model
        self._rate: float | None = None  # tokens per second of the newest probe
        self._rate_of: dict[str, Any] = {}  # the settings that it was measured with
        self._probe = ""
        self.texts = LibraryChoice("Choose a text")
        self.texts.combo.view().setMinimumWidth(appearance().px(480))
        self.texts.combo.currentTextChanged.connect(self.texts.combo.setToolTip)
        self.grid = LayerGrid()
        self.grid.set_layers(model.num_layers or 0)
        self.templates = TemplatePanel(services, "extraction")
        self.form = ExtractForm(self.grid, services, self.texts)
        self.form.set_values({"model": model.id, "layers": ""})
        self.estimate = EstimateCard()
        self.note = label("", "warning", wrap=True)
        self.problem = label("", "error", wrap=True, selectable=True)
        for part in (self.templates, self.form):
            self.box.addWidget(part)
        self.box.addStretch(1)
        self._add_below()
        self.note.hide()
        self.problem.hide()
        self.button = button("Extract", self.submit, variant="primary", icon="download")
        self.button.setToolTip("Queue the extraction; it can be paused and resumed")
        self.buttons.addWidget(self.button)
        self.add_close()
        self._connect()
        services.query.ask(lambda db: matching_texts(db, model), self._on_texts)
        self.measure_size()

    def _add_below(self) -> None:
        """What it will take stays in view, below what scrolls."""
        px = appearance().px
        below = QWidget()
        box = QVBoxLayout(below)
        box.setContentsMargins(px(24), px(8), px(24), 0)
        box.setSpacing(px(8))
        for part in (self.note, self.estimate, self.problem):
            box.addWidget(part)
        outer = self.layout()
        assert isinstance(outer, QVBoxLayout)
        outer.insertWidget(1, below)

    def _connect(self) -> None:
        self._watch = JobWatch(self._services, self)
        self._watch.ended.connect(self._on_ended)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self.measure_size)
        self.grid.changed.connect(self._on_layers)
        self.form.changed.connect(self._soon.start)
        self.estimate.probe.clicked.connect(self.measure_time)
        self.templates.loaded.connect(self.load)
        self.templates.save_asked.connect(self._save_template)
        self.templates.problem.connect(self._say)

    def _on_texts(self, pairs: list[tuple[str, str]]) -> None:
        only = pairs[0][0] if len(pairs) == 1 else ""
        self.texts.offer(pairs, only)
        if not pairs:
            self._say("No text is tokenised for this model; do that on the Datasets tab first.")

    def _on_layers(self) -> None:
        self.form.set_values({"layers": self.grid.value()})

    # Templates.

    def load(self, found: Loaded) -> None:
        """Take the settings of a template; model and text stay unless it names others."""
        values = to_dict(found.config)
        values.pop("model")
        if not values.get("dataset"):
            values.pop("dataset")
        layers = str(values.pop("layers"))
        self.form.set_values(values)
        gone = self.grid.set_value(layers)
        sentences = list(found.warnings)
        if gone:
            named = ", ".join(map(str, gone))
            sentences.append(f"This model has no layer {named}; left out.")
        self.note.setText(" ".join(sentences))
        self.note.setVisible(bool(sentences))

    def _save_template(self) -> None:
        try:
            config = self.form.values()
        except InvalidInput as error:
            self._say(error.sentence)
        else:
            self.templates.save(replace(config, model="", dataset=""))

    # What it will take.

    def measure_size(self) -> None:
        """Ask for the size, and for the time if a probe has measured the rate."""
        config = self._config()
        if config is None:
            return
        studio, rate = self._services.studio, self._rate
        if _rate_settings(config) != self._rate_of:
            rate = None
        self._services.query.ask(
            lambda _: activation_pages.estimate(studio, config, rate),
            self._on_estimate,
            key="estimate",
        )

    def measure_time(self) -> None:
        """Queue a probe of three batches."""
        config = self.form.checked()
        if config is None:
            return
        try:
            self._probe = self._watch.submit("probe_extraction", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self._say("")
        self._rate_of = _rate_settings(config)
        self.estimate.show_waiting()

    def _config(self) -> ExtractConfig | None:
        try:
            return self.form.values()
        except InvalidInput:
            return None

    def _on_estimate(self, found: ExtractEstimate) -> None:
        config = self._config()
        ready = config is not None and bool(config.dataset and config.layers)
        widths = [hook_width(self._model, hook) for hook in found.hooks]
        self.estimate.show_estimate(found, complete=ready, widths=widths)
        self.button.setEnabled(ready and not found.refusal)

    def _on_ended(self, job: JobRow) -> None:
        if job.id != self._probe:
            return
        self._probe = ""
        self.estimate.show_waiting(False)
        if job.status == "completed" and job.result:
            self._rate = float(job.result["tokens_per_s"])
            self.measure_size()
        elif job.status == "failed":
            self._say(job.error_message or "The probe failed.")

    # Starting.

    def submit(self) -> None:
        """Queue the extraction, or show what is wrong."""
        config = self.form.checked()
        if config is None:
            return
        try:
            job = self._services.submit("extract_activations", config)
        except StudioError as error:
            self._say(error.sentence)
            return
        self.queued.emit(job)
        self.accept()

    def _say(self, sentence: str) -> None:
        self.problem.setText(sentence)
        self.problem.setVisible(bool(sentence))


class EstimateCard(Card):
    """Tokens, bytes and time of an extraction, with what speaks against it."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("nested", parent, padding=12)
        self.text = label("", "label", wrap=True)
        self.warning = label("", "warning", wrap=True)
        self.refusal = label("", "error", wrap=True)
        self.probe = button("Measure time", icon="clock", tip="Run three batches and time them")
        line = row(self.text, self.probe)
        line.setStretch(0, 1)
        self.box.addLayout(line)
        for part in (self.warning, self.refusal):
            self.box.addWidget(part)
            part.hide()

    def show_estimate(
        self, found: ExtractEstimate, *, complete: bool, widths: Sequence[int | None] = ()
    ) -> None:
        """Show an estimate; before text and layers are chosen only what is missing.

        `widths` are those of a token's row at each hook.
        """
        self.probe.setEnabled(complete and not found.refusal)
        if not complete:
            self.text.setText("Choose a text and layers to see what it takes.")
            self._say("", "")
            return
        layers, hooks = len(found.layers), len(found.hooks)
        wide = f"width {format_count(widths[0] if widths else None)}"
        of_hooks = f" × {hooks:,} {'hook' if hooks == 1 else 'hooks'}"
        if len(set(widths)) > 1:  # a row of one hook is wider than that of another
            wide, of_hooks = f"widths {' + '.join(format_count(w) for w in widths)}", ""
        time = (
            "not measured" if found.seconds is None else f"about {format_duration(found.seconds)}"
        )
        self.text.setText(
            f"Estimate: {format_count(found.tokens)} tokens × {wide} × "
            f"{layers:,} {'layer' if layers == 1 else 'layers'}{of_hooks} in "
            f"{found.dtype.upper()} = "
            f"{format_bytes(found.bytes)}; {format_bytes(found.free)} may be used. Time: {time}."
        )
        self._say(found.warning, found.refusal)

    def show_waiting(self, waiting: bool = True) -> None:
        """Show that a probe runs."""
        self.probe.setDisabled(waiting)
        self.probe.setText("Measuring…" if waiting else "Measure time")

    def _say(self, warning: str, refusal: str) -> None:
        for part, text in ((self.warning, warning), (self.refusal, refusal)):
            part.setText(text)
            part.setVisible(bool(text))


def _rate_settings(config: ExtractConfig) -> dict[str, Any]:
    """The settings that the rate depends on."""
    names = ("model", "dataset", "layers", "hooks", "batch", "dtype", "container")
    return {name: getattr(config, name) for name in names}
