"""The settings of the jobs around a dataset: import, download, index, tokenise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from mistudio.core.config import Config, Violation, option
from mistudio.core.repositories import repository_problem

TEXT_ENDINGS = {
    ".txt": "txt", ".text": "txt", ".md": "md", ".markdown": "md",
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "tsv",
    ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow",
}  # fmt: skip
TEXT_FORMATS = (
    "auto", "txt", "md", "json", "jsonl", "csv", "tsv", "parquet", "arrow", "saved", "folder",
)  # fmt: skip
SAMPLE_UNITS = ("auto", "paragraph", "line", "file")
ENCODINGS = ("auto", "utf-8", "utf-16", "latin-1", "cp1252", "gb18030", "shift_jis", "euc_kr")
LONGEST_NAME = 255
DELIMITERS = {"auto": "", "comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
HELD_OUT_SHARE = 5.0  # per cent of the documents, for evaluation and for calibration each


def effective_format(config: ImportDatasetConfig) -> str:
    """The format a config means: its own, or what the path's ending says; "" for a folder."""
    if config.format != "auto":
        return config.format
    name = PurePath(config.path.strip())
    suffix = name.suffix.lower()
    if suffix in (".gz", ".bz2"):
        suffix = PurePath(name.stem).suffix.lower()
    return TEXT_ENDINGS.get(suffix, "txt") if suffix else ""


def _has_columns(config: ImportDatasetConfig) -> bool:
    return effective_format(config) not in ("txt", "md", "folder")


def _has_units(config: ImportDatasetConfig) -> bool:
    return effective_format(config) in ("", "txt", "md", "folder")


def _is_decoded(config: ImportDatasetConfig) -> bool:
    return effective_format(config) not in ("parquet", "arrow", "saved")


def _is_delimited(config: ImportDatasetConfig) -> bool:
    return effective_format(config) in ("csv", "tsv")


def name_problem(name: str) -> str:
    """The sentence that says what is wrong with a name, "" if nothing is."""
    if len(name) > LONGEST_NAME or any(ord(c) < 32 for c in name):
        return "A name has at most 255 characters and no control characters."
    return ""


@dataclass(frozen=True)
class ImportDatasetConfig(Config):
    """Import text from this machine as a dataset."""

    path: str = option(
        "",
        "File or folder",
        "A txt, md, json, jsonl, csv, tsv, parquet or arrow file, a folder written by "
        "save_to_disk, or a folder of text files or of files of one format.",
        required=True,
    )
    name: str = option("", "Name", "How the dataset is called; empty takes the file's name.")
    format: str = option(
        "auto",
        "Format",
        "How the file is read; auto goes by its ending. saved is a folder of save_to_disk, folder "
        "one of text files.",
        choices=TEXT_FORMATS,
    )
    text_column: tuple[str, ...] = option(
        (),
        "Text column",
        "Column that holds the text; none takes text, content, document or the first text column. "
        "Several are joined by a blank line.",
        applies=_has_columns,
    )
    sample_unit: str = option(
        "auto",
        "One sample per",
        "What one document of a text file is: a paragraph (blank line between), a line, the file. "
        "auto takes the whole file for md and folders; for txt paragraphs where the beginning has "
        "blank lines, else lines.",
        choices=SAMPLE_UNITS,
        applies=_has_units,
    )
    encoding: str = option(
        "auto",
        "Encoding",
        "auto reads UTF-8, or UTF-16 where the file says so. Bytes that do not fit are replaced "
        "and counted.",
        choices=ENCODINGS,
        applies=_is_decoded,
        advanced=True,
    )
    delimiter: str = option(
        "auto",
        "Delimiter",
        "What separates columns; auto takes the most frequent in the first line.",
        choices=tuple(DELIMITERS),
        applies=_is_delimited,
        advanced=True,
    )
    validation_share: float = option(
        0.0,
        "Validation share",
        "Share of the samples, chosen by a hash of their text, that go to the split validation.",
        minimum=0.0,
        maximum=0.5,
        advanced=True,
    )
    test_share: float = option(
        0.0,
        "Test share",
        "Share of the samples, chosen by a hash of their text, that go to the split test.",
        minimum=0.0,
        maximum=0.5,
        advanced=True,
    )
    skip_bad_rows: bool = option(
        False,
        "Skip bad rows",
        "Leave rows out that cannot be read, and count them, instead of ending with an error.",
        applies=_has_columns,
        advanced=True,
    )

    def check(self) -> Iterable[Violation]:
        if problem := name_problem(self.name):
            yield Violation("name", problem)


def _has_count(config: DownloadDatasetConfig) -> bool:
    return config.amount != "everything"


@dataclass(frozen=True)
class DownloadDatasetConfig(Config):
    """Get a dataset from the Hugging Face Hub."""

    repo: str = option(
        "", "Repository", "The dataset's id on the Hub: owner/name or name.", required=True
    )
    name: str = option("", "Name", "How the dataset is called; empty takes the repository's name.")
    config: str = option("", "Config", "Part of the repository; empty takes its default config.")
    split: str = option("", "Split", "One split, such as train; empty takes all.")
    revision: str = option(
        "main", "Revision", "Branch, tag or commit of the repository.", advanced=True
    )
    text_column: tuple[str, ...] = option(
        (),
        "Text column",
        "Column that holds the text; none takes text, content, document or the first text column. "
        "Several are joined by a blank line.",
    )
    amount: str = option(
        "everything",
        "Amount",
        "everything downloads the files; rows and tokens stream only the beginning and store that.",
        choices=("everything", "rows", "tokens"),
    )
    count: int = option(
        100_000,
        "First",
        "How many rows or tokens; tokens are counted as four characters each.",
        minimum=1,
        maximum=1_000_000_000_000,
        applies=_has_count,
    )
    accept_large: bool = option(
        False,
        "More than 100 GB",
        "Download everything although it is more than 100 GB.",
        advanced=True,
    )

    def check(self) -> Iterable[Violation]:
        if problem := repository_problem(self.repo):
            yield Violation("repo", problem)
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class IndexDatasetConfig(Config):
    """Build the word index of a dataset, so that its samples are searched at once."""

    dataset: str = option("", "Dataset", "Id or name of a dataset.", required=True)


def _by_document(config: TokenizeConfig) -> bool:
    return config.arrangement == "document"


def _with_special(config: TokenizeConfig) -> bool:
    return config.special_tokens


@dataclass(frozen=True)
class TokenizeConfig(Config):
    """Tokenise a dataset with one tokenizer and arrange it in rows."""

    dataset: str = option("", "Dataset", "Id or name of a dataset.", required=True)
    model: str = option("", "Model", "Model whose tokenizer is used; empty uses Tokenizer.")
    tokenizer: str = option(
        "",
        "Tokenizer",
        "Instead of a model: a Hub id, a local folder or a tokenizer.json.",
        applies=lambda config: not config.model,
    )
    context: int = option(
        0,
        "Context",
        "Tokens per row; 0 takes the smaller of 512 and what the model allows.",
        unit="tokens",
        minimum=0,
        maximum=4096,
    )
    arrangement: str = option(
        "packed",
        "Arrangement",
        "packed joins documents by the separator token and cuts full rows; "
        "document gives each document a row of its own.",
        choices=("packed", "document"),
    )
    truncation: str = option(
        "longest_first",
        "Long documents",
        "longest_first cuts them at the end, split spreads them over rows, do_not_truncate leaves "
        "them out and counts them.",
        choices=("longest_first", "split", "do_not_truncate"),
        applies=_by_document,
    )
    padding: str = option(
        "max_length",
        "Padding",
        "max_length fills rows up to the context, longest up to the longest row there is, "
        "do_not_pad stores only the tokens.",
        choices=("max_length", "longest", "do_not_pad"),
        applies=_by_document,
    )
    special_tokens: bool = option(
        True,
        "Special tokens",
        "Put the start token before rows and the separator between documents; off stores bare text "
        "tokens.",
    )
    start_token: str = option(
        "model",
        "Start token",
        "Whether each row starts with the tokenizer's BOS token: as the model does, always, never.",
        choices=("model", "on", "off"),
        applies=_with_special,
    )
    column: str = option(
        "",
        "Column",
        "Column of the dataset that is tokenised; empty takes the text.",
        advanced=True,
    )
    split: str = option("", "Split", "One split of the dataset; empty takes all.", advanced=True)
    skip_bad: bool = option(
        False,
        "Skip bad samples",
        "Leave samples out that the tokenizer refuses, and count them, instead of ending with an "
        "error that names the sample.",
        advanced=True,
    )

    def check(self) -> Iterable[Violation]:
        if not self.model and not self.tokenizer:
            yield Violation("model", "Choose a model, or write which tokenizer to use.")
        if 0 < self.context < 2 and self.special_tokens:
            yield Violation("context", "A row needs room for a start token and one more.")
