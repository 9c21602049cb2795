"""The Logit lens page of a feature: the tokens its direction promotes and suppresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from PySide6.QtCore import QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QKeyEvent, QKeySequence, QPainter, QPaintEvent
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QHBoxLayout,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from mistudio.core import lens_figures
from mistudio.core.analysis_configs import FeatureLensConfig
from mistudio.gui.services import Services
from mistudio.gui.style import mono_font
from mistudio.gui.tabs.features.example_card import marked
from mistudio.gui.tabs.library.one_job import OneJob
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row
from mistudio.gui.widgets.histogram_plot import HistogramPlot
from mistudio.gui.widgets.layout import guard_wheel

AT_ONCE = (lens_figures.FEW, lens_figures.KEPT)  # tokens of each end


class TokenBars(QWidget):
    """Tokens with their logits and 6-px bars; Ctrl+C copies them as lines."""

    def __init__(self, name: str, color: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._name, self._color = name, color
        self._tokens: list[tuple[str, float]] = []
        self._rows = AT_ONCE[0]
        self._largest = 0.0
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        appearance().changed.connect(self.update)
        self.set_tokens([], 0.0)

    def set_rows(self, rows: int) -> None:
        """Have room for this many tokens, the next time that some are set."""
        self._rows = rows

    def set_tokens(self, tokens: Sequence[Any], largest: float) -> None:
        """Show `LensToken`s; `largest` is the logit of the longest bar of both lists."""
        self._tokens = [(marked(t.text), t.logit) for t in tokens[: self._rows]]
        self._largest = largest
        self.setAccessibleName(self._name)
        self.setAccessibleDescription(self.text())
        self.updateGeometry()
        self.update()

    def text(self) -> str:
        """One line per token: the token, a tab, its logit."""
        return "\n".join(f"{token}\t{logit:+.4f}" for token, logit in self._tokens)

    def sizeHint(self) -> QSize:
        return QSize(appearance().px(260), self._rows * self._row_height() + 4)

    def minimumSizeHint(self) -> QSize:
        return QSize(appearance().px(200), self.sizeHint().height())

    def _row_height(self) -> int:
        return appearance().px(24 if self._rows <= AT_ONCE[0] else 17)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            QGuiApplication.clipboard().setText(self.text())
        else:
            super().keyPressEvent(event)

    def paintEvent(self, event: QPaintEvent) -> None:
        look = appearance()
        painter = QPainter(self)
        painter.setFont(mono_font(14))
        text_width, number_width, thick = look.px(112), look.px(68), look.px(6)
        room = self.width() - text_width - number_width - look.px(16)
        for position, (token, logit) in enumerate(self._tokens):
            top, height = position * self._row_height() + 2, self._row_height()
            painter.setPen(QColor(look.colors.text))
            middle = Qt.AlignmentFlag.AlignVCenter
            shown = painter.fontMetrics().elidedText(
                token, Qt.TextElideMode.ElideRight, text_width - look.px(8)
            )
            painter.drawText(QRectF(4, top, text_width, height), middle, shown)
            painter.setPen(QColor(look.colors.role(self._color)))
            right = middle | Qt.AlignmentFlag.AlignRight
            painter.drawText(QRectF(text_width, top, number_width, height), right, f"{logit:+.3f}")
            length = room * abs(logit) / self._largest if self._largest else 0.0
            bar = QRectF(self.width() - room, top + (height - thick) / 2, length, thick)
            painter.fillRect(bar, QColor(look.colors.fill(self._color)))
        if self.hasFocus():
            painter.setPen(QColor(look.colors.focus))
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))
        painter.end()


class Scored(NamedTuple):
    """A token and what its bar shows: a logit or a z-score."""

    text: str
    logit: float


class LensPage(QWidget):
    """Top positive and negative tokens side by side, the whole vocabulary as a histogram.

    What the feature set keeps is shown at once; raw logits and z-scores come from the model.
    """

    def __init__(self, services: Services, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        px = appearance().px
        self._page: Any = None
        self.found: dict[str, Any] | None = None
        self.how = QComboBox()
        self.how.addItem("Past the final norm", False)
        self.how.addItem("Raw: decoder row × unembedding", True)
        self.how.setAccessibleName("Which logits")
        self.how.setToolTip(
            "Past the final norm: with its gain and centring, less the mean over the vocabulary. "
            "Raw: the decoder row times the unembedding and nothing else."
        )
        guard_wheel(self.how)
        self.z_scores = QCheckBox("z-scores")
        self.z_scores.setToolTip(
            "(logit − mean) / standard deviation over the vocabulary, to compare features."
        )
        self.again = button("Compute", self.run, icon="play", tip="Ask the model for these")
        self.job = OneJob(services, self.again, self, failure="The lens could not be computed.")
        self.job.done.connect(self._on_done)
        self.many = QComboBox()
        for many in AT_ONCE:
            self.many.addItem(f"{many} tokens", many)
        self.many.setAccessibleName("Tokens of each list")
        self.many.setToolTip(
            f"How many tokens each list shows. Feature sets keep {AT_ONCE[1]}; of one that keeps "
            "fewer the model is asked."
        )
        guard_wheel(self.many)
        self.many.currentIndexChanged.connect(self._on_changed)
        self.how.currentIndexChanged.connect(self._on_changed)
        self.z_scores.toggled.connect(self._on_changed)
        self.positive = TokenBars("Promoted tokens", "emerald")
        self.negative = TokenBars("Suppressed tokens", "red")
        self.note = label("", "muted", wrap=True)
        self.histogram = HistogramPlot(
            "Logits over the vocabulary", "logit", color="emerald", below_zero="red"
        )
        self.shape = label("", "small", wrap=True)
        self.shape.setToolTip(
            "Of the logits z, standardised over the vocabulary: skew E[z³], kurtosis E[z⁴]. 0 and "
            "3 for a normal distribution; a large skew means that few tokens are promoted much."
        )
        sides = QHBoxLayout()
        sides.setSpacing(px(16))
        for title, bars in (("Promoted", self.positive), ("Suppressed", self.negative)):
            card = Card("settings", padding=12)
            card.box.addWidget(label(title, "label"))
            card.box.addWidget(bars)
            card.box.addStretch(1)
            sides.addWidget(card, 3)
        whole = QVBoxLayout()
        whole.setSpacing(px(4))
        whole.addWidget(self.histogram, 1)
        whole.addWidget(self.shape)
        sides.addLayout(whole, 4)
        box = QVBoxLayout(self)
        box.setContentsMargins(0, px(8), 0, 0)
        box.setSpacing(px(8))
        tools = row(self.how, self.many, self.z_scores, self.again, self.job.cancel_button)
        tools.addWidget(self.job.state, 1)
        self.again.hide()
        box.addLayout(tools)
        box.addWidget(self.job.problem)
        box.addWidget(self.note)
        box.addLayout(sides, 1)

    def show_page(self, page: Any) -> None:
        """Show the lens of a `FeaturePage`, or why there is none."""
        before, self._page = self._page, page
        if before is None or (before.row.index, before.feature_set_id) != (
            page.row.index,
            page.feature_set_id,
        ):
            self.found = None
            self.job.say("")
        self._on_changed()

    def config(self) -> FeatureLensConfig:
        """What is chosen, of the feature shown."""
        page = self._page
        return FeatureLensConfig(
            sae=page.sae_id, feature=page.row.index, raw=bool(self.how.currentData())
        )

    def run(self) -> None:
        """Ask the model for the logits that are chosen."""
        if self._page is not None:
            self.job.submit("feature_lens", self.config())

    def _on_changed(self) -> None:
        """Show what is chosen; what the feature set does not hold is asked of the model."""
        if self._page is None:
            return
        rows = int(self.many.currentData())
        for bars in (self.positive, self.negative):
            bars.set_rows(rows)
        # a set without a lens has none for the model to give either
        too_few = 0 < len(self._page.positive) < rows
        from_model = bool(self.how.currentData()) or self.z_scores.isChecked() or too_few
        if not from_model:
            self._show_stored(self._page)
        elif self._fits():
            self._show_found()
        else:
            self._show_nothing()
            if self.again.isEnabled():
                self.run()

    def _fits(self) -> bool:
        wanted = self.config()
        return self.found is not None and (self.found["feature"], self.found["raw"]) == (
            wanted.feature,
            wanted.raw,
        )

    def _on_done(self, result: dict[str, Any]) -> None:
        if self._page is not None and result["sae"] == self._page.sae_id:
            self.found = result
            self._on_changed()

    def _show_nothing(self) -> None:
        """Other logits than those that are chosen would be misread."""
        for bars in (self.positive, self.negative):
            bars.set_tokens([], 0.0)
        self.histogram.set_counts([], [])
        self.shape.setText("")
        self.note.setText("These come from the model, which is asked for them.")

    def _show_found(self) -> None:
        found = self.found
        assert found is not None
        place = 2 if self.z_scores.isChecked() else 1
        sides = [
            [Scored(line[0], line[place]) for line in found[s]] for s in ("positive", "negative")
        ]
        largest = max((abs(token.logit) for side in sides for token in side), default=0.0)
        self.positive.set_tokens(sides[0], largest)
        self.negative.set_tokens(sides[1], largest)
        edges = [float(edge) for edge in found["edges"]]
        if place == 2:
            edges = [(edge - found["mean"]) / max(found["deviation"], 1e-30) for edge in edges]
        self.histogram.set_counts(edges, found["counts"])
        self.shape.setText(
            f"Skew {found['skew']:.3f} · kurtosis {found['kurtosis']:.2f} · mean "
            f"{found['mean']:+.4f} · deviation {found['deviation']:.4f}"
        )
        how = (
            "Decoder row times unembedding, without the final norm's gain and centring."
            if found["raw"]
            else "What the direction adds to each next-token logit, past the final norm."
        )
        unit = " In standard deviations over the vocabulary." if place == 2 else ""
        self.note.setText(f"{how}{unit} This is the direct path only.")

    def _show_stored(self, page: Any) -> None:
        every = [*page.positive, *page.negative]
        largest = max((abs(token.logit) for token in every), default=0.0)
        self.positive.set_tokens(page.positive, largest)
        self.negative.set_tokens(page.negative, largest)
        self.histogram.set_counts(page.logits.edges, page.logits.counts)
        skew, kurtosis = page.row.skew, page.row.kurtosis
        known = skew is not None and kurtosis is not None
        self.shape.setText(f"Skew {skew:.3f} · kurtosis {kurtosis:.2f}" if known else "")
        self.note.setText(page.lens_note or reading(page))


def reading(page: Any) -> str:
    """One line that says what the lists show."""
    if not page.positive:
        return "There is no logit lens for this feature."
    most = " ".join(f"“{marked(t.text)}”" for t in page.positive[:3])
    return (
        f"What the direction adds to each next-token logit, past the final norm: most to {most}. "
        "This is the direct path only."
    )
