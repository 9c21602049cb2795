"""Every control of every form, tab and dialog says what it is for, in its own tooltip."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSlider,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QScrollBar,
    QTabBar,
    QTextEdit,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

import mistudio.gui
from mistudio.core.config import Config, settings_of
from mistudio.core.settings import described_settings, text_of
from mistudio.gui.actions import ACTIONS
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services, Tab
from mistudio.jobs import activation_pages, library_pages, model_pages
from mistudio.jobs.feature_samples import ExampleSample
from mistudio.jobs.registry import JOB_KINDS
from mistudio.store.records import SteeringRunRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, MODELS, SAES, STEERING_RUNS
from mistudio.system.monitor import Monitor
from tests.gui import feature_world, training_world

CONTROLS = (
    QAbstractButton,
    QComboBox,
    QLineEdit,
    QAbstractSpinBox,
    QAbstractSlider,
    QPlainTextEdit,
    QTextEdit,
)
LEAST = 4  # characters of a tooltip that says something


def _classes() -> None:
    for found in pkgutil.walk_packages(mistudio.gui.__path__, "mistudio.gui."):
        importlib.import_module(found.name)


def _below(cls: type) -> Iterator[type]:
    for found in cls.__subclasses__():
        yield found
        yield from _below(found)


def silent(root: QWidget) -> list[str]:
    """Controls below `root` without a tooltip of their own, or of a field around them."""
    found: list[str] = []
    for control in root.findChildren(QWidget):
        part_of = control.parentWidget()
        inner = isinstance(
            part_of, QAbstractSpinBox | QComboBox | QAbstractItemView | QTabBar | QLineEdit
        )
        part = inner or isinstance(control, QScrollBar) or not isinstance(control, CONTROLS)
        if part or (isinstance(control, QLineEdit | QPlainTextEdit) and control.isReadOnly()):
            continue
        if isinstance(control, QToolButton) and not control.text() and not control.menu():
            continue  # the arrows of a tab bar, the extension of a menu
        if isinstance(control, QAbstractButton) and not control.text() and control.icon().isNull():
            continue  # of an empty state that offers nothing
        above, tip = control, ""
        while not tip and above is not None and above is not root:
            tip, above = above.toolTip(), above.parentWidget()
        if len(tip) < LEAST:
            text = control.text() if isinstance(control, QAbstractButton) else ""
            found.append(f"{type(control).__name__} {control.accessibleName() or text!r}")
    return found


def test_every_setting_of_a_job_has_a_sentence() -> None:
    bad = [
        f"{cls.__name__}.{setting.name}: {setting.option.help!r}"
        for cls in {*_below(Config), *(kind.config_class for kind in JOB_KINDS.values())}
        if cls.__module__.startswith("mistudio.")
        for setting in settings_of(cls)
        if len(setting.option.help) < 12 or setting.option.help[-1] not in ".?"
    ]
    assert bad == []


def test_settings_of_the_program_and_actions_are_described() -> None:
    assert all(len(text_of(name).help) > 40 for name in described_settings())
    assert [spec.name for spec in ACTIONS if len(spec.tip) < LEAST] == []


class Library:
    """Rows of everything, and what makes each dialog from them."""

    def __init__(self, services: Services, folder: Path) -> None:
        self.services = services
        db = services.studio.db()
        self.world = feature_world.add_world(db)
        self.model = MODELS.insert(
            db, name="wide", origin="folder", path="/no", status="ready", num_layers=4, hidden_dim=8
        )
        training = training_world.add_world(db)
        self.run, self.job = training_world.add_training(db, training, "completed")
        self.other = training_world.add_sae(db, training, "other")
        self.set = ACTIVATION_SETS.insert(
            db,
            name="kept",
            status="completed",
            layers="0",
            hooks="resid_post",
            model_id=self.model.id,
        )
        self.runs: list[SteeringRunRow] = [
            STEERING_RUNS.insert(db, mode="blended", prompt="The", config={}, status="completed")
            for _ in range(2)
        ]

    def makers(self, parent: QWidget) -> dict[str, Callable[[], QWidget]]:
        """By the name of the class, with its module where two have the same."""
        from mistudio.core.training_configs import TrainConfig
        from mistudio.gui import (
            about_dialog,
            command_palette,
            crash,
            doctor_dialog,
            help_window,
            job_log,
            settings_dialog,
            storage_dialog,
            system_dialog,
        )
        from mistudio.gui.tabs.datasets import detail as dataset_detail
        from mistudio.gui.tabs.features import (
            ablate_dialog,
            absorption_dialog,
            bench_page,
            detail,
            export_dialog,
            health_dialog,
            import_cache_dialog,
            import_explanations_dialog,
            label_dialog,
            lists_dialog,
            map_dialog,
            sample_dialog,
            text_dialog,
            why_dialog,
        )
        from mistudio.gui.tabs.models import export_dialog as set_export
        from mistudio.gui.tabs.models import (
            extract_dialog,
            format_dialog,
            import_vectors,
            lens_dialog,
            report_dialog,
            set_dialog,
            viewer,
        )
        from mistudio.gui.tabs.steering import compare, vectors_dialog, vectors_import
        from mistudio.gui.tabs.training import (
            compare_dialog,
            compare_runs,
            continue_dialog,
            import_dialog,
            sae_details,
            sae_forms,
            survival_dialog,
        )

        to, sae, studio = self.services, self.world.sae, self.services.studio
        listed = library_pages.datasets(studio).datasets[0]
        return {
            "AboutDialog": lambda: about_dialog.AboutDialog(to, parent),
            "ErrorDialog": lambda: crash.ErrorDialog("It broke.", "trace", parent),
            "ShortcutSheet": lambda: command_palette.ShortcutSheet([], parent),
            "DoctorDialog": lambda: doctor_dialog.DoctorDialog(to, parent),
            "HelpWindow": lambda: help_window.HelpWindow(parent),
            "SettingsDialog": lambda: settings_dialog.SettingsDialog(to, parent),
            "StorageDialog": lambda: storage_dialog.StorageDialog(to, parent),
            "SystemDialog": lambda: system_dialog.SystemDialog(Monitor(studio.paths.home), parent),
            "JobLog": lambda: job_log.JobLog(to, self.job, parent),
            "DatasetDialog": lambda: dataset_detail.DatasetDialog(to, listed, parent),
            "AbsorptionDialog": lambda: absorption_dialog.AbsorptionDialog(to, sae, 1, parent),
            "AblateDialog": lambda: ablate_dialog.AblateDialog(to, sae, parent),
            "FeatureDetail": lambda: detail.FeatureDetail(to, parent),
            "_Timed": lambda: bench_page._Timed(to, parent),
            "ExportFeaturesDialog": lambda: export_dialog.ExportFeaturesDialog(
                to, sae, {"all": [0, 1]}, parent
            ),
            "HealthDialog": lambda: health_dialog.HealthDialog(to, sae, parent),
            "ImportCacheDialog": lambda: import_cache_dialog.ImportCacheDialog(to, sae, parent),
            "SampleDialog": lambda: sample_dialog.SampleDialog(
                to, ExampleSample("d", "tales", 0, "train", 4, "once", 0, 4), parent
            ),
            "ImportExplanationsDialog": lambda: import_explanations_dialog.ImportExplanationsDialog(
                to, sae, parent
            ),
            "LabelDialog": lambda: label_dialog.LabelDialog(to, sae, np.arange(2), parent),
            "ListsDialog": lambda: lists_dialog.ListsDialog(to, parent),
            "MapDialog": lambda: map_dialog.MapDialog(to, sae, self.world.feature_set, parent),
            "TextDialog": lambda: text_dialog.TextDialog(to, sae, parent),
            "WhyDialog": lambda: why_dialog.WhyDialog(to, sae.id, "The old", parent),
            "ExportDialog": lambda: set_export.ExportDialog(to, self.set, parent),
            "ExtractDialog": lambda: extract_dialog.ExtractDialog(to, self.model, parent),
            "FormatDialog": lambda: format_dialog.FormatDialog(to, self.model, parent),
            "PromptLensDialog": lambda: lens_dialog.PromptLensDialog(to, self.model, parent),
            "ReportDialog": lambda: report_dialog.ReportDialog(to, self.model, parent),
            "ActivationSetDialog": lambda: set_dialog.ActivationSetDialog(
                to,
                activation_pages.SetPage(
                    self.set, "wide", "novels", Path("/no"), [], None, None, None, 0
                ),
                parent,
            ),
            "ImportVectorsDialog models": lambda: import_vectors.ImportVectorsDialog(to, parent),
            "ArchitectureViewer": lambda: viewer.ArchitectureViewer(
                self.model, model_pages.architecture(studio, self.model), Path("/no"), parent
            ),
            "CompareRuns steering": lambda: compare.CompareRuns(self.runs, lambda _: "", parent),
            "ImportVectorsDialog steering": lambda: vectors_import.ImportVectorsDialog(to, parent),
            "VectorsDialog": lambda: vectors_dialog.VectorsDialog(to, parent),
            "CompareDialog": lambda: compare_dialog.CompareDialog(to, sae, self.other, parent),
            "ImportSaeDialog": lambda: import_dialog.ImportSaeDialog(to, parent),
            "JobDialog": lambda: sae_forms.export_form(to, sae, parent),
            "ContinueDialog": lambda: continue_dialog.ContinueDialog(
                to,
                TrainConfig(model=self.model.id, continue_from=f"{self.run.id}@5"),
                "again",
                parent,
            ),
            "SurvivalDialog": lambda: survival_dialog.SurvivalDialog(to, sae, parent),
            "SaeDetails": lambda: sae_details.SaeDetails(to, SAES.get(studio.db(), sae.id), parent),
            "CompareRuns training": lambda: compare_runs.CompareRuns(to, [self.run.id], parent),
        }


def test_every_control_of_every_dialog(
    qtbot: QtBot, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _classes()
    parent = QWidget()
    qtbot.addWidget(parent)
    parent.resize(1240, 640)
    makers = Library(services, tmp_path).makers(parent)
    known = {name.split()[0] for name in makers}
    mine = [c for c in _below(Dialog) if c.__module__.startswith("mistudio.")]
    told = {cls.__name__ for cls in mine if not cls.__subclasses__() or cls.__name__ in known}
    assert told == known, "a dialog that this test does not build"
    for lane in (services.query, services.network):  # what a dialog reads is not looked at
        monkeypatch.setattr(lane, "ask", lambda *_, **__: None)
    said: list[str] = []
    for name, make in makers.items():
        dialog = make()
        said += [f"{name}: {found}" for found in silent(dialog)]
        dialog.close()
    assert not said, "\n".join(said)
    assert JOBS.select(services.studio.db(), "status = 'queued'") == []


@pytest.mark.parametrize("name", ["Datasets", "Models", "Training", "Features", "Steering"])
def test_every_control_of_every_tab(
    qtbot: QtBot, services: Services, tmp_path: Path, name: str
) -> None:
    Library(services, tmp_path)
    module: Any = importlib.import_module(f"mistudio.gui.tabs.{name.lower()}.tab")
    tab: Tab = getattr(module, f"{name}Tab")(services)
    qtbot.addWidget(tab)
    tab.resize(1240, 640)
    tab.show()
    qtbot.waitUntil(services.query.is_idle, timeout=5000)
    qtbot.wait(120)
    qtbot.waitUntil(services.query.is_idle, timeout=5000)
    found = silent(tab)
    assert not found, "\n".join(found)
