"""How this process was started: alone, or as one of several by torchrun or accelerate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Launch(NamedTuple):
    """One of `size` processes. `rank` counts them all, `local_rank` those of this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_shared(self) -> bool:
        """Whether there are several processes."""
        return self.size > 1


def launch_of(environment: Mapping[str, str] = os.environ) -> Launch:
    """What a launcher has set; a process by itself where it has set nothing, or no numbers."""
    try:
        rank, size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        local_rank = int(environment.get("LOCAL_RANK", rank))
    except (KeyError, ValueError):
        return Launch()
    return Launch(rank, size, local_rank) if 0 <= rank < size else Launch()
