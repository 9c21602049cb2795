"""The window of one SAE: what it is, where it came from, what it was measured to do."""

from __future__ import annotations

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from mistudio.core.sae_readings import read_as
from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.tabs.training.evaluation_pane import EvaluationPane
from mistudio.gui.tabs.training.fields import ENCODER_TEXTS
from mistudio.gui.tabs.training.reads import local_time
from mistudio.gui.tabs.training.sae_rows import place_text
from mistudio.gui.tabs.training.survival_dialog import SurvivalDialog
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES


class SaeDetails(Dialog):
    """Follows the SAE while it is open; closes when the SAE is deleted."""

    def __init__(self, services: Services, sae: SaeRow, parent: QWidget) -> None:
        super().__init__(f"SAE {sae.name}", parent, width=1152, height_share=0.9)
        self._services = services
        self._id, self._sae = sae.id, sae
        self.title = label(sae.name, "title", wrap=True)
        self.facts = FactsTable(["Property", "Value"], "Properties", most=18, stretch=1)
        self.evaluation = EvaluationPane(services)
        self.box.addWidget(self.title)
        self.box.addWidget(self.evaluation)
        self.box.addWidget(label("Properties", "section"))
        self.box.addWidget(self.facts)
        self.box.addStretch(1)
        self.survival_button = button(
            "Survival report…",
            self.survival,
            icon="table",
            tip="Which features stay the same in another format of the model",
        )
        self.buttons.insertWidget(0, self.survival_button)
        self.add_close()
        self._show(sae)
        services.publisher.changed.connect(self._on_published)

    @Slot(object)
    def _show(self, sae: SaeRow | None) -> None:
        if sae is None:
            self.close()
            return
        self._sae = sae
        self.title.setText(sae.name)
        self.facts.set_rows(facts(sae, str(self._services.studio.paths.absolute(sae.path))))
        self.evaluation.show_sae(sae)

    def survival(self) -> None:
        """Open the report on another format of the model."""
        SurvivalDialog(self._services, self._sae, self).show()

    @Slot(str, str)
    def _on_published(self, kind: str, object_id: str) -> None:
        if kind == "saes":
            sae_id = self._id
            self._services.query.ask(lambda db: SAES.find(db, sae_id), self._show, key="sae")


def _width(sae: SaeRow) -> str:
    if sae.encoder_type == "sae":
        return format_count(sae.d_in)
    return f"{format_count(sae.d_in)} → {format_count(sae.d_out)}"


def facts(sae: SaeRow, folder: str) -> list[list[str]]:
    """Property and value of everything the library knows of an SAE."""
    config = sae.config or {}
    told = [("Read as", sentence) for sentence in read_as(sae.config)]
    known = [
        ("Origin", sae.origin),
        ("Encoder type", ENCODER_TEXTS.get(sae.encoder_type, sae.encoder_type)),
        ("Architecture", str(config.get("architecture") or sae.architecture)),
        ("Stored as", sae.architecture),
        *told,
        ("Model", sae.model_name or EM_DASH),
        ("Layer and hook", place_text(sae)),
        ("Width", _width(sae)),
        ("Latents", format_count(sae.n_latents)),
        ("k", str(config.get("k") or EM_DASH)),
        ("Trained steps", format_count(sae.checkpoint_step)),
        ("Normalisation", sae.normalisation or EM_DASH),
        ("Format", sae.source_format or EM_DASH),
        ("Size", format_bytes(sae.size_bytes)),
        ("Added", local_time(sae.created_at)),
        ("Weights (SHA-256)", sae.weights_hash or EM_DASH),
        ("Folder", folder),
        ("Id", sae.id),
    ]
    return [list(pair) for pair in known]
