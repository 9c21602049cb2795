"""Help ▸ About: version, licence, where things are, what it is built on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QFormLayout, QWidget

import mistudio
from mistudio.gui.dialog import Dialog
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import IconLabel, button, label, row

BUILT_ON = ("PySide6-Essentials", "torch", "transformers", "safetensors", "numpy", "pyqtgraph")


class AboutDialog(Dialog):
    """`report_asked` follows its button."""

    report_asked = Signal()

    def __init__(self, services: Services, parent: QWidget) -> None:
        super().__init__("About miStudio", parent, width=640, height_share=0.75)
        px = appearance().px
        head = row(
            IconLabel("brand", "emerald", 48),
            label(f"miStudio {mistudio.__version__}", "title"),
            None,
            spacing=16,
        )
        self.box.addLayout(head)
        self.box.addWidget(
            label("Mechanistic interpretability on your own machine.", "muted", wrap=True)
        )
        facts = QFormLayout()
        facts.setVerticalSpacing(px(8))
        facts.setHorizontalSpacing(px(24))
        home = services.studio.paths.home
        for name, text in (
            ("Licence", "Apache License 2.0"),
            ("Telemetry", "None: nothing is sent anywhere"),
            ("Data folder", str(home)),
            ("Logs", str(services.studio.paths.logs)),
            ("Python", platform.python_version()),
            ("Built on", ", ".join(_versions())),
        ):
            facts.addRow(label(name, "label"), label(text, wrap=True, selectable=True))
        self.box.addLayout(facts)
        self.box.addStretch(1)
        self.buttons.addWidget(
            button(
                "Copy report",
                self.report_asked.emit,
                icon="copy",
                tip="Versions, device and last errors, without tokens and private paths",
            )
        )
        self.add_close()


def _versions() -> list[str]:
    """Names with versions of what is installed; reads no library."""
    found: list[str] = []
    for name in BUILT_ON:
        try:
            found.append(f"{name.removesuffix('-Essentials')} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found
