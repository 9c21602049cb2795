"""How fast a core multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np

from mistudio.system import speed


def test_the_quickest_of_some_products_counts_and_is_measured_once(monkeypatch: Any) -> None:
    monkeypatch.setattr(speed, "TIMES", 5)
    times = iter([0.0, 0.5, 1.0, 1.25, 2.0, 4.0, 4.0, 5.0, 5.0, 6.0])
    monkeypatch.setattr(speed.time, "process_time", lambda: next(times))
    made: list[int] = []
    product = np.matmul

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(1)
        return product(*arguments, **options)

    monkeypatch.setattr(speed.np, "matmul", counted)
    speed.product_flops.cache_clear()
    try:
        assert speed.product_flops() == 2 * 512**3 / 0.25
        assert speed.product_flops() == 2 * 512**3 / 0.25
        assert len(made) == 1 + speed.TIMES
    finally:
        speed.product_flops.cache_clear()


def test_a_processor_does_more_than_a_hundred_million_operations_a_second() -> None:
    speed.product_flops.cache_clear()
    assert 1e8 < speed.product_flops() < 1e13
