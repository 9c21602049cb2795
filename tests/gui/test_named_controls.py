"""Whatever can be operated says what it is, and what it does."""

from __future__ import annotations

import pytest
from PySide6.QtWidgets import (
    QAbstractButton,
    QAbstractItemView,
    QAbstractSpinBox,
    QComboBox,
    QLineEdit,
    QPlainTextEdit,
    QToolButton,
    QWidget,
)
from pytestqt.qtbot import QtBot

from mistudio.gui.services import Services
from mistudio.gui.storage_dialog import StorageDialog
from mistudio.gui.system_dialog import SystemDialog
from mistudio.gui.tabs.datasets import DatasetsTab
from mistudio.gui.tabs.models.extract_dialog import ExtractDialog
from mistudio.gui.tabs.models.format_dialog import FormatDialog
from mistudio.gui.tabs.models.lens_dialog import PromptLensDialog
from mistudio.gui.tabs.models.report_dialog import ReportDialog
from mistudio.system.monitor import Monitor
from tests.gui.model_world import add_model, open_tab, settle

CONTROLS = (QAbstractButton, QComboBox, QLineEdit, QAbstractSpinBox, QPlainTextEdit)


def unnamed(root: QWidget) -> list[str]:
    """Controls below `root` without an accessible name or a tooltip of their own or their field."""
    found: list[str] = []
    for control in root.findChildren(QWidget):
        part_of = control.parentWidget()
        inner = isinstance(part_of, QAbstractSpinBox | QComboBox | QAbstractItemView)
        if not isinstance(control, CONTROLS) or inner or isinstance(control, QToolButton):
            continue
        text = control.text() if isinstance(control, QAbstractButton) else ""
        above, tip = control, ""
        while not tip and above is not None and above is not root:
            tip, above = above.toolTip(), above.parentWidget()
        if not (control.accessibleName() or text) or not tip:
            found.append(f"{type(control).__name__} {control.accessibleName() or text!r}")
    return found


def test_controls_of_the_datasets_tab(qtbot: QtBot, services: Services) -> None:
    services.lanes.start()
    tab = DatasetsTab(services)
    qtbot.addWidget(tab)
    settle(qtbot, services)
    assert unnamed(tab.sources) == []
    assert unnamed(tab.filters) == []


def test_controls_of_the_models_tab(qtbot: QtBot, services: Services) -> None:
    model = add_model(services, num_layers=4)
    tab = open_tab(qtbot, services)
    assert unnamed(tab.sources) == []
    assert unnamed(tab._cards[model.id]) == []


@pytest.mark.parametrize("kind", [ExtractDialog, FormatDialog, PromptLensDialog, ReportDialog])
def test_controls_of_the_dialogs_of_a_model(
    qtbot: QtBot, services: Services, kind: type[QWidget]
) -> None:
    services.lanes.start()
    parent = QWidget()
    qtbot.addWidget(parent)
    dialog = kind(services, add_model(services, num_layers=4), parent)  # type: ignore[call-arg]
    dialog.show()
    settle(qtbot, services)
    assert [line for line in unnamed(dialog) if "Templates" not in line] == []
    dialog.close()


def test_controls_of_the_windows_of_the_machine(qtbot: QtBot, services: Services) -> None:
    parent = QWidget()
    qtbot.addWidget(parent)
    system = SystemDialog(Monitor(services.studio.paths.home), parent)
    storage = StorageDialog(services, parent)
    qtbot.waitUntil(services.query.is_idle)
    for dialog in (system, storage):
        charts = [line for line in unnamed(dialog) if "'log'" not in line]
        assert charts == []
        dialog.close()
