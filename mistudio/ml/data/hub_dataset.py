"""A dataset repository as the `datasets` library sees it: configs, splits, files.

Which files belong to which config and split, and how they are read, is the library's decision;
the list of files and their bytes come from a `FileSource`.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from fsspec.core import has_magic

from mistudio.core.errors import Damaged, InvalidInput, Unsupported
from mistudio.ml.data.listed_files import FileSource, Mounted, address, path_of

READABLE = ("arrow", "conll", "csv", "json", "parquet", "text")  # the library's readers
_MARKDOWN = [".md"]  # to the library a mark of other things, to us a document each
_DESCRIPTION = 500  # characters
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """One config of a repository: its splits with their files, and how these are read."""

    configs: list[str]
    config: str
    reader: str  # one of READABLE
    files: dict[str, list[str]]  # split -> paths in the repository, in order
    rows: dict[str, int | None]  # split -> rows, as far as the card says
    description: str
    licence: str
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])  # for the reader
    info: Any = None  # the library's DatasetInfo from the card, or None

    def chosen(self, split: str) -> list[str]:
        """The names of the splits that a wish means: "" is all. Raises `InvalidInput`."""
        if not split:
            return list(self.files)
        if split not in self.files:
            raise InvalidInput(
                f"There is no split {split!r}; found {', '.join(self.files)}.", code="no_split"
            )
        return [split]


def read_layout(repo: str, source: FileSource, card: str, config: str = "") -> Layout:
    """Settle config, splits and files from the list of files and the text of README.md.

    An empty `config` takes the default one, else the first. Raises `Unsupported` for a loading
    script and for files no reader of text opens, `InvalidInput` for an unknown config.
    """
    from datasets.utils.metadata import MetadataConfigs

    _refuse_script(repo, source.sizes)
    facts = _card_facts(card)
    declared = _declared_configs(facts, MetadataConfigs)
    names = list(declared) or ["default"]
    chosen = config or _default_config(declared) or names[0]
    if chosen not in names:
        raise InvalidInput(
            f"There is no config {chosen!r}; found {_listed(names)}.", code="no_config"
        )
    wanted = declared.get(chosen, {})
    _refuse_outside(wanted)
    quiet_library()
    mounted = Mounted(source)
    try:
        found, reader, parameters = _resolve(wanted, mounted)
    except FileNotFoundError as error:
        raise Unsupported(
            f"{repo!r} has no files that can be read here (csv, json, jsonl, parquet, arrow, txt).",
            code="no_data_files",
            details=str(error),
        ) from error
    except (ValueError, TypeError, AttributeError, zipfile.BadZipFile, OSError) as error:
        if isinstance(failure := mounted.failure(), Exception):
            raise failure from error
        if "same data file format" in str(error):
            raise Unsupported(
                f"The files of {repo!r} are of several kinds. Choose a config, or import its "
                "files.",
                details=str(error),
            ) from error
        raise Damaged(f"The files of {repo!r} cannot be opened.", details=str(error)) from error
    info = _declared_info(facts, chosen)
    rows = {split: _declared_rows(info, split) for split in found}
    return Layout(
        configs=names,
        config=chosen,
        reader=reader,
        files={str(split): [path_of(name) for name in found[split]] for split in found},
        rows=rows,
        description=_description(card),
        licence=_licence(facts),
        parameters={**parameters, **{k: v for k, v in wanted.items() if k not in _OURS}},
        info=info,
    )


_OURS = ("data_files", "data_dir", "default", "version", "description")


def _refuse_script(repo: str, names: Mapping[str, int]) -> None:
    if f"{repo.rsplit('/', 1)[-1]}.py" in names:
        raise Unsupported(
            "This dataset needs its own loading script, which is not run. Import its files.",
            code="needs_script",
        )


def _refuse_outside(wanted: Mapping[str, Any]) -> None:
    """Files are taken from the repository only, whatever its card names."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        for inner in value.values() if isinstance(value, dict) else ():
            yield from texts(inner)
        for inner in value if isinstance(value, list) else ():
            yield from texts(inner)

    for key in ("data_files", "data_dir"):
        for pattern in texts(wanted.get(key)):
            if ":" in pattern or pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
                raise Unsupported(
                    "The card of this dataset names files outside its repository. "
                    "Import its files.",
                    details=pattern,
                )


def quiet_library() -> None:
    """No bars and no messages of the library: errors are told as sentences."""
    import datasets

    datasets.logging.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()


def _card_facts(card: str) -> dict[str, Any]:
    """The block of YAML at the start of README.md; a broken one counts as none."""
    import yaml
    from datasets.utils.metadata import _split_yaml_from_readme

    block, _ = _split_yaml_from_readme(card)
    try:
        facts = yaml.safe_load(block) if block else None
    except yaml.YAMLError:
        log.warning("the card of a dataset has a broken head", exc_info=True)
        facts = None
    return facts if isinstance(facts, dict) else {}


def _declared_configs(facts: dict[str, Any], kind: Any) -> dict[str, dict[str, Any]]:
    try:
        return dict(kind.from_dataset_card_data(facts))
    except (ValueError, TypeError, KeyError) as error:
        raise Unsupported(
            "The card of this dataset describes its configs in a way that cannot be read. "
            "Import its files.",
            details=str(error),
        ) from error


def _default_config(declared: dict[str, dict[str, Any]]) -> str:
    marked = [name for name, values in declared.items() if values.get("default")]
    return marked[0] if marked else ("default" if "default" in declared else "")


def _resolve(wanted: dict[str, Any], mounted: Mounted) -> tuple[Any, str, dict[str, Any]]:
    """The library's files by split, its reader for them, and this reader's parameters."""
    from datasets import DownloadConfig, load
    from datasets import data_files as library

    access = DownloadConfig(storage_options=mounted.options, disable_tqdm=True, token=False)
    base = address(str(PurePosixPath(wanted.get("data_dir") or "")).strip("./"))
    if wanted.get("data_files") is not None:
        base, patterns = address(""), library.sanitize_patterns(wanted["data_files"])
    else:
        patterns = library.get_data_patterns(base, download_config=access)
    found = library.DataFilesDict()
    for split, texts in patterns.items():
        names: list[str] = []
        for text in texts:
            try:
                names += library.resolve_pattern(text, base, load._ALL_ALLOWED_EXTENSIONS, access)
            except FileNotFoundError:
                if not has_magic(text):
                    raise
        # without the origin of every file, which the library would ask for one by one
        found[split] = library.DataFilesList(names, [])
    reader, parameters = load.infer_module_for_data_files(found, download_config=access)
    if reader in READABLE:
        kept = found.filter(extensions=load._MODULE_TO_EXTENSIONS[reader])
    else:
        kept, reader, parameters = _beside_others(found, access, str(reader))
    return {split: names for split, names in kept.items() if names}, str(reader), dict(parameters)


def _beside_others(found: Any, access: Any, other: str) -> tuple[Any, str, dict[str, Any]]:
    """The readable files where most are pictures, sound, notes or the like (`other`)."""
    from datasets import load

    endings = {end for reader in READABLE for end in load._MODULE_TO_EXTENSIONS[reader]} - {".zip"}
    kept = found.filter(extensions=sorted(endings))
    if any(kept.values()):
        named, parameters = load.infer_module_for_data_files(kept, download_config=access)
        reader = str(named)
        return kept.filter(extensions=load._MODULE_TO_EXTENSIONS[reader]), reader, parameters
    kept = found.filter(extensions=_MARKDOWN)
    if any(kept.values()):
        return kept, "text", {"sample_by": "document"}
    raise Unsupported(
        f"The files of this dataset hold no text that can be read here ({other}).",
        code="no_text_column",
    )


def _declared_info(facts: dict[str, Any], config: str) -> Any:
    from datasets.info import DatasetInfosDict

    try:
        declared = DatasetInfosDict.from_dataset_card_data(facts)  # type: ignore[arg-type]
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("the card of a dataset declares columns that cannot be read", exc_info=True)
        return None
    if config in declared:
        return declared[config]
    return next(iter(declared.values())) if len(declared) == 1 and config == "default" else None


def _declared_rows(info: Any, split: str) -> int | None:
    known = (getattr(info, "splits", None) or {}).get(split)
    return int(known.num_examples) if known is not None and known.num_examples else None


def _description(card: str) -> str:
    """The first paragraph of README.md that is no heading, picture, table or comment."""
    from datasets.utils.metadata import _split_yaml_from_readme

    _, body = _split_yaml_from_readme(card)
    for paragraph in body.split("\n\n"):
        text = " ".join(
            line.strip() for line in paragraph.splitlines() if not line.lstrip().startswith("#")
        ).strip()
        if text and not text.startswith(("<", "|", "!", "[!", "```", "-", "*")):
            return text[:_DESCRIPTION]
    return ""


def _licence(facts: dict[str, Any]) -> str:
    value = facts.get("license") or facts.get("licence") or ""
    return ", ".join(str(one) for one in value) if isinstance(value, list) else str(value)


def _listed(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
