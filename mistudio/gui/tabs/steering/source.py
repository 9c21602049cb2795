"""The combo of what can be steered with: the SAEs, and each model's vectors without any SAE."""

from __future__ import annotations

from typing import Any, NamedTuple

from PySide6.QtCore import Qt

from mistudio.gui.tabs.features.sources import SaeCombo, read_saes, sae_title
from mistudio.store.records import ModelRow, SaeRow
from mistudio.store.tables import MODELS


class _Sources(NamedTuple):
    saes: list[SaeRow]
    models: list[ModelRow]


def _read(db: Any) -> _Sources:
    return _Sources(read_saes(db), MODELS.select(db, "status = 'ready'"))


class SteeringSource(SaeCombo):
    """Offers SAEs, then "Vectors only" of each model; `chosen` carries None for the latter."""

    _models: tuple[ModelRow, ...] = ()

    def reload(self) -> None:
        """Read the library again, keeping the choice."""
        self._services.query.ask(_read, self._show_sources, key="saes")

    def model_id(self) -> str:
        """The model of what is chosen, "" if nothing is or it is not known."""
        sae, model = self.sae(), self.model()
        return (sae.model_id or "") if sae is not None else model.id if model is not None else ""

    def model(self) -> ModelRow | None:
        """The model whose vectors are chosen, without an SAE."""
        place = self.currentIndex() - len(self._rows)
        return self._models[place] if 0 <= place < len(self._models) else None

    def choose(self, sae_id: str) -> None:
        """Choose an SAE, or a model's vectors, by id, now or as soon as it is known."""
        self._wanted = sae_id
        place = self.findData(sae_id)
        if place >= 0:
            self.setCurrentIndex(place)

    def _show_sources(self, found: _Sources) -> None:
        self._rows, self._models = found.saes, tuple(found.models)
        self.blockSignals(True)
        self.clear()
        for row in found.saes:
            self.addItem(sae_title(row), row.id)
            self.setItemData(self.count() - 1, row.name, Qt.ItemDataRole.ToolTipRole)
        for model in found.models:
            self.addItem(f"Vectors only · {model.name}", model.id)
        self.setCurrentIndex(max(0, self.findData(self._wanted)) if self.count() else -1)
        self.blockSignals(False)
        self._tell()

    def _tell(self) -> None:
        model = self.model()
        if model is None:
            super()._tell()
            return
        self._wanted = model.id
        self._services.settings.remember(self._remember, model.id)
        self.setToolTip(f"Steer {model.name} along vectors, without an SAE")
        if model != self._told:
            self._told = model
            self.chosen.emit(None)
