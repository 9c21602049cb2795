"""Deleting a stored object from the window: look up its dependants, ask, delete, say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from PySide6.QtCore import Signal
from PySide6.QtWidgets import QWidget

from mistudio.core.units import format_bytes
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.jobs.dependants import Dependants
from mistudio.jobs.runner import Studio


class _Found(NamedTuple):
    object_id: str
    dependants: Dependants


class Deleter(QWidget):
    """Asks before it deletes objects of one kind; invisible, parent of its questions.

    `of` and `delete` (of `mistudio.jobs`) run in the query thread; `kind` is what is announced.
    """

    deleted = Signal(str)

    def __init__(
        self,
        services: Services,
        kind: str,
        of: Callable[[Studio, str], Dependants],
        delete: Callable[[Studio, str], None],
        parent: QWidget,
    ) -> None:
        super().__init__(parent)
        self.hide()
        self._services, self._kind = services, kind
        self._of, self._delete = of, delete

    def ask(self, object_id: str) -> None:
        """Look up what deleting means, then ask; what others need is refused with a banner."""
        studio, of = self._services.studio, self._of
        self._services.query.ask(lambda _: _Found(object_id, of(studio, object_id)), self._on_found)

    def _on_found(self, found: _Found) -> None:
        what = found.dependants
        if what.refusal:
            self._services.banner(what.refusal, level="warning")
        elif confirm(self.parentWidget(), f"Delete {what.noun} “{what.name}”?", consequences(what)):
            self._delete_now(found)

    def _delete_now(self, found: _Found) -> None:
        studio, delete = self._services.studio, self._delete

        def work(_: object) -> _Found:
            delete(studio, found.object_id)
            return found

        self._services.query.ask(work, self._on_deleted)

    def _on_deleted(self, found: _Found) -> None:
        what = found.dependants
        freed = f" {format_bytes(what.size_bytes)} are free again." if what.size_bytes else ""
        self._services.banner(f"The {what.noun} “{what.name}” is deleted.{freed}")
        self.deleted.emit(found.object_id)
        self._services.publisher.publish(self._kind, found.object_id)


def consequences(found: Dependants) -> str:
    """What deleting means, as sentences for the question."""
    sentences = [
        f"This frees {format_bytes(found.size_bytes)}."
        if found.size_bytes
        else "Only the entry goes; its files stay where they are."
    ]
    if found.removed:
        sentences.append(f"With it goes: {', '.join(found.removed)}.")
    if found.kept:
        sentences.append(f"Kept, but without it: {', '.join(found.kept)}.")
    return " ".join(sentences)
