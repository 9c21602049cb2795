"""F1: every setting, action and tab in the words that stand beside it, with a search."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtWidgets import QHBoxLayout, QListWidget, QListWidgetItem, QVBoxLayout, QWidget

from mistudio.gui.dialog import Dialog
from mistudio.gui.help_topics import HERE, TABS, Topic, topics
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import button, label
from mistudio.gui.widgets.layout import CenteredColumn, SearchField

_ROLE = Qt.ItemDataRole.UserRole


class HelpWindow(Dialog):
    """A list of entries beside the chosen one. `tour_asked(tab name)`, `shortcuts_asked()`."""

    tour_asked = Signal(str)
    shortcuts_asked = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__("Help", parent, width=960, height_share=0.94, scroll=False)
        self._topics = topics()
        self._here: Topic | None = None  # of a control that no table knows
        self.shown: Topic | None = None
        px = appearance().px
        self.search = SearchField("Search settings, actions and tabs")
        self.search.setAccessibleName("Search the help")
        self.search.setToolTip("Entries that hold every word; Return goes to the list")
        self.list = QListWidget()
        self.list.setAccessibleName("Entries")
        self.list.setToolTip("Arrow keys go from entry to entry")
        self.list.setFixedWidth(px(340))
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setTextElideMode(Qt.TextElideMode.ElideRight)
        self.none = label("No entry holds all these words.", "muted", wrap=True)
        self.page = CenteredColumn(width=560)
        self.page.box.setContentsMargins(0, 0, px(8), 0)
        self.section = label("", "small", wrap=True)
        self.title = label("", "section", wrap=True)
        self.text = label("", wrap=True, selectable=True)
        self.facts = label("", "muted", wrap=True, selectable=True)
        self.tour_button = button(
            "Take the tour", self._on_tour, icon="eye", tip="Five sentences at the tab itself"
        )
        for part in (self.section, self.title, self.text, self.facts):
            self.page.box.addWidget(part)
        self.page.box.addWidget(self.tour_button, 0, Qt.AlignmentFlag.AlignLeft)
        self.page.box.addStretch(1)  # an alignment at the top would leave too little for the texts
        left = QVBoxLayout()
        left.setSpacing(px(8))
        for part in (self.search, self.list, self.none):
            left.addWidget(part)
        both = QHBoxLayout()
        both.setSpacing(px(20))
        both.addLayout(left)
        both.addWidget(self.page, 1)
        self.box.addLayout(both)
        keys = button("Shortcuts", self.shortcuts_asked.emit, tip="Every key at a glance (Ctrl+?)")
        self.buttons.insertWidget(0, keys)
        self.add_close()
        self.search.textChanged.connect(self._fill)
        self.search.returnPressed.connect(self.list.setFocus)
        self.list.currentItemChanged.connect(self._on_current)
        self.show_topic(None)

    def show_topic(self, topic: Topic | None) -> None:
        """Open at an entry, None: at the first one; a search is cleared."""
        self._here = topic if topic is not None and not topic.key else None
        self.search.blockSignals(True)
        self.search.clear()
        self.search.blockSignals(False)
        self._fill()
        if topic is not None:
            self._choose(topic)
        self.search.setFocus()

    def _choose(self, wanted: Topic) -> None:
        """Select an entry, of settings that several jobs share the one that is listed."""
        items = [self.list.item(place) for place in range(self.list.count())]
        listed = {item.data(_ROLE): item for item in items if item.data(_ROLE) is not None}
        same = [t for t in listed if t.key == wanted.key] or [
            t for t in listed if (t.title, t.text) == (wanted.title, wanted.text)
        ]
        if same:
            self.list.setCurrentItem(listed[same[0]])
            self.list.scrollToItem(listed[same[0]], QListWidget.ScrollHint.PositionAtCenter)

    @Slot()
    def _fill(self) -> None:
        """List the entries that hold every word of the search, under their sections."""
        words = self.search.text().casefold().split()
        known = [self._here] if self._here is not None else []
        found = [t for t in (*known, *self._topics) if t.matches(words)]
        self.list.clear()
        section = ""
        for topic in found:
            if topic.section != section:
                section = topic.section
                self._add_heading(section)
            item = QListWidgetItem(topic.title)
            item.setData(_ROLE, topic)
            item.setToolTip(topic.text)
            self.list.addItem(item)
        self.none.setVisible(not found)
        self.list.setVisible(bool(found))
        if found:
            self.list.setCurrentRow(1)  # below its heading
        else:
            self._show(None)

    def _add_heading(self, section: str) -> None:
        item = QListWidgetItem(section)
        item.setFlags(Qt.ItemFlag.NoItemFlags)
        font = item.font()
        font.setBold(True)
        item.setFont(font)
        item.setToolTip(section)
        self.list.addItem(item)

    def _on_current(self, item: QListWidgetItem | None, _before: object) -> None:
        self._show(item.data(_ROLE) if item is not None else None)

    def _show(self, topic: Topic | None) -> None:
        self.shown = topic
        self.section.setText(topic.section if topic else "")
        self.title.setText(topic.title if topic else "")
        self.text.setText(topic.text if topic else "")
        self.facts.setText("\n".join(topic.facts) if topic else "")
        self.section.setVisible(topic is not None and topic.section != HERE)
        self.facts.setVisible(bool(topic and topic.facts))
        self.tour_button.setVisible(topic is not None and topic.section == TABS)

    @Slot()
    def _on_tour(self) -> None:
        if self.shown is not None:
            self.close()
            self.tour_asked.emit(self.shown.title)
