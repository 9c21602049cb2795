"""A GPU that other programs have filled is not used."""

from __future__ import annotations

import pytest
import torch

from mistudio.core.errors import OutOfMemory
from mistudio.ml.device import check_room


@pytest.mark.parametrize(
    ("free", "ours", "refused"), [(5, 0, True), (5, 30, False), (20, 0, False)]
)
def test_memory_of_others_counts_and_ours_does_not(
    monkeypatch: pytest.MonkeyPatch, free: int, ours: int, refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: ours)
    check_room(torch.device("cpu"))
    if not refused:
        check_room(torch.device("cuda"))
        return
    with pytest.raises(OutOfMemory, match="Other programs hold 95 %"):
        check_room(torch.device("cuda"))
