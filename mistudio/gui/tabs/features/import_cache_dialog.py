"""A feature set from a delphi cache: where it lies, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistudio.core.feature_export_configs import ImportCacheConfig
from mistudio.core.units import format_count
from mistudio.gui.tabs.features.sae_import_dialog import SaeImportDialog
from mistudio.gui.widgets.config_form import ConfigForm
from mistudio.gui.widgets.editors import PathEditor

_MEANING = (
    "Takes over every activation that delphi cached, with the tokens: the text is decoded into a "
    "dataset of its own, and statistics, examples, logit lens and labels are computed as for text "
    "that was read here. The model reads the first rows, to see whether the cache is of this SAE."
)


class ImportCacheDialog(SaeImportDialog[ImportCacheConfig]):
    """A folder, a name for the text, and the job that takes it over."""

    title = "Import a delphi cache"
    meaning = _MEANING
    tip = "Compare the first rows with the model, then make the feature set"
    cancel_tip = "End this import; nothing is left of it"

    def make_form(self) -> ConfigForm[ImportCacheConfig]:
        return ConfigForm(
            ImportCacheConfig,
            ("path", "name", "labels"),
            editors={"path": PathEditor("folder")},
            columns=1,
            command="features import-delphi",
            positional=("path", "sae"),
        )

    def start(self) -> None:
        """Queue the import, or show what is wrong."""
        config = self.form.checked()
        if config is not None:
            self.found.setText("")
            self.job.submit("import_cache", config)

    def tell(self, result: Mapping[str, Any]) -> None:
        share = 100 * result["agreement"]["share"]
        self.found.setText(
            f"{format_count(result['live_features'])} of {format_count(result['features'])} "
            f"features fire on {format_count(result['tokens'])} tokens. On the first rows "
            f"{share:.1f} % of the activations that the cache or the SAE has are in both."
        )
