"""The one language model this process holds, kept between jobs so that it loads once."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import NotFound
from mistudio.store.records import ModelRow

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel


def files_gone(name: str, path: Path) -> NotFound:
    """The refusal of a model whose files were moved or deleted outside the program."""
    return NotFound(
        f"The files of {name!r} are no longer at {path}. Delete the model here, then import or "
        "download it again."
    )


class LoadedModels:
    """Holds at most one model; jobs of the GPU lane ask for the one they need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._place: tuple[str, str] | None = None
        self._asked = ""  # the format asked for; the held one may differ ("auto", no 4 bit here)
        self._loaded: Any = None
        self._name = ""
        self._id = ""
        self.device = "auto"
        """where models are loaded: auto, cuda or cpu"""
        self.threads: int | None = None
        """processor threads for tensors; 0 takes all cores but one, None leaves torch's choice"""
        self.beside: dict[str, Any] = {}
        """what jobs made from the held model and use again; let go with it"""

    @property
    def held_bytes(self) -> int:
        """Bytes that the held model's weights take, 0 if none is held."""
        loaded = self._loaded
        return loaded.memory_bytes if loaded is not None else 0

    @property
    def name(self) -> str:
        """Name of the held model, "" if none."""
        return self._name

    @property
    def model_id(self) -> str:
        """Id of the held model's row, "" if none."""
        return self._id

    @property
    def format(self) -> str:
        """Format of the held model, "" if none."""
        loaded = self._loaded
        return loaded.format if loaded is not None else ""

    def get(self, model: ModelRow, path: Path, form: str = "") -> LoadedModel:
        """The model in its row's format, or in `form`; another model is let go first."""
        return self.load(
            model.id,
            model.name,
            path,
            form or model.format or "auto",
            allow_code=model.trust_remote_code,
        )

    def load(
        self,
        model_id: str,
        name: str,
        path: Path,
        form: str,
        *,
        allow_code: bool = False,
        step: Callable[[float], None] = lambda _done: None,
    ) -> LoadedModel:
        """A model by its files, loaded if it is not the one held.

        `step` gets the share done and may raise; then no model is held. Raises `NotFound` if the
        files are gone.
        """
        from mistudio.ml.device import check_room, choose_device, set_threads
        from mistudio.ml.loading import load_model

        with self._lock:
            if self.threads is not None:
                set_threads(self.threads or None)
            held = (str(path), self.device) == self._place and form in (self._asked, self.format)
            if not held:
                if not path.exists():
                    raise files_gone(name, path)
                self._forget()
                device = choose_device(self.device)
                check_room(device)
                self._loaded = load_model(path, device, form, allow_code=allow_code, step=step)
                self._place, self._asked = (str(path), self.device), form
            self._name, self._id = name, model_id
            return self._loaded

    def unload(self) -> bool:
        """Free the held model, if any; False while it is being loaded."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            self._forget()
        finally:
            self._lock.release()
        return True

    def _forget(self) -> None:
        held = self._loaded is not None
        self._loaded = None
        self._place = None
        self._name = self._id = ""
        self.beside.clear()
        if held:
            gc.collect()  # modules point at one another
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        _give_back()


def _give_back() -> None:
    """Let the operating system have what was freed.

    The C library keeps freed blocks below some megabytes for itself, which after a quantised model
    are hundreds of megabytes that nobody could use.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc only
    if trim is not None:
        trim(0)
