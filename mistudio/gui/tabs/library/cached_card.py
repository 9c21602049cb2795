"""Repositories that are in the Hugging Face cache already: offered at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QPushButton, QWidget

from mistudio.core.units import format_bytes
from mistudio.gui.services import Services
from mistudio.gui.theme import appearance
from mistudio.gui.widgets.cards import Card, button, label, row

if TYPE_CHECKING:
    from mistudio.jobs.hub_pages import CachedRepo

_AT_FIRST = 3  # lines before "Show all"


class FromHub(Protocol):
    """A stored model or dataset, as far as it came from a repository."""

    @property
    def repo_id(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def commit_sha(self) -> str | None: ...


class CachedRepositories(Card):
    """A line per repository of the cache that is not in the list yet; `add_asked(repo, revision)`.

    The button of a line says `verb`, its tooltip `tip`.
    """

    add_asked = Signal(str, str)

    def __init__(
        self, services: Services, kind: str, verb: str, tip: str, parent: QWidget | None = None
    ) -> None:
        """`kind` is "model" or "dataset"."""
        super().__init__("nested", parent, padding=12)
        self._services = services
        self._kind, self._verb, self._tip = kind, verb, tip
        self._found: Sequence[CachedRepo] = ()
        self._present: set[tuple[str, str]] = set()
        self._all = False
        self._lines: list[QWidget] = []
        self.box.setSpacing(appearance().px(4))
        self.box.addWidget(label("In your Hugging Face cache:", "label"))
        self.more = button("", self._show_all, variant="link", tip="Show all that the cache has")
        self.box.addLayout(row(self.more, None))
        self.adders: dict[str, QPushButton] = {}
        services.publisher.changed.connect(self._on_changed)
        self.hide()

    def read(self) -> None:
        """Look into the cache."""
        studio, kind = self._services.studio, self._kind

        def look(_: object) -> Sequence[CachedRepo]:
            from mistudio.jobs import hub_pages

            if kind == "model":
                return hub_pages.cached_models(studio)
            return hub_pages.cached_datasets(studio)

        key = f"cached {kind}s"
        self._services.network.ask(look, self._on_found, on_error=self._on_error, key=key)

    def leave_out(self, stored: Iterable[FromHub]) -> None:
        """Do not offer what is in the list already."""
        present = {
            (row_.repo_id, row_.commit_sha or row_.revision or "")
            for row_ in stored
            if row_.repo_id
        }
        if present != self._present:
            self._present = present
            self._show()

    def _on_changed(self, kind: str, object_id: str) -> None:
        if kind == "storage":
            self.read()

    def _on_found(self, found: Sequence[CachedRepo]) -> None:
        self._found = found
        self._show()

    def _on_error(self, sentence: str, details: str) -> None:
        self._found = ()
        self._show()

    def _show_all(self) -> None:
        self._all = True
        self._show()

    def _show(self) -> None:
        for line in self._lines:
            self.box.removeWidget(line)
            line.hide()
            line.deleteLater()
        self._lines, self.adders = [], {}
        offered = [repo for repo in self._found if not self._is_present(repo)]
        shown = offered if self._all else offered[:_AT_FIRST]
        for repo in shown:
            line = self._line(repo)
            self._lines.append(line)
            self.box.insertWidget(self.box.count() - 1, line)
        self.more.setText(f"Show all {len(offered):,}")
        self.more.setVisible(len(shown) < len(offered))
        self.setVisible(bool(offered))

    def _is_present(self, repo: CachedRepo) -> bool:
        return any((repo.id, name) in self._present for name in (repo.sha, repo.revision))

    def _line(self, repo: CachedRepo) -> QWidget:
        made = QWidget(self)
        adder = button(self._verb, self._on_add, icon="plus", tip=self._tip)
        adder.setAccessibleName(f"{self._verb} {repo.id}")
        adder.setProperty("repo", repo.id)
        adder.setProperty("revision", repo.revision)
        self.adders[repo.id] = adder
        facts = f"{format_bytes(repo.size_bytes)} · {repo.revision[:12]}"
        made.setLayout(row(label(repo.id, "mono"), label(facts, "muted"), None, adder))
        return made

    def _on_add(self) -> None:
        asked = self.sender()
        self.add_asked.emit(str(asked.property("repo")), str(asked.property("revision")))
