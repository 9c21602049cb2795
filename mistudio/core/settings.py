"""The user's settings: one dataclass in one JSON file, with a schema version."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.atomic import write_json
from mistudio.core.errors import from_os_error

SCHEMA = 1


@dataclass
class Settings:
    """Every setting with its default; `remembered` holds what forms and views last showed."""

    theme: str = "dark"  # dark, light or system
    font_px: int = 14  # body font
    device: str = "auto"  # auto, cuda or cpu
    threads: int = 0  # processor threads for tensors; 0: cores - 1
    model_format: str = "auto"  # precision proposed for new models
    offline: bool = False  # never use the network
    hub_address: str = ""  # of the Hugging Face Hub; empty is the public one
    proxy: str = ""  # for requests to the Hub, such as http://proxy:3128
    monitor_period_s: float = 2.0  # between two samples of the machine
    device_profile: str = "auto"  # small (8 GB in all), standard, or auto: by the memory
    pause_at_c: int = 0  # °C at which a training pauses; 0: never
    confirm_close: bool = True  # ask before closing while a job runs
    remote_display: str = "auto"  # profile of a remote screen: auto, on or off
    log_level: str = "info"
    remembered: dict[str, Any] = field(default_factory=dict[str, Any])


class Snapshot(NamedTuple):
    """The settings at one moment, to be written in any thread."""

    number: int  # a later one is higher
    content: dict[str, Any]


class SettingsFile:
    """The settings in force and the file they live in; unknown keys of the file are kept."""

    def __init__(self, path: Path) -> None:
        """Reads the file; a broken one is renamed aside and `problem` holds a sentence."""
        self.path = path
        self.problem = ""
        self.dirty = False
        self._unknown: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._taken = self._written = 0
        self.values = Settings()
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            items = dict(stored).items()
        except (OSError, ValueError, TypeError):
            aside = self.path.with_suffix(".broken.json")
            self.problem = f"The settings file is unreadable; it is kept as {aside.name}."
            try:
                self.path.replace(aside)
            except OSError as error:
                self.problem = from_os_error(error, "set the broken settings file aside").sentence
            return
        names = {item.name: getattr(self.values, item.name) for item in fields(Settings)}
        for name, value in items:
            if name in names and _fits(value, names[name]):
                setattr(self.values, name, value)
            elif name != "schema":
                self._unknown[name] = value

    def save(self) -> None:
        """Write the file now; raises `StudioError` if the disk refuses."""
        self.write(self.snapshot())

    def snapshot(self) -> Snapshot:
        """A copy for `write`; what is changed from now on is dirty again."""
        self.dirty = False
        self._taken += 1
        return Snapshot(self._taken, {"schema": SCHEMA, **asdict(self.values), **self._unknown})

    def write(self, taken: Snapshot) -> None:
        """Write a snapshot from any thread, unless a later one is written.

        Raises `StudioError` if the disk refuses.
        """
        with self._lock:
            if taken.number < self._written:
                return
            try:
                write_json(self.path, taken.content)
            except OSError as error:
                raise from_os_error(error, "save the settings") from error
            self._written = taken.number

    def recall(self, name: str, default: Any = None) -> Any:
        """What `remember` last kept under a name."""
        return self.values.remembered.get(name, default)

    def remember(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name, such as a form's last values; `save` writes it."""
        if self.values.remembered.get(name) != value:
            self.values.remembered[name] = value
            self.dirty = True


def _fits(value: Any, default: Any) -> bool:
    """Whether a stored value has the type of the setting's default (a bool is no int)."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    return isinstance(value, type(default))
