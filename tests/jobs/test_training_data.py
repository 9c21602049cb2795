"""What trainings read beside their windows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs.held_rows import CalibrationRows
from mistudio.jobs.training_source import TrainingSource
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.statistics import StreamStatistics
from mistudio.ml.activations.windows import Feed
from mistudio.ml.data.row_table import RowTable, VectorTable
from mistudio.ml.training import learner

POINT = HookPoint(0, "resid_post")


class _RowNumbers:
    """Every row's activation is its own number, so that what was read can be told."""

    points = (POINT,)
    widths = (2,)
    device = torch.device("cpu")

    def read(
        self, table: RowTable, rows: np.ndarray, take: Callable[[int, torch.Tensor], None]
    ) -> None:
        take(0, torch.from_numpy(rows).float()[:, None, None].expand(-1, 1, 2) + 1)

    def holds(self, table: RowTable, rows: np.ndarray) -> np.ndarray:
        return np.ones(len(rows), dtype=bool)

    def rest(self) -> None:
        pass


def test_the_threshold_is_found_on_rows_from_all_over_the_calibration_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner, "CALIBRATION_TOKENS", 64)
    table = VectorTable(4000, 0.2)
    source = TrainingSource(None, None, [], table, None, torch.device("cpu"))
    statistics = StreamStatistics(
        median_norm=1e9,
        norm_cut=10.0,
        mean_D=np.zeros(2),
        mean_square=2.0,
        scale=1.0,
        variance=1.0,
        n_tokens=1,
        mask_special=True,
        dropped={},
    )
    feed = Feed(POINT, statistics, norm_cut=10.0)
    config = TrainConfig(activations="a")
    held = CalibrationRows(_RowNumbers(), source, [feed], config, tmp_path / "c", JobControl())
    read = torch.cat(list(held.of(0)()))[:, 0] - 1
    held.close()
    part = np.array(table.rows("calibration"))
    assert len(read) >= 64
    assert set(read.int().tolist()) <= set(part.tolist())
    quarters = np.histogram(read.numpy(), bins=[-1, *np.quantile(part, [0.25, 0.5, 0.75]), 4000])[0]
    assert quarters.min() >= 6  # of a text that is sorted by kind, each kind is looked at
