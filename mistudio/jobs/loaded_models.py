"""The one language model this process holds, kept between jobs so that it loads once."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.store.records import ModelRow

if TYPE_CHECKING:
    from mistudio.ml.loading import LoadedModel


class LoadedModels:
    """Holds at most one model; jobs of the GPU lane ask for the one they need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str, str] | None = None
        self._loaded: Any = None
        self._name = ""
        self.device = "auto"
        """where models are loaded: auto, cuda or cpu"""
        self.threads: int | None = None
        """processor threads for tensors; 0 takes all cores but one, None leaves torch's choice"""

    @property
    def held_bytes(self) -> int:
        """Bytes that the held model's weights take, 0 if none is held."""
        loaded = self._loaded
        return loaded.memory_bytes if loaded is not None else 0

    @property
    def name(self) -> str:
        """Name of the held model, "" if none."""
        return self._name

    def get(self, model: ModelRow, path: Path) -> LoadedModel:
        """The model, loaded if it is not the one held; another one is let go first."""
        from mistudio.ml.device import check_room, choose_device, set_threads
        from mistudio.ml.loading import load_model

        with self._lock:
            if self.threads is not None:
                set_threads(self.threads or None)
            key = (str(path), self.device)
            if self._key != key:
                self._forget()
                device = choose_device(self.device)
                check_room(device)
                self._loaded = load_model(path, device)
                self._key = key
                self._name = model.name
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
        self._loaded = None
        self._key = None
        self._name = ""
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
