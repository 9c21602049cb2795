"""The finished feature sets of an SAE: which one is shown, and deleting it."""

from __future__ import annotations

from functools import partial
from typing import Any

from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from mistudio.core.units import format_bytes
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.tabs.features.overview import Overview
from mistudio.gui.undo import Undo
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.elided import Combo
from mistudio.gui.widgets.layout import guard_wheel
from mistudio.jobs import deletion, dependants
from mistudio.store import features


class SetChooser(QWidget):
    """Offers the sets, the one in use first; hidden without any. What is chosen stays in use."""

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self.combo = Combo()
        self.combo.setAccessibleName("Feature set")
        self.combo.setToolTip("The set of features that is shown, searched and steered with.")
        self.combo.setSizeAdjustPolicy(
            QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
        )
        self.combo.setMinimumContentsLength(24)
        guard_wheel(self.combo)
        self.delete_button = button(
            "", self._on_delete, icon="trash", tip="Delete this feature set; labels stay"
        )
        box = QHBoxLayout(self)
        box.setContentsMargins(0, 0, 0, 0)
        box.addWidget(label("Set", "label"))
        box.addWidget(self.combo, 1)
        box.addWidget(self.delete_button)
        self.combo.currentIndexChanged.connect(self._on_chosen)
        self.hide()

    def show_overview(self, found: Overview) -> None:
        """Offer the sets of an SAE."""
        self.combo.blockSignals(True)
        self.combo.clear()
        for set_id, title in found.sets:
            self.combo.addItem(title, set_id)
        if found.feature_set is not None:
            self.combo.setCurrentIndex(self.combo.findData(found.feature_set.id))
        self.combo.blockSignals(False)
        self.setVisible(bool(found.sets))

    def _on_chosen(self, _index: int) -> None:
        chosen = str(self.combo.currentData())

        def choose(db: Any) -> str:
            features.choose_set(db, chosen)
            return chosen

        self._services.query.ask(choose, self._on_changed)

    def _on_changed(self, feature_set_id: str) -> None:
        self._services.publisher.publish("feature_sets", feature_set_id)

    def _on_delete(self) -> None:
        studio, chosen = self._services.studio, str(self.combo.currentData())
        self._services.query.ask(
            lambda _db: (chosen, dependants.of_feature_set(studio, chosen)), self._on_found
        )

    def _on_found(self, found: tuple[str, dependants.Dependants]) -> None:
        chosen, what = found
        if what.refusal:
            self._services.banner(what.refusal, level="warning")
            return
        size = format_bytes(what.size_bytes)
        sentence = f"{self.combo.currentText()}. {size} are freed; labels and notes stay."
        if confirm(self.window(), "Delete this feature set?", sentence):
            self._services.query.ask(
                lambda _db: self._set_aside(chosen), self._on_set_aside, on_error=self._on_error
            )

    def _set_aside(self, feature_set_id: str) -> str:
        deletion.set_aside_feature_set(self._services.studio, feature_set_id)
        return feature_set_id

    def _on_set_aside(self, feature_set_id: str) -> None:
        self._on_changed(feature_set_id)
        studio = self._services.studio
        Undo(
            self._services,
            "The feature set is deleted.",
            lambda _db: deletion.take_back_feature_set(studio, feature_set_id),
            partial(self._services.publisher.publish, "feature_sets", feature_set_id),
            lambda _db: deletion.finish_feature_set(studio, feature_set_id),
        )

    def _on_error(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="warning")
