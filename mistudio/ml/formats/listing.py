"""The SAEs of a repository, told by the names of its files alone, and which files make one."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from mistudio.core.errors import InvalidInput, NotFound, Unsupported
from mistudio.ml.formats.registry import FORMATS, NAMED, NUMBERED, SaeFormat, what_is_read


class Listed(NamedTuple):
    """One SAE among named files: its folder ("" is the topmost), or its one file."""

    format: SaeFormat
    place: str
    files: tuple[str, ...]
    """all that its reader uses"""


def saes_of(names: Iterable[str]) -> list[Listed]:
    """Every SAE among the files of a repository, sorted by place with numbers as numbers."""
    known = set(names)
    found: dict[tuple[str, str], Listed] = {}
    for name in known:
        for kind in FORMATS:
            place = _place(kind, PurePosixPath(name))
            if place is not None and _is_told(kind, place, known):
                found[place, kind.name] = Listed(kind, place, _files(kind, place, known))
    return sorted(found.values(), key=lambda one: _in_order(one.place))


def one_of(saes: Sequence[Listed], names: Iterable[str], wanted: str, repo: str) -> Listed:
    """The SAE that a folder or file of a repository stands for.

    A folder with exactly one SAE below it stands for that one. Raises `NotFound` if nothing is
    called so, `InvalidInput` if it holds several, `Unsupported` if it holds none.
    """
    wanted = wanted.strip().strip("/")
    fitting = [one for one in saes if wanted in (one.place, *one.files[:1])] or [
        one for one in saes if not wanted or one.place.startswith(f"{wanted}/")
    ]
    if len(fitting) == 1:
        return fitting[0]
    where = f"{wanted!r} of '{repo}'" if wanted else f"'{repo}'"
    if fitting:
        told = list(dict.fromkeys(one.place or one.files[0] for one in fitting))
        if len(told) < len(fitting):
            told = [one.files[0] for one in fitting]
        more = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
        raise InvalidInput(
            f"{where} holds {len(fitting):,} SAEs; name the folder of one: "
            f"{', '.join(told[:NAMED])}{more}."
        )
    if wanted and not any(n == wanted or n.startswith(f"{wanted}/") for n in names):
        raise NotFound(f"'{repo}' has no file or folder {wanted!r}.")
    raise Unsupported(f"{where} holds no SAE that can be read. {what_is_read()}")


def _place(kind: SaeFormat, path: PurePosixPath) -> str | None:
    if kind.one_file:
        fits = any(path.match(mark) for mark in kind.marks) and NUMBERED.fullmatch(path.name)
        return str(path) if fits else None
    # of several marks the last is the weights, which a repository of descriptions lacks
    parts = PurePosixPath(kind.marks[-1]).parts
    if path.parts[-len(parts) :] != parts:
        return None
    folder = str(path.parents[len(parts) - 1])
    return "" if folder == "." else folder


def _is_told(kind: SaeFormat, place: str, known: set[str]) -> bool:
    """Whether the files beside it say so, where two formats share a name of weights."""
    return kind.is_told is None or kind.is_told(lambda name: posixpath.join(place, name) in known)


def _files(kind: SaeFormat, place: str, known: set[str]) -> tuple[str, ...]:
    """The weights first, then what stands beside them."""
    folder = posixpath.dirname(place) if kind.one_file else place
    first = [place] if kind.one_file else [posixpath.join(folder, kind.marks[-1])]
    others = [
        posixpath.normpath(posixpath.join(folder, name)) for name in (*kind.marks, *kind.beside)
    ]
    return tuple(dict.fromkeys([*first, *(name for name in others if name in known)]))


def _in_order(place: str) -> list[tuple[int, str]]:
    """A key that puts layer_9 before layer_10."""
    words: list[str] = []
    for letter in place:
        if words and words[-1].isdecimal() == letter.isdecimal():
            words[-1] += letter
        else:
            words.append(letter)
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words]
