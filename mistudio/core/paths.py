"""Where everything lives: the data folder and the bundled resources."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import mistudio
from mistudio.core.errors import InvalidInput


def default_home() -> Path:
    """`MISTUDIO_HOME`, else the XDG data directory."""
    named = os.environ.get("MISTUDIO_HOME")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "mistudio"


@lru_cache(maxsize=1)
def resources() -> Path:
    """The read-only resources: beside the package in a checkout, inside it when installed."""
    bundle = getattr(sys, "_MEIPASS", None)
    candidates = [Path(bundle) / "resources"] if bundle else []
    package = Path(mistudio.__file__).resolve().parent
    candidates += [package / "resources", package.parent / "resources"]
    for candidate in candidates:
        if (candidate / "sample").is_dir():
            return candidate
    return candidates[-1]


@dataclass(frozen=True)
class Paths:
    """Every place below one data folder; paths in the database are relative to `home`."""

    home: Path

    @classmethod
    def at(cls, home: Path | str | None = None) -> Paths:
        """The data folder `home`, or the default one, created if missing.

        Raises `InvalidInput` if there cannot be one.
        """
        root = Path(home).expanduser() if home else default_home()
        paths = cls(root.resolve())
        try:
            for folder in (paths.home, paths.logs, paths.tmp):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"{paths.home} cannot be the data folder ({error.strerror}). Choose a folder that "
                "can be written.",
                details=str(error),
            ) from error
        return paths

    @property
    def database(self) -> Path:
        return self.home / "mistudio.db"

    @property
    def settings(self) -> Path:
        return self.home / "settings.json"

    @property
    def backups(self) -> Path:
        return self.home / "backups"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def exports(self) -> Path:
        return self.home / "exports"

    @property
    def tmp(self) -> Path:
        return self.home / "tmp"

    def dataset(self, dataset_id: str) -> Path:
        return self.home / "datasets" / dataset_id

    def tokens(self, dataset_id: str, tokenization_id: str) -> Path:
        return self.dataset(dataset_id) / "tokens" / tokenization_id

    def model(self, model_id: str) -> Path:
        return self.home / "models" / model_id

    def activations(self, activation_set_id: str) -> Path:
        return self.home / "activations" / activation_set_id

    def run(self, training_id: str) -> Path:
        return self.home / "runs" / training_id

    def checkpoints(self, training_id: str) -> Path:
        return self.run(training_id) / "checkpoints"

    def sae(self, sae_id: str) -> Path:
        return self.home / "saes" / sae_id

    def feature_set(self, feature_set_id: str) -> Path:
        return self.home / "features" / feature_set_id

    def vector(self, vector_id: str) -> Path:
        return self.home / "vectors" / f"{vector_id}.safetensors"

    def relative(self, path: Path) -> str:
        """`path` as stored in a row: relative to the data folder if inside it."""
        try:
            return str(path.resolve().relative_to(self.home))
        except ValueError:
            return str(path.resolve())

    def absolute(self, stored: str) -> Path:
        """The place a stored path names."""
        return self.home / stored
