"""What a dataset of the Hub holds, shown before anything of it is stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from mistudio.core.control import JobControl
from mistudio.jobs.runner import Studio

FIRST_ROWS = 10


@dataclass(frozen=True)
class SplitInfo:
    """One split of a config; rows and bytes are None where the repository does not say."""

    name: str
    rows: int | None
    bytes: int | None  # of its files, as downloaded


@dataclass(frozen=True)
class DatasetPreview:
    """One config of a dataset at one commit, with its first rows."""

    id: str
    sha: str
    description: str
    licence: str
    gated: bool
    configs: list[str]
    config: str  # the one shown; the default where none was asked for
    splits: list[SplitInfo]
    columns: dict[str, str]  # name -> kind: text, number, date, list, image, ...
    text_column: tuple[str, ...]  # what would be read; empty if no column holds text
    rows: int | None  # of the shown splits
    size_bytes: int | None  # of the files of the shown splits
    first: list[dict[str, str]] = field(default_factory=list[dict[str, str]])  # at most 10
    warning: str = ""
    missing_bytes: int = 0  # of those, what is not in the cache yet
    prepared_bytes: int = 0  # about what the prepared copy takes beside them
    suggests_tokens: bool = False  # so large that only its beginning should be taken


def preview(
    studio: Studio,
    repo: str,
    config: str = "",
    split: str = "",
    revision: str = "main",
    token: str = "",
    *,
    control: JobControl | None = None,
) -> DatasetPreview:
    """Describe a dataset of the Hub from its file list and its first rows; stores nothing.

    An empty `split` means all. Runs up to some seconds; ends with `Cancelled` soon after the
    control is cancelled. Raises `NotFound`, `NeedsToken`, `Gated`, `NoAnswer`, `Offline`,
    `Unsupported` or `InvalidInput`, each with what to do.
    """
    from mistudio.jobs.hub_dataset import HubDataset

    with HubDataset(studio, repo, config, revision, token, control or JobControl()) as found:
        return found.preview(split)
