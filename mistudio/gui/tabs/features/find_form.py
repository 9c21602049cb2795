"""The "Find features" form: which text to read, how much of it, how many examples to keep."""

from __future__ import annotations

from dataclasses import replace

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QVBoxLayout, QWidget

from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import StudioError
from mistudio.core.units import format_bytes, format_count, format_duration
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.overview import Overview
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import ChoiceEditor
from mistudio.jobs import harvest_source

FIELDS = (
    "dataset",
    "rows",
    "context",
    "top_k",
    "activations",
    "labels",
    "seed",
    "batch_size",
    "fast",
)


class FindForm(QWidget):
    """Edits a `HarvestConfig` for one SAE and submits it; `closed` asks for the table instead."""

    closed = Signal()
    submitted = Signal(str)  # job id

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae_id = ""
        self._dataset, self._activations = ChoiceEditor(), ChoiceEditor()
        self._overview: Overview | None = None
        self.form: ConfigForm[HarvestConfig] = ConfigForm(
            HarvestConfig,
            FIELDS,
            editors={"dataset": self._dataset, "activations": self._activations},
            settings=services.settings,
            remember="features.find",
            command="features extract",
            positional=("sae",),
        )
        self._estimate = label("", "muted", wrap=True)
        self._problem = label("", "error", wrap=True)
        self._problem.hide()
        self.find_button = button(
            "Find features",
            self.submit,
            variant="primary",
            icon="bolt",
            tip="Read the text and keep what each latent fires on (Ctrl+Return)",
        )
        self.back_button = button(
            "Back to the table",
            self.closed.emit,
            icon="table",
            tip="The features found before, unchanged",
        )
        tip = "A feature set from activations that delphi found, with its text"
        self.cache_button = button(
            "Import a delphi cache…", self.import_cache, icon="download", tip=tip
        )
        self._lay_out()
        self.form.changed.connect(self._tell_amount)
        self._tell_amount()

    def _lay_out(self) -> None:
        card = Card("list")
        card.box.addWidget(label("Find features", "card"))
        card.box.addWidget(
            label(
                "Reads text with the model once and keeps, for every latent, how often it fires, "
                "where it fires most, and which tokens it promotes.",
                "muted",
                wrap=True,
            )
        )
        card.box.addWidget(self.form)
        card.box.addWidget(self._estimate)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scrolling(card).area, 1)
        outer.addWidget(self._problem)
        outer.addLayout(row(self.find_button, self.back_button, None, self.cache_button))

    def show_overview(self, found: Overview) -> None:
        """Offer the datasets there are; the first choice is the text of the training."""
        known = found.trained_on or "none known"
        first = ("", f"The training's text ({known})")
        offered = [pair for pair in found.datasets if pair[1] != found.trained_on]
        self._dataset.set_choices([first, *offered] if found.trained_on else offered)
        self._overview = found
        self._activations.set_choices([("", "Run the model"), *found.stored])
        self._sae_id = found.sae.id
        self.form.set_values({"sae": found.sae.id})
        has_set = found.feature_set is not None
        self.back_button.setVisible(has_set)
        self.find_button.setText("Run again" if has_set else "Find features")
        self.find_button.setEnabled(found.job is None)
        self._tell_amount()

    def submit(self) -> None:
        """Queue the harvest, or say beside the field what is wrong."""
        self._problem.hide()
        config = self.form.checked()
        if config is None or not self._sae_id:
            return
        try:
            self.submitted.emit(self._services.submit("harvest", replace(config, sae=self._sae_id)))
        except StudioError as error:
            self._problem.setText(error.sentence)
            self._problem.show()

    def import_cache(self) -> None:
        """Take activations over that another program found."""
        if self._overview is not None:
            from mistudio.gui.tabs.features.import_cache_dialog import ImportCacheDialog

            ImportCacheDialog(self._services, self._overview.sae, self).show()

    def _tell_amount(self) -> None:
        """Tokens, bytes and time at most; how many tokens there are is known when they are read."""
        if not self.form.is_valid():
            self._estimate.setText("")
            return
        config = self.form.values()
        tokens = config.rows * config.context
        said = [f"Reads at most {format_count(tokens)} tokens, fewer if the text is shorter."]
        if self._overview is not None:
            size, l0 = harvest_source.estimated_bytes(self._overview.sae, config)
            said.append(f"{format_bytes(size)} on the disk (computed, at L0 {l0:.0f}).")
            if self._overview.rate:
                left = format_duration(tokens / self._overview.rate)
                said.append(f"About {left}, at the speed of the last time.")
        self._estimate.setText(" ".join(said))
