"""Activations of the parts of a text that are not trained on, held for all SAEs of a training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs.training_source import TrainingSource

if TYPE_CHECKING:
    import torch

    from mistudio.ml.activations.readers import RowReader
    from mistudio.ml.activations.windows import Feed, Windows
    from mistudio.ml.evaluation.held_out import HeldBatch, HeldRows

BATCH = 4096  # tokens that are looked at together


class PartRows:
    """Kept activations of a part, read once for all feeds when first needed.

    They lie in mapped files below `folder`, so that memory holds what is looked at.
    """

    part = ""
    told = ""
    """what is read, as its progress says"""

    def __init__(
        self,
        reader: RowReader,
        source: TrainingSource,
        feeds: Sequence[Feed],
        config: TrainConfig,
        folder: Path,
        control: JobControl | None,
        tell: Callable[[str], object] | None = None,
    ) -> None:
        """What is asked by `control` ends the reading, without one nothing does; `tell` hears how
        far it is."""
        self._reader, self._source, self._feeds = reader, source, feeds
        self._config, self._folder = config, folder
        self._control, self._tell = control, tell
        self._windows: dict[int, Windows] = {}  # by their least tokens

    def _held(self, tokens: int, *, hurried: bool = False) -> Windows | None:
        """At least so many kept tokens of the part, or all there are; None if a text has none.

        Raises `Cancelled` when something is asked of the job while they are read, unless they are
        `hurried`; `DiskFull` where they find no room.
        """
        if not all(len(group.rows) for group in self._source.table.groups(self.part)):
            return None
        if tokens not in self._windows:
            self._windows[tokens] = self._made(tokens, hurried)
        self._windows[tokens].bring(0, 0)
        return self._windows[tokens]

    def _made(self, tokens: int, hurried: bool) -> Windows:
        import torch

        from mistudio.ml.activations.windows import Windows

        def on_fill(done: int, rows: int) -> None:
            if self._tell is not None:
                self._tell(f"Reading {self.told}: {done:,} of {rows:,} rows")
            asked = self._control is not None and self._control.requested() is not Request.NONE
            if asked and not hurried:
                raise Cancelled

        return Windows(
            self._reader,
            self._source.table,
            self._feeds,
            window=tokens,
            seed=0,  # rows from all over the part: texts are often sorted by kind
            part=self.part,
            mask_special=self._config.mask_special,
            dtype=torch.float32,
            folder=self._folder / str(tokens),
            on_fill=on_fill,
        )

    def close(self) -> None:
        """Remove the files."""
        for held in self._windows.values():
            held.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class CalibrationRows(PartRows):
    """What thresholds are found on; fewer of them for a user who waits for the end."""

    part, told = "calibration", "calibration activations"

    def of(self, feed: int) -> Callable[[], Iterator[torch.Tensor]]:
        """A function that yields unscaled x_BD of a feed."""

        def batches() -> Iterator[torch.Tensor]:
            held = self._open()
            if held is None:
                return
            import torch

            size = held.window(feed).size
            for low in range(0, size, BATCH):
                chosen_B = torch.arange(low, min(size, low + BATCH))
                yield held.take(feed, chosen_B)[0]

        return batches

    def _open(self) -> Windows | None:
        from mistudio.ml.training.learner import CALIBRATION_TOKENS, QUICK_CALIBRATION_TOKENS

        whole = self._windows.get(CALIBRATION_TOKENS)
        if whole is not None and whole.filled is not None:
            return whole
        waits = self._control is not None and self._control.requested() is not Request.NONE
        tokens = QUICK_CALIBRATION_TOKENS if waits else CALIBRATION_TOKENS
        return self._held(tokens, hurried=waits)


class EvaluationRows(PartRows):
    """What SAEs are followed on while they are trained: the same 32,768 tokens at every look, or
    all that are held out."""

    part, told = "evaluation", "held-out activations"

    def of(self, feed: int) -> HeldRows:
        """A function that yields the batches of a feed, always the same."""

        def batches() -> Iterator[HeldBatch]:
            import torch

            from mistudio.ml.evaluation.bootstrap import documents_of
            from mistudio.ml.evaluation.held_out import HELD_OUT_TOKENS, HeldBatch

            held = self._held(HELD_OUT_TOKENS)
            if held is None:
                return
            own = held.window(feed)
            count = min(own.size, HELD_OUT_TOKENS)
            # a window may hold almost twice as many: tokens from all over it, in their order
            chosen_N = torch.arange(count) * own.size // count
            place_N2 = own.place_N2[chosen_N.numpy()]
            doc_N = documents_of(self._source.table, place_N2)
            for low in range(0, count, BATCH):
                now = slice(low, low + BATCH)
                parts = held.take(feed, chosen_N[now])
                yield HeldBatch(parts[0], parts[-1], place_N2[now, 0], doc_N[now])

        return batches
