"""The field for a repository: what is typed is searched on the Hub, a pasted address is its id."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QEvent, QObject, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QHeaderView, QScrollArea, QTableWidget, QTableWidgetItem, QWidget

from mistudio.core.repositories import (
    TOKEN_SENTENCE,
    from_address,
    place_in_address,
    repository_problem,
)
from mistudio.core.units import EM_DASH, format_bytes, format_count
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, label
from mistudio.gui.widgets.editors import TextEditor

if TYPE_CHECKING:
    from mistudio.jobs.hub_pages import FoundRepo

LIMIT = 20  # repositories asked for at once
_MOST = 200  # after that, better words help more than further lines
_SHOWN = 8  # lines of the popup before it scrolls
_WAIT_MS = 350  # after the last key
_HEADINGS = ("Repository", "Size", "Licence", "Downloads", "Access")


class RepositoryEditor(TextEditor):
    """A repository id with a popup of what the Hub finds; `picked(id)` follows a choice.

    A pasted address leaves its id here; `revision_found` tells the revision it named, and
    `place_found` the folder or file.
    """

    picked = Signal(str)
    revision_found = Signal(str)
    place_found = Signal(str)

    def __init__(self, services: Services, kind: str, parent: QWidget | None = None) -> None:
        """`kind` is "model" or "dataset"."""
        super().__init__("owner/name, an address, or words to search for", parent)
        self._services, self._kind = services, kind
        self._asked, self._limit = "", LIMIT
        self._scrolled: QScrollArea | None = None  # whose scrolling hides the popup
        self.popup = HitList()
        self.popup.hide()
        self.popup.chosen.connect(self._choose)
        self.popup.end_reached.connect(self._ask_for_more)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(_WAIT_MS)
        self._soon.timeout.connect(self.search)
        self.line.textEdited.connect(self._on_typed)
        self.line.textChanged.connect(self._on_text)
        self.line.installEventFilter(self)
        self.destroyed.connect(self.popup.deleteLater)

    def search(self) -> None:
        """Ask the Hub for what is written."""
        words = self._asked = self.value()
        if len(words) < 2:
            self.popup.hide()
            return
        self._show_popup()
        if repository_problem(words) == TOKEN_SENTENCE:
            self.popup.say(TOKEN_SENTENCE)  # and nothing is sent
            return
        self.popup.say("Searching the Hub…")
        self._limit = LIMIT
        self._ask(words, LIMIT)

    def _ask_for_more(self) -> None:
        """Ask for further repositories once the end of the list is seen."""
        if self.popup.table.rowCount() == self._limit < _MOST and self.value() == self._asked:
            self._limit += LIMIT
            self._ask(self._asked, self._limit)

    def _ask(self, words: str, limit: int) -> None:
        studio, kind = self._services.studio, self._kind

        def find(_: object) -> list[FoundRepo]:
            from mistudio.jobs import hub_pages

            return hub_pages.search(studio, kind, words, limit)

        self._services.network.ask(
            find, self._on_found, on_error=self._on_search_error, key="hub search"
        )

    def _on_typed(self, text: str) -> None:
        if self.value():
            self._soon.start()
        else:
            self._soon.stop()
            self.popup.hide()

    def _on_text(self, text: str) -> None:
        repo, revision = from_address(text)
        if repo != text.strip():
            self.line.setText(repo)
            self._soon.stop()
            self.popup.hide()
            self.picked.emit(repo)
            if revision:
                self.revision_found.emit(revision)
            if place := place_in_address(text):
                self.place_found.emit(place)

    def _on_found(self, found: Sequence[FoundRepo]) -> None:
        if self.value() != self._asked or not self.line.hasFocus():
            self.popup.hide()
            return
        self.popup.show_hits(found)
        self._place()

    def _on_search_error(self, sentence: str, details: str) -> None:
        if self.popup.isVisible():
            self.popup.say(sentence)
            self._place()

    def _choose(self, repo: str) -> None:
        self._soon.stop()
        self.popup.hide()
        self._asked = repo
        self.line.setText(repo)
        self.picked.emit(repo)

    def _show_popup(self) -> None:
        self.popup.setParent(self.window())
        if self._scrolled is None and (page := self._page()) is not None:
            self._scrolled = page
            page.verticalScrollBar().valueChanged.connect(self._on_page_scrolled)
        self._place()
        self.popup.show()
        self.popup.raise_()

    def _on_page_scrolled(self, _: int) -> None:
        self.popup.hide()

    def _page(self) -> QScrollArea | None:
        """The page that the field scrolls with: the popup does not."""
        above = self.parentWidget()
        while above is not None and not isinstance(above, QScrollArea):
            above = above.parentWidget()
        return above

    def _place(self) -> None:
        """Put the popup below the line, as wide as the window lets it be."""
        window, px = self.window(), appearance().px
        corner = self.line.mapTo(window, QPoint(0, self.line.height() + px(4)))
        width = max(self.line.width(), min(px(960), window.width() - corner.x() - px(16)))
        left = max(px(8), min(corner.x(), window.width() - width - px(8)))
        height = min(self.popup.wanted_height(), max(px(96), window.height() - corner.y() - px(8)))
        self.popup.setGeometry(left, corner.y(), width, height)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is not self.line:
            return super().eventFilter(watched, event)
        if event.type() in (QEvent.Type.FocusOut, QEvent.Type.Hide):
            self._soon.stop()
            self.popup.hide()
        elif event.type() == QEvent.Type.Move and self.popup.isVisible():
            self._place()
        elif event.type() == QEvent.Type.KeyPress and isinstance(event, QKeyEvent):
            return self._take_key(event)
        return super().eventFilter(watched, event)

    def _take_key(self, event: QKeyEvent) -> bool:
        key = event.key()
        if not self.popup.isVisible():
            if key == Qt.Key.Key_Escape:
                self._soon.stop()
            if key == Qt.Key.Key_Down:
                self.search()
            return key == Qt.Key.Key_Down
        if key in (Qt.Key.Key_Down, Qt.Key.Key_Up):
            self.popup.step(1 if key == Qt.Key.Key_Down else -1)
            return True
        if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            return self.popup.choose_current()
        if key == Qt.Key.Key_Escape:
            self.popup.hide()
            return True
        return False


class HitList(Card):
    """The popup: a line per repository; it never takes the focus from the field."""

    chosen = Signal(str)
    end_reached = Signal()  # the last line is in sight or was stepped past

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("list", parent, padding=6)
        self.box.setSpacing(0)
        self.note = label("", "muted", wrap=True)
        self.note.setContentsMargins(*(appearance().px(8),) * 4)
        self.table = QTableWidget(0, len(_HEADINGS))
        self.table.setTabKeyNavigation(False)  # Tab leaves it
        self.table.setAccessibleName("Repositories found on the Hub")
        self.table.setHorizontalHeaderLabels(list(_HEADINGS))
        self.table.verticalHeader().hide()
        self.table.setShowGrid(False)
        self.table.setEditTriggers(QTableWidget.EditTrigger.NoEditTriggers)
        self.table.setSelectionBehavior(QTableWidget.SelectionBehavior.SelectRows)
        self.table.setSelectionMode(QTableWidget.SelectionMode.SingleSelection)
        self.table.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        # names of one owner differ at their ends
        self.table.setTextElideMode(Qt.TextElideMode.ElideMiddle)
        self.table.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        header = self.table.horizontalHeader()
        header.setHighlightSections(False)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for column in range(1, len(_HEADINGS)):
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.ResizeToContents)
        self.table.cellClicked.connect(self._on_clicked)
        self.table.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        self.box.addWidget(self.note)
        self.box.addWidget(self.table, 1)

    def say(self, sentence: str) -> None:
        """Show a sentence instead of repositories."""
        self.table.setRowCount(0)
        self.table.hide()
        self.note.setText(sentence)
        self.note.show()

    def show_hits(self, found: Sequence[FoundRepo]) -> None:
        """Show what was found; where it goes on from what is shown, place and mark stay."""
        goes_on = [repo.id for repo in found[: self.table.rowCount()]] == self._ids()
        if not found:
            self.say("The Hub has nothing of that name.")
            return
        self.note.hide()
        self.table.setRowCount(len(found))
        for line, repo in enumerate(found):
            for column, text in enumerate(cells_of(repo)):
                item = QTableWidgetItem(text)
                if column in (1, 3):
                    item.setTextAlignment(
                        Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
                    )
                item.setToolTip(repo.id if column == 0 else text)
                self.table.setItem(line, column, item)
        if not goes_on or self.table.isHidden():
            self.table.clearSelection()
            self.table.setCurrentCell(-1, -1)
            self.table.scrollToTop()
        self.table.show()

    def _ids(self) -> list[str]:
        items = (self.table.item(line, 0) for line in range(self.table.rowCount()))
        return [item.text() for item in items if item is not None]

    def wanted_height(self) -> int:
        """Room for the lines there are, a few at most."""
        pad = 2 * appearance().px(6) + 4
        if self.table.isHidden():
            return pad + self.note.sizeHint().height()
        lines = min(self.table.rowCount(), _SHOWN)
        header = self.table.horizontalHeader().sizeHint().height()
        return pad + header + lines * self.table.verticalHeader().defaultSectionSize() + 4

    def step(self, by: int) -> None:
        """Go a line down or up, around the ends."""
        count = self.table.rowCount()
        if count:
            now = self.table.currentRow()
            if by > 0 and now == count - 1:
                self.end_reached.emit()
            wanted = (now + by) % count if now >= 0 else (0 if by > 0 else count - 1)
            self.table.selectRow(wanted)

    def _on_scrolled(self, value: int) -> None:
        if value and value == self.table.verticalScrollBar().maximum():
            self.end_reached.emit()

    def choose_current(self) -> bool:
        """Choose the marked line; False if none is."""
        line = self.table.currentRow()
        if line < 0:
            return False
        self._on_clicked(line)
        return True

    def _on_clicked(self, line: int, *rest: Any) -> None:
        item = self.table.item(line, 0)
        if item is not None:
            self.chosen.emit(item.text())


def cells_of(repo: FoundRepo) -> tuple[str, ...]:
    """Name, size, licence, downloads, and whether it is open, private or gated."""
    access = "gated" if repo.gated else "private" if repo.private else "open"
    if repo.cached:
        access += ", here"
    return (
        repo.id,
        format_bytes(repo.size_bytes),
        repo.licence or EM_DASH,
        format_count(repo.downloads),
        access,
    )
