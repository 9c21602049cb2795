"""Tokenizers by what the user calls them: a model's, a folder, a tokenizer.json, a Hub id."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import TokenizeConfig
from mistudio.core.errors import InvalidInput, NotFound
from mistudio.core.events import SilentReporter
from mistudio.core.repositories import repository_problem
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio

if TYPE_CHECKING:
    from mistudio.ml.data.token_preview import ReadyTokenizer
    from mistudio.ml.data.tokenize import TokenizeSettings

_KEPT = 4
_DEFAULT_CONTEXT = 512
NOT_HERE = "tokenizer_not_here"
"""code of the error for a Hub tokenizer that is not cached yet"""


@dataclass(frozen=True)
class TokenizerSource:
    """Where a tokenizer's files are."""

    path: Path
    """a folder, a GGUF file or a tokenizer.json"""
    name: str
    model_id: str | None = None
    max_positions: int | None = None


def find(studio: Studio, config: TokenizeConfig) -> TokenizerSource:
    """The tokenizer that a config means.

    Raises `NotFound`, whose code is "tokenizer_not_here" for one of the Hub that is not cached
    yet, or `InvalidInput`.
    """
    if config.model:
        model = lookup.model(studio, config.model)
        return TokenizerSource(
            studio.paths.absolute(model.path), model.name, model.id, model.max_positions
        )
    wanted = config.tokenizer.strip()
    local = _local(wanted)
    if local is not None:
        name = local.parent.name if local.name == "tokenizer.json" else local.name
        return TokenizerSource(local, name, max_positions=_max_positions(local))
    cached = _cached(wanted)
    if cached is not None:
        return TokenizerSource(cached, wanted, max_positions=_max_positions(cached))
    raise NotFound(
        f"The tokenizer of {wanted!r} is not on this machine yet; get it first.",
        code=NOT_HERE,
    )


def fetch(studio: Studio, config: TokenizeConfig, control: JobControl) -> None:
    """Get the tokenizer files of a Hub id into the cache; nothing for any other tokenizer.

    Raises what the Hub answers as a sentence, `NotFound` for a repository without a tokenizer.
    """
    control.check()
    try:
        find(studio, config)
    except NotFound as error:
        if error.code != NOT_HERE:
            raise
        _download(config.tokenizer.strip(), studio.tokens.of(config.tokenizer.strip()), control)


def _download(repo: str, token: str | None, control: JobControl) -> None:
    from mistudio.hub import client, model_files
    from mistudio.hub.download import download, plan_download
    from mistudio.hub.transfer import Patience

    facts = client.repo_facts("model", repo, "main", token, control.check)
    paths = model_files.tokenizer_files(facts)
    if not paths:
        raise NotFound(f"'{repo}' has no tokenizer. Choose another repository.")
    # a few small files: whoever waits for them tries again by hand
    patience = Patience(waits_s=())
    download(plan_download(facts, paths), token, SilentReporter(), control, patience=patience)


def _cached(repo: str) -> Path | None:
    """The snapshot of a repository whose tokenizer is in the cache."""
    from mistudio.hub import model_files, offline
    from mistudio.hub.repo_cache import RepoCache

    facts = offline.cached_facts("model", repo)
    if facts is None or not model_files.tokenizer_files(facts):
        return None
    return RepoCache("model", repo).snapshot(facts.sha)


def settings_for(config: TokenizeConfig, source: TokenizerSource) -> TokenizeSettings:
    """The settings that a config means for a tokenizer; those that do not apply are the default."""
    from mistudio.ml.data.tokenize import TokenizeSettings

    return TokenizeSettings(
        context=config.context or min(_DEFAULT_CONTEXT, source.max_positions or _DEFAULT_CONTEXT),
        arrangement=config.arrangement,
        start_token=config.start_token,
        truncation=config.truncation,
        padding=config.padding,
        special_tokens=config.special_tokens,
        column=config.column.strip(),
        split=config.split.strip(),
        skip_bad=config.skip_bad,
    ).applied()


class _Ready:
    """Tokenizers that previews used last, loaded; a changed file is loaded again."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: OrderedDict[tuple[str, int], ReadyTokenizer] = OrderedDict()

    def get(self, path: Path) -> ReadyTokenizer:
        from mistudio.ml.data.token_preview import ReadyTokenizer
        from mistudio.ml.data.tokenizer_files import read_tokenizer

        key = (str(path), _changed_at(path))
        with self._lock:
            found = self._loaded.pop(key, None) or ReadyTokenizer(read_tokenizer(path))
            self._loaded[key] = found
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return found


_READY = _Ready()


def ready(source: TokenizerSource) -> ReadyTokenizer:
    """The tokenizer loaded for previews, kept between calls; jobs load their own."""
    return _READY.get(source.path)


def _changed_at(path: Path) -> int:
    named = path / "tokenizer.json"
    try:
        return (named if named.is_file() else path).stat().st_mtime_ns
    except OSError:
        return 0


def _local(wanted: str) -> Path | None:
    """The file or folder that words mean, None for a Hub id; raises `NotFound` for neither."""
    path = Path(wanted).expanduser()
    if path.is_file() or (path.is_dir() and (path.is_absolute() or any(path.glob("*token*")))):
        return path.resolve()
    if wanted.startswith(("/", ".", "~")) or wanted.endswith(".json"):
        raise NotFound(f"There is no file or folder {wanted!r}.")
    if problem := repository_problem(wanted):
        raise InvalidInput(
            f"{problem} A folder or a tokenizer.json is given by its path.", code="bad_tokenizer"
        )
    return None


def _max_positions(path: Path) -> int | None:
    """What a model config beside the tokenizer allows, if there is one."""
    folder = path if path.is_dir() else path.parent
    try:
        read: Any = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    config = cast("dict[str, Any]", read) if isinstance(read, dict) else {}
    for name in ("max_position_embeddings", "n_positions", "n_ctx"):
        value = config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return None
