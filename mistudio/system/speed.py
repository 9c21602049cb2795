"""How fast a core of this processor multiplies: measured once, in some milliseconds."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

SIZE = 512
TIMES = 20  # few, and a machine that is busy is taken for a slow one


@lru_cache(maxsize=1)
def product_flops() -> float:
    """Operations per second of one core in a product of float32 matrices.

    Measured in processor time, of which other programs take nothing; what works beside it in this
    process does, so that the quickest of several products counts.
    """
    left = np.ones((SIZE, SIZE), dtype=np.float32)
    right, out = left.copy(), np.empty_like(left)
    np.matmul(left, right, out=out)  # starts the threads
    taken: list[float] = []
    for _ in range(TIMES):
        began = time.process_time()
        np.matmul(left, right, out=out)
        taken.append(time.process_time() - began)
    return 2 * SIZE**3 / max(min(taken), 1e-6)
