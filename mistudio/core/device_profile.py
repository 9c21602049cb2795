"""What a device with 8 GB, shared by processor and GPU, begins with; see docs/small-devices.md."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mistudio.core.settings import Settings

SMALL_BYTES = 8_600_000_000  # 8 GiB and what is rounded up to it
BUDGET_BYTES = 6_000_000_000  # that miStudio takes of such a device, all in all
# by the name of a config: what its form proposes instead of the defaults
SMALL_VALUES: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "HarvestConfig": {"rows": 4096, "context": 128},
        "ExtractConfig": {"batch": 8},
        "SweepConfig": {"batch": 1024},
        "TrainConfig": {"batch": 1024},
    }
)
SMALL_FORMAT = "nf4"
_FORMS_OF_MODELS = ("DownloadModelConfig", "ImportModelConfig")


def is_small(choice: str, total_bytes: float) -> bool:
    """What the user chose ("small", "standard"), else whether there is no more than 8 GB."""
    if choice in ("small", "standard"):
        return choice == "small"
    return total_bytes <= SMALL_BYTES


def depends(config: str) -> bool:
    """Whether `proposals` has anything for a config of that name."""
    return config in SMALL_VALUES or config in _FORMS_OF_MODELS


def proposals(config: str, values: Settings, small: bool) -> dict[str, Any]:
    """What a form of the named config begins with and is reset to, where it is not the default."""
    found = dict(SMALL_VALUES.get(config, {})) if small else {}
    if config in _FORMS_OF_MODELS:
        wanted = values.model_format
        found["format"] = SMALL_FORMAT if small and wanted == "auto" else wanted
    return found


def budget(free_bytes: int, resident_bytes: int, small: bool) -> int:
    """Bytes that may still be taken of so many free ones, by a process that holds so many."""
    return min(free_bytes, max(0, BUDGET_BYTES - resident_bytes)) if small else free_bytes
