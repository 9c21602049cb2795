"""Which files a path means: one file, the shards of a folder, or a folder of save_to_disk."""

from __future__ import annotations

import itertools
import json
import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from mistudio.core.dataset_configs import TEXT_ENDINGS
from mistudio.core.errors import Damaged, InvalidInput
from mistudio.ml.data.readers_text import COMPRESSED
from mistudio.ml.data.source import SourceFile

_SHARD = re.compile(r"(train|validation|test)-\d+-of-\d+")
_MOST_ENTRIES = 200_000
_ONLY_FOLDERS = ("saved", "folder")


class FoundFiles(NamedTuple):
    """The files to read, in order, and how."""

    format: str
    files: list[SourceFile]
    warning: str = ""


def find_files(path: Path, wanted: str) -> FoundFiles:
    """The files that `path` means in the wanted format; "auto" goes by endings.

    Raises `InvalidInput` for what is missing, empty or of no known format.
    """
    if not path.exists():
        raise InvalidInput(f"There is no file {str(path)!r}.", code="not_found")
    if path.is_file():
        if wanted in _ONLY_FOLDERS:
            raise InvalidInput(f"{path.name} is a file; the format {wanted} needs a folder.")
        if path.stat().st_size == 0:
            raise InvalidInput(f"{path.name} is empty.", code="empty_file")
        return FoundFiles(
            _format(path) or "txt" if wanted == "auto" else wanted, [SourceFile(path)]
        )
    if not path.is_dir():
        raise InvalidInput(f"{path.name} is neither a file nor a folder.")
    if wanted == "saved" or (wanted == "auto" and _is_saved(path)):
        return FoundFiles("saved", _saved_files(path))
    return _folder_files(path, wanted)


def _format(path: Path) -> str:
    """The format an ending says, "" if it says none."""
    name = Path(path.stem) if path.suffix.lower() in COMPRESSED else path
    kind = TEXT_ENDINGS.get(name.suffix.lower(), "")
    return "" if name is not path and kind in ("parquet", "arrow") else kind


def _folder_files(folder: Path, wanted: str) -> FoundFiles:
    by_format: dict[str, list[Path]] = defaultdict(list)
    for path in _below(folder):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and path.stat().st_size and (kind := _format(path)):
            by_format["folder" if kind in ("txt", "md") else kind].append(path)
    if wanted == "auto":
        sizes = {kind: sum(p.stat().st_size for p in found) for kind, found in by_format.items()}
        chosen = max(sizes, key=lambda kind: sizes[kind], default="folder")
    else:
        chosen = "folder" if wanted in ("txt", "md") else wanted
    paths = by_format.get(chosen, [])
    if not paths:
        kinds = "text" if chosen == "folder" else chosen
        raise InvalidInput(f"The folder {folder.name!r} holds no {kinds} files.", code="empty_file")
    left = sum(len(found) for kind, found in by_format.items() if kind != chosen)
    warning = f"Files of other formats in the folder are left out ({left:,})." if left else ""
    if chosen == "folder":
        named = [SourceFile(p, name=p.relative_to(folder).as_posix()) for p in paths]
        return FoundFiles(chosen, named, warning)
    return FoundFiles(chosen, [SourceFile(p, _split_of(p)) for p in paths], warning)


def _below(folder: Path) -> list[Path]:
    """Everything below a folder, sorted; refuses one that was surely chosen by mistake."""
    found = list(itertools.islice(folder.rglob("*"), _MOST_ENTRIES + 1))
    if len(found) > _MOST_ENTRIES:
        raise InvalidInput(
            f"The folder {folder.name!r} holds more than {_MOST_ENTRIES:,} files; choose one below "
            "it."
        )
    return sorted(found)


def _split_of(path: Path) -> str:
    found = _SHARD.match(path.name)
    return found[1] if found else "train"


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def _saved_files(folder: Path) -> list[SourceFile]:
    if not _is_saved(folder):
        raise InvalidInput(f"{folder.name!r} was not written by save_to_disk.")
    try:
        splits = [("train", folder)]
        if (folder / "dataset_dict.json").is_file():
            named = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
            splits = [(str(name), folder / str(name)) for name in named]
        files: list[SourceFile] = []
        for split, place in splits:
            state = json.loads((place / "state.json").read_text("utf-8"))
            # only names: a state file must not lead out of its folder
            names = [Path(entry["filename"]).name for entry in state["_data_files"]]
            files += [SourceFile(place / name, split) for name in names]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"The folder {folder.name!r} is incomplete; save it again.", details=str(error)
        ) from error
    missing = [file.path.name for file in files if not file.path.is_file()]
    if missing:
        raise Damaged(f"The folder {folder.name!r} lacks {missing[0]}; save it again.")
    if not files:
        raise InvalidInput(f"The folder {folder.name!r} holds no rows.", code="empty_file")
    return files
