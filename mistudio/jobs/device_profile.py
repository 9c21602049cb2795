"""The device's profile in force: from the settings and the memory that this process may use."""

from __future__ import annotations

from typing import Any

from mistudio.core import device_profile
from mistudio.core.settings import Settings
from mistudio.system.budget import memory_budget


def is_small(values: Settings) -> bool:
    """Whether the profile for 8 GB is in force; a container's or process's limit counts."""
    return device_profile.is_small(values.device_profile, memory_budget().total)


def proposals(config_class: type, values: Settings) -> dict[str, Any]:
    """What a form of this config begins with where it is not the default."""
    if not device_profile.depends(config_class.__name__):
        return {}  # without a look at the memory
    return device_profile.proposals(config_class.__name__, values, is_small(values))
