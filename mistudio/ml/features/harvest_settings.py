"""What decides which tokens a harvest reads and what it keeps of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class HarvestSettings:
    """What decides the content of a store; `checkpoint_s` does not, and `batch_size` only where
    the shapes are free."""

    context: int = 128  # tokens per row; longer rows of the tokenisation are cut
    rows: int = 24_576  # most rows, drawn by a seeded shuffle
    top_k: int = 20  # examples per feature, one per row
    seed: int = 0
    norm_cut: float = 10.0  # tokens with a norm beyond this many medians do not count
    mask_special: bool = True
    most_entries: int = 256  # latents kept of one token, the strongest; counts stay exact
    batch_size: int = 0  # rows of a step, rounded up to whole tiles; 0: one tile
    fast: bool = False  # one forward pass of `batch_size` rows, the last of what is left
    checkpoint_s: float = 60.0
    skip_positions: tuple[int, ...] = ()  # of a row as the model reads it; they do not count

    def stored(self) -> dict[str, Any]:
        """JSON values; positions to skip only where there are some, as in older stores."""
        values = asdict(self)
        if not self.skip_positions:
            del values["skip_positions"]
        return values
