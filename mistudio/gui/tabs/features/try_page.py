"""The Try text page of a feature: its value on each token of own text, and what else fires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QComboBox, QSizePolicy, QTableWidgetItem, QVBoxLayout, QWidget

from mistudio.core.analysis_configs import OwnTextConfig
from mistudio.core.config import violations
from mistudio.gui.services import Services
from mistudio.gui.tabs.features import effect_notes
from mistudio.gui.tabs.features.effect_notes import token_pieces
from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.tabs.features.scrolling import scrolling
from mistudio.gui.tabs.features.text_box import ClickedTokens, OwnText
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.facts_table import FactsTable
from mistudio.gui.widgets.layout import guard_wheel

if TYPE_CHECKING:
    from mistudio.gui.tabs.features.why_dialog import WhyDialog

SHOWN = 5
TITLES = ("Token", "This feature", "On the next", *(f"{n}." for n in range(1, SHOWN + 1)))
REMEMBERED = "features.own_text"
MEANING = (
    "The model reads the text with its start token before it. Grey tokens are left out: special "
    "ones, those at positions that the SAE skips, and those of extreme norm. Double-click "
    "a feature to open it."
)
ORDERS = {
    "activation": "by activation",
    "quantile": "by quantile within the feature",
    "loss": "by direct effect on what follows",
}


class TryPage(QWidget):
    """Reads a text with the SAE of the feature shown; `opened` asks for another feature."""

    opened = Signal(int)
    read = Signal(object)  # the largest activation on the text that was read; None: no text

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._services = services
        self._sae_id, self.index = "", -1
        self._maximum = 0.0
        self.result: dict[str, Any] | None = None
        self.attribution: WhyDialog | None = None
        self.text = OwnText(self.run)
        self.text.setPlainText(str(services.settings.recall(REMEMBERED, "")))
        self.run_button = button(
            "Read", self.run, variant="primary", icon="play", tip="Ctrl+Return"
        )
        self.job = OneJob(services, self.run_button, self, failure="The text could not be read.")
        self.job.done.connect(self._on_done)
        self.scale = QComboBox()
        self.scale.addItems(["this text", "feature maximum"])
        self.scale.setAccessibleName("Scale of the highlight")
        self.order = QComboBox()
        for value, text in ORDERS.items():
            self.order.addItem(text, value)
        self.order.setAccessibleName("Order of the features of a token")
        self.order.setToolTip(
            "The strongest features of each token. By effect: those that change the "
            "log-probability of the token that follows most, either way, direct path only."
        )
        for combo in (self.scale, self.order):
            guard_wheel(combo)
        self.scale.currentIndexChanged.connect(self._draw)
        self.order.currentIndexChanged.connect(self._on_order)
        self.legend = label("", "small", wrap=True)
        self.tokens = ClickedTokens()
        self.tokens.piece_clicked.connect(self._on_piece)
        self.table = FactsTable(TITLES, "Strongest features of each token", most=1000)
        self.table.cellDoubleClicked.connect(self._on_cell)
        self.table.cellActivated.connect(self._on_cell)
        self._lay_out()

    def _lay_out(self) -> None:
        px = appearance().px
        self.shown = Card("nested", padding=12)
        # a long text scrolls by itself, so that the table keeps room
        area = scrolling(self.tokens).area
        area.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Maximum)
        self.shown.box.addWidget(area)
        self.shown.setMaximumHeight(px(136))
        self.tools = QWidget()
        tools = row(
            label("Highlight full at", "label"),
            self.scale,
            label("Features of each token", "label"),
            self.order,
            None,
        )
        self.tools.setLayout(tools)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(8))
        box.addWidget(self.text)
        self.why_button = button(
            "Why this next token?", self.why, icon="help", tip="What each feature adds to it"
        )
        read = row(self.run_button, self.why_button, self.job.cancel_button, self.job.state, None)
        box.addLayout(read)
        box.addWidget(self.job.problem)
        box.addWidget(self.legend)
        box.addWidget(self.shown)
        box.addWidget(self.tools)
        box.addWidget(self.table, 1)
        box.addStretch(0)
        self.legend.setText(MEANING)
        for part in (self.shown, self.tools, self.table):
            part.hide()

    def show_page(self, page: Any) -> None:
        """Belong to the feature of a `FeaturePage`; a text that was read is read for it too."""
        if (page.sae_id, page.row.index) == (self._sae_id, self.index):
            return
        again = page.sae_id == self._sae_id and self.result is not None
        self._sae_id, self.index, self._maximum = page.sae_id, page.row.index, page.row.max
        self.result = None
        self.read.emit(None)
        for part in (self.shown, self.tools, self.table):
            part.hide()
        self.legend.setText(MEANING)
        if again and self.run_button.isEnabled():
            self.run()

    def config(self) -> OwnTextConfig:
        """The text as typed, for the feature shown."""
        return OwnTextConfig(
            sae=self._sae_id,
            text=self.text.toPlainText(),
            feature=self.index,
            limit=1,
            per_token=SHOWN,
            effects="every" if self.order.currentData() == "loss" else "feature",
        )

    def run(self) -> None:
        """Read the text, or show what is wrong."""
        config = self.config()
        if found := violations(config):
            self.job.say(" ".join(violation.sentence for violation in found))
            return
        if self.job.submit("own_text", config):
            self._services.settings.remember(REMEMBERED, config.text)

    def read_text(self, text: str) -> None:
        """Read another text than the one that is written there."""
        self.text.setPlainText(text)
        if self.run_button.isEnabled():
            self.run()

    def why(self) -> None:
        """Ask what each feature adds to the token that follows the text."""
        from mistudio.gui.tabs.features.why_dialog import WhyDialog

        if found := violations(self.config()):
            self.job.say(" ".join(violation.sentence for violation in found))
            return
        if self.attribution is not None:
            self.attribution.close()
        made = WhyDialog(
            self._services, self._sae_id, self.text.toPlainText(), self, feature=self.index
        )
        made.opened.connect(self.opened)
        made.finished.connect(self._on_why_closed)
        self.attribution = made
        made.show()
        made.run()

    def _on_why_closed(self) -> None:
        self.attribution = None

    def _on_done(self, result: dict[str, Any]) -> None:
        if (result["sae"], result["feature"]) == (self._sae_id, self.index):
            self.result = result
            self._draw()
            self.read.emit(float(result["largest"] or 0.0))

    def _on_order(self) -> None:
        """Effects of every feature take longer, so they are computed when they are asked for."""
        if self.result is not None and self._missing() and self.run_button.isEnabled():
            self.run()
        self._draw()

    def _missing(self) -> bool:
        """Whether the text was read without what the order needs, and reading it again helps."""
        found = self.result
        return (
            found is not None
            and self.order.currentData() not in found["top"]
            and not found.get("no_effects")
        )

    def _draw(self) -> None:
        found = self.result
        if found is None:
            return
        whole = self.scale.currentIndex() == 1
        full = self._maximum if whole else found["largest"]
        self.tokens.set_tokens(token_pieces(found["pieces"]), full)
        fires = (
            "does not fire on this text"
            if not found["largest"]
            else (f"fires up to {found['largest']:.4f}")
        )
        self.legend.setText(
            f"Feature #{self.index} {fires}; its largest in the feature set is "
            f"{self._maximum:.4f}. {found['fired']:,} features fire here. "
            f"{found.get('no_effects') or 'A tooltip tells what it adds to the next token.'}"
        )
        self.legend.setToolTip(f"{MEANING}\n{effect_notes.MEANING}")
        self._fill(found)
        for part in (self.shown, self.tools, self.table):
            part.show()

    def _fill(self, found: dict[str, Any]) -> None:
        by = str(self.order.currentData())
        each_token = found["top"].get(by, [])
        lines: list[list[str]] = []
        for piece in found["pieces"]:
            first = piece["tokens"][1] - 1
            tops = each_token[first] if each_token and not piece["masked"] else []
            cells = [top_cell(top, by) for top in tops]
            name = marked(piece["text"]) or "start token"
            value = "left out" if piece["masked"] else f"{piece['value']:.4f}"
            effect = effect_notes.cell(piece)
            lines.append([name, value, effect, *cells, *[""] * (SHOWN - len(cells))])
        self.table.set_rows(lines)
        self.table.setMinimumHeight(0)
        self.table.setMaximumHeight(16_777_215)

    def _on_piece(self, piece: int) -> None:
        self.table.selectRow(piece)
        self.table.setFocus()

    def _on_cell(self, line: int, column: int) -> None:
        item: QTableWidgetItem | None = self.table.item(line, column)
        if item is not None and item.text().startswith("#"):
            self.opened.emit(int(item.text().split()[0].removeprefix("#")))


def top_cell(top: Sequence[Any], by: str) -> str:
    """A feature of a token as a cell: its number and what it is ordered by."""
    feature, value, quantile = top[:3]
    if by == "activation":
        return f"#{feature}  {value:.3f}"
    if by == "loss":
        return f"#{feature}  {top[3]:+.4f}"
    share = "—" if quantile is None else f"{100 * quantile:.1f} %"
    return f"#{feature}  {share}"
