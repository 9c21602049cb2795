"""The combo of all SAEs, shared by the tabs that read features; it remembers the last choice."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QWidget

from mistudio.gui.services import Services
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.store.records import SaeRow
from mistudio.store.tables import SAES

ORIGINS = {"trained": "trained here"}


def sae_title(row: SaeRow) -> str:
    """Architecture, model, layer.hook, origin, date: how an SAE reads in a list."""
    # a trained BatchTopK is kept as a JumpReLU: name what was trained
    architecture = str((row.config or {}).get("architecture") or row.architecture)
    place = "unknown hook" if row.layer is None else f"{row.layer}.{row.hook_in or '?'}"
    kind = architecture.replace("_", " ")
    if row.encoder_type != "sae":
        kind += f" {row.encoder_type.replace('_', ' ')}"
        place += f" → {row.hook_out or '?'}"
    return " · ".join(
        (
            kind,
            row.model_name or "unknown model",
            place,
            ORIGINS.get(row.origin, row.origin),
            row.created_at[:16].replace("T", " "),
        )
    )


def read_saes(db: Any) -> list[SaeRow]:
    """Every usable SAE, newest first."""
    return SAES.select(db, "status = 'ready'")


class SaeCombo(Combo):
    """Offers the SAEs of the library; `chosen(SaeRow or None)` follows every change of choice."""

    chosen = Signal(object)

    def __init__(self, services: Services, remember: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services, self._remember = services, remember
        self._rows: list[SaeRow] = []
        self._wanted = str(services.settings.recall(remember, ""))
        self._told: object = ()
        self.setAccessibleName("SAE")
        self.setSizeAdjustPolicy(self.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(24)
        guard_wheel(self)
        self.currentIndexChanged.connect(self._on_index)

    def reload(self) -> None:
        """Read the library again, keeping the choice."""
        self._services.query.ask(read_saes, self._show, key="saes")

    def sae(self) -> SaeRow | None:
        """The chosen SAE."""
        index = self.currentIndex()
        return self._rows[index] if 0 <= index < len(self._rows) else None

    def choose(self, sae_id: str) -> None:
        """Choose an SAE by id, now or as soon as it is known."""
        self._wanted = sae_id
        ids = [row.id for row in self._rows]
        if sae_id in ids:
            self.setCurrentIndex(ids.index(sae_id))

    def _show(self, rows: list[SaeRow]) -> None:
        self._rows = rows
        self.blockSignals(True)
        self.clear()
        for row in rows:
            self.addItem(sae_title(row), row.id)
            self.setItemData(self.count() - 1, row.name, Qt.ItemDataRole.ToolTipRole)
        self.setCurrentIndex(max(0, self.findData(self._wanted)) if rows else -1)
        self.blockSignals(False)
        self._tell()

    def _on_index(self) -> None:
        self._tell()

    def _tell(self) -> None:
        row = self.sae()
        if row is not None:
            self._wanted = row.id
            self._services.settings.remember(self._remember, row.id)
            self.setToolTip(f"{sae_title(row)}\n{row.name}")
        if row != self._told:
            self._told = row
            self.chosen.emit(row)
