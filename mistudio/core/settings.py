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


class SettingText(NamedTuple):
    """What a setting is called, and what it is for."""

    label: str
    help: str


def _setting(default: Any, label: str, help: str) -> Any:
    """A setting that the user can change, with its texts."""
    return field(default=default, metadata={"text": SettingText(label, help)})


LONG_JOB_S = 30  # from so many seconds of work a job's end is worth a notice


@dataclass
class Settings:
    """Every setting with its default; `remembered` holds what forms and views last showed."""

    theme: str = _setting(
        "dark",  # dark, light or system
        "Theme",
        "Colours of the window; as the desktop follows what your desktop says when miStudio "
        "starts. Light is easier to read in a bright room.",
    )
    font_px: int = _setting(
        14,
        "Font size (px)",
        "Size of the text in the window; buttons, rows and margins grow with it. 21 is one and a "
        "half times the usual size.",
    )
    device: str = _setting(
        "auto",  # auto, cuda or cpu
        "Device",
        "Where models and SAEs compute: automatic takes a GPU that works, else the processor. "
        "Choose the processor if something else needs the GPU.",
    )
    threads: int = _setting(
        0,
        "Processor threads (0: all but one)",
        "Threads that compute on the processor. Fewer leave room for other programs and keep the "
        "machine cooler; jobs take longer.",
    )
    model_format: str = _setting(
        "auto",
        "Format of new models",
        "Precision proposed when a model is added: automatic takes FP32 on the processor and 16 "
        "bit on a GPU. INT8, NF4 and FP4 need less memory and are less exact.",
    )
    offline: bool = _setting(
        False,
        "Work offline: never ask the Hub",
        "Nothing goes over the network: downloads and searches of the Hub are off, what is on "
        "this machine goes on working.",
    )
    hub_address: str = _setting(
        "",
        "Hub address",
        "Another server that answers as the Hugging Face Hub does, such as a mirror; empty is the "
        "public one.",
    )
    proxy: str = _setting(
        "",
        "Proxy for the Hub",
        "Server that requests to the Hub pass through, such as http://proxy:3128; empty asks "
        "directly.",
    )
    monitor_period_s: float = 2.0  # between two samples of the machine
    device_profile: str = _setting(
        "auto",  # small (8 GB in all), standard, or auto: by the memory
        "Device profile",
        "Small plans for a machine with 8 GB in all, shared with its GPU: 4-bit models, fewer "
        "rows, one model at a time. Automatic goes by the memory that is there.",
    )
    pause_at_c: int = _setting(
        0,
        "Pause training at (°C, 0: never)",
        "A training pauses when the machine is this warm, and goes on once it has cooled down. "
        "Useful on small devices without a fan.",
    )
    confirm_close: bool = _setting(
        True,
        "Ask before closing while a job runs",
        "Closing the window ends the running job at its next safe point. Off, it does so without "
        "a question; a training can be resumed either way.",
    )
    job_notices: bool = _setting(
        True,
        "Notice when a long job ends",
        f"Tells when a job of {LONG_JOB_S} seconds or more ends while another window is in front: "
        "a notification of the desktop where there is one, else the window asks for attention.",
    )
    remote_display: str = _setting(
        "auto",  # auto, on or off
        "Remote screen",
        "On a screen that is reached over a network nothing moves and figures follow twice a "
        "second. Automatic sees SSH, VNC and RDP sessions.",
    )
    log_level: str = _setting(
        "info",
        "Log",
        "How much the program writes into the data folder's logs. Detailed helps to find out why "
        "something fails; it takes effect at the next start.",
    )
    remembered: dict[str, Any] = field(default_factory=dict[str, Any])


def text_of(name: str) -> SettingText:
    """The texts of a setting that the user can change; raises `KeyError` for others."""
    found: SettingText = Settings.__dataclass_fields__[name].metadata["text"]
    return found


def described_settings() -> list[str]:
    """Names of the settings that the user can change, in their order."""
    return [item.name for item in fields(Settings) if "text" in item.metadata]


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
