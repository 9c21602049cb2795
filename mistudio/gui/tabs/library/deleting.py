"""Deleting a stored object from the window: its dependants, a question, ten seconds to undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget
from shiboken6 import isValid

from mistudio.core.units import format_bytes
from mistudio.gui.dialog import confirm
from mistudio.gui.services import Services
from mistudio.gui.undo import SECONDS, Undo

if TYPE_CHECKING:
    from mistudio.jobs.dependants import Dependants
    from mistudio.jobs.runner import Studio


class _Found(NamedTuple):
    object_id: str
    dependants: Dependants
    folder: Path | None = None  # where it is kept until the time to undo is over


class Deleter(QWidget):
    """Asks before it deletes objects of one kind; invisible, parent of its questions.

    `of` (of `mistudio.jobs.dependants`) runs in the query thread; `kind` is what is announced, and
    the kind of `mistudio.jobs.set_aside`.
    """

    deleted = Signal(str)

    def __init__(
        self,
        services: Services,
        kind: str,
        of: Callable[[Studio, str], Dependants],
        parent: QWidget,
        put_aside: Callable[[Studio, str], Path | None] | None = None,
    ) -> None:
        """`put_aside` deletes in another way; what it returns None for cannot be taken back."""
        super().__init__(parent)
        self.hide()
        self._services, self._kind = services, kind
        self._of, self._put_aside = of, put_aside or self._set_aside

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

    def _set_aside(self, studio: Studio, object_id: str) -> Path:
        from mistudio.jobs.set_aside import set_aside

        return set_aside(studio, self._kind, object_id)

    def _delete_now(self, found: _Found) -> None:
        studio, put_aside = self._services.studio, self._put_aside
        self._services.query.ask(
            lambda _: found._replace(folder=put_aside(studio, found.object_id)), self._on_deleted
        )

    def _on_deleted(self, found: _Found) -> None:
        what, size = found.dependants, found.dependants.size_bytes
        sentence = f"The {what.noun} “{what.name}” is deleted."
        if found.folder is None:
            freed = f" {format_bytes(size)} are free again." if size else ""
            self._services.banner(sentence + freed)
        else:
            offer_undo(
                self._services, sentence + freed_later(size), [found.folder], self._kind, self._tell
            )
        self.deleted.emit(found.object_id)
        self._services.publisher.publish(self._kind, found.object_id)

    def _tell(self) -> None:
        self._services.publisher.publish("jobs")


def freed_later(size_bytes: int) -> str:
    """When a deletion gives its room back, as a sentence to add; "" if there is none."""
    return f" {format_bytes(size_bytes)} are free in {SECONDS} s." if size_bytes else ""


def offer_undo(
    services: Services,
    sentence: str,
    folders: Sequence[Path],
    kind: str,
    then: Callable[[], object],
) -> None:
    """Say that objects were put aside, and offer to take that back.

    `then`, a bound method of a QObject, follows either way while that lives.
    """
    from mistudio.jobs.set_aside import finish_all, take_all_back

    studio = services.studio

    def changed() -> None:
        services.publisher.publish(kind)
        if isValid(getattr(then, "__self__", None)):
            then()

    Undo(
        services,
        sentence,
        lambda _: take_all_back(studio, folders),
        changed,
        lambda _: finish_all(studio, folders),
    )


def delete_undoably(
    services: Services,
    work: Callable[[], Sequence[Path]],
    sentence: str,
    kind: str,
    then: Callable[[], object],
) -> None:
    """Put objects aside in the query thread by `work`; `then` and the offer to undo follow."""
    _Deletion(services, work, sentence, kind, then)


class _Deletion(QObject):
    """Lives until its work is done."""

    def __init__(
        self,
        services: Services,
        work: Callable[[], Sequence[Path]],
        sentence: str,
        kind: str,
        then: Callable[[], object],
    ) -> None:
        super().__init__(services.lanes)
        self._services, self._sentence, self._kind, self._then = services, sentence, kind, then
        services.query.ask(lambda _: work(), self._on_done, on_error=self._on_error)

    def _on_done(self, folders: Sequence[Path]) -> None:
        offer_undo(self._services, self._sentence, folders, self._kind, self._then)
        self._end()

    def _on_error(self, sentence: str, details: str) -> None:
        self._services.banner(sentence, level="warning", details=details)
        self._end()

    def _end(self) -> None:
        self._services.publisher.publish(self._kind)
        if isValid(getattr(self._then, "__self__", None)):
            self._then()
        self.deleteLater()


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
