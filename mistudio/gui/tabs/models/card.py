"""A model in the list: what it is, the job that works on it, and what can be done with it."""

from __future__ import annotations

from PySide6.QtCore import Signal

from mistudio.core.units import EM_DASH, format_bytes, format_short
from mistudio.gui.services import Services
from mistudio.gui.tabs.library.cards import ObjectCard
from mistudio.gui.tabs.models.formats import QUANTISED, format_name
from mistudio.gui.widgets.cards import button, set_icon
from mistudio.gui.widgets.flow import FlowRow
from mistudio.store.records import ModelRow

_CHECKABLE = ("error", "cancelled", "incompatible")
_LOOK_ONLY = "It can be looked at, but not worked with: "


class ModelCard(ObjectCard):
    """A model with its actions; `asked(model id, what)` follows a button.

    What is asked is extract, lens, format, report, load (and check) or allow (its code).
    """

    asked = Signal(str, str)

    def __init__(self, services: Services, model_id: str) -> None:
        super().__init__(model_id, "chip", "purple")
        self._services = services
        self._loaded = False
        self.extract = button(
            "Extract activations",
            self._ask_extract,
            icon="download",
            tip="Store what layers of this model say about each token of a text",
        )
        self.lens = button("Prompt lens", self._ask_lens, icon="eye")
        self.format = button(
            "Format",
            self._ask_format,
            icon="sliders",
            tip="Change the precision of the weights, with the memory that each takes",
        )
        self.report = button("Quantisation report", self._ask_report, icon="curve")
        self.load = button("Load", self._load, icon="bolt")
        self.allow = button(
            "Allow its code…",
            self._ask_allow,
            icon="alert",
            tip="Says what that means before anything is run",
        )
        self._of_ready = (self.extract, self.lens, self.format, self.report)
        self.box.addLayout(FlowRow(*self._of_ready, self.load, self.allow))

    def show_model(self, model: ModelRow, *, loaded: bool) -> None:
        """Show the row, and whether this process holds the model."""
        self._loaded = loaded
        ready = model.status == "ready"
        state = "loaded" if loaded and ready else model.status
        self.show_object(model.name, facts_of(model), state, extra=flags_of(model))
        for part in self._of_ready:
            part.setVisible(ready)
            part.setAccessibleName(f"{part.text()} {model.name}")
        self.allow.setVisible(not ready and model.error_code == "needs_code")
        self.report.setToolTip("Compare a quantised form with 16 bit on a text")
        self._show_lens(model)
        self._show_load(model)

    def _show_lens(self, model: ModelRow) -> None:
        why = str((model.layer_map or {}).get("lens_why") or "the output matrix does not fit")
        self.lens.setEnabled(model.logit_lens_ready)
        self.lens.setToolTip(
            "What the model would say after each layer"
            if model.logit_lens_ready
            else f"No logit lens: {why}"
        )

    def _show_load(self, model: ModelRow) -> None:
        ready = model.status == "ready"
        words = ("Load", "Load it into memory now")
        if self._loaded and ready:
            words = ("Unload", "Give the model's memory back")
        elif not ready:
            words = ("Check again", "Load it once more and look for its layers")
        set_icon(self.load, "unload" if words[0] == "Unload" else "bolt")
        self.load.setText(words[0])
        self.load.setToolTip(words[1])
        self.load.setAccessibleName(f"{words[0]} {model.name}")
        self.load.setVisible(ready or model.status in _CHECKABLE)

    def _ask_extract(self) -> None:
        self.asked.emit(self.object_id, "extract")

    def _ask_lens(self) -> None:
        self.asked.emit(self.object_id, "lens")

    def _ask_format(self) -> None:
        self.asked.emit(self.object_id, "format")

    def _ask_report(self) -> None:
        self.asked.emit(self.object_id, "report")

    def _ask_allow(self) -> None:
        self.asked.emit(self.object_id, "allow")

    def _load(self) -> None:
        if not self._loaded:
            self.asked.emit(self.object_id, "load")
        elif self._services.studio.models.unload():
            self._services.publisher.publish("models", self.object_id)
        else:
            self._services.banner("The model is being loaded; it can be unloaded after that.")


def facts_of(model: ModelRow) -> str:
    """ "135.0M parameters · FP32 · 538.0 MB in memory · 91.7 MB on disk"."""
    return " · ".join(
        (
            f"{format_short(model.params_count)} parameters",
            format_name(model.format),
            f"{format_bytes(model.memory_bytes)} in memory",
            f"{format_bytes(model.size_bytes)} on disk",
        )
    )


def flags_of(model: ModelRow) -> str:
    """Architecture, origin, and what is particular; for a failed one the sentence that says why."""
    if model.status in ("error", "cancelled") and model.error_message:
        return model.error_message
    if model.status == "incompatible":
        return _LOOK_ONLY + (model.error_message or EM_DASH)
    flags = [model.architecture or "Unknown architecture", origin_of(model)]
    if model.format in QUANTISED:
        flags.append("quantised")
    if model.status == "ready":
        flags.append("logit lens ready" if model.logit_lens_ready else "no logit lens")
    if model.trust_remote_code:
        flags.append("runs its repository's code")
    if model.licence:
        flags.append(f"licence {model.licence}")
    return " · ".join(flags)


def origin_of(model: ModelRow) -> str:
    """Where a model is from: its repository and revision, or folder, or gguf."""
    if not model.repo_id:
        return model.origin
    revision = model.revision or "main"
    return model.repo_id if revision == "main" else f"{model.repo_id} @ {revision}"
