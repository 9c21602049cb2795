"""Files appear under their name whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mistudio.core.atomic import (
    atomic_directory,
    atomic_file,
    directory_bytes,
    sha256_file,
    write_json,
)


class Broken(Exception):
    pass


def break_while_writing(
    target: AbstractContextManager[Path], inside: Callable[[Path], Path]
) -> None:
    with target as temporary:
        inside(temporary).write_text("half")
        raise Broken


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(Broken):
        break_while_writing(atomic_file(target), lambda path: path)
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Broken):
        break_while_writing(atomic_directory(tmp_path / "d"), lambda path: path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with atomic_directory(tmp_path / "d") as temporary:
            (temporary / text).write_text(text)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert directory_bytes(tmp_path) == 3


def test_json_refuses_what_is_not_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea")


@pytest.mark.parametrize("broken", [1, 2])
def test_a_folder_that_cannot_be_replaced_keeps_its_name_and_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    """Whether moving the earlier folder away fails, or giving the new one its name."""
    target = tmp_path / "d"
    target.mkdir()
    (target / "x").write_text("old")
    real, calls = Path.replace, 0

    def replace(self: Path, other: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == broken:
            raise Broken
        return real(self, other)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Broken), atomic_directory(target) as temporary:
        (temporary / "x").write_text("new")
    assert (target / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
