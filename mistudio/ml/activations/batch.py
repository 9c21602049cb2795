"""Some rows of a tokenisation, as an extraction reads them."""

from __future__ import annotations

import numpy as np
import torch

from mistudio.ml.activations.set_statistics import Places
from mistudio.ml.data.token_store import PADDING, SPECIAL, TokenStore


class Batch:
    """Rows `low` to `high`: ids for the model and which of their tokens are stored."""

    def __init__(self, store: TokenStore, low: int, high: int, most_tokens: int | None) -> None:
        ids_BS, mask_BS = rows_of(store.ids, low, high), rows_of(store.mask, low, high)
        keep_BS = mask_BS != PADDING
        if most_tokens is not None:
            keep_BS &= (np.cumsum(keep_BS) <= most_tokens).reshape(keep_BS.shape)
        used = np.flatnonzero(keep_BS.any(0))
        length = int(used[-1]) + 1 if len(used) else 0  # what stands behind cannot be seen
        self.rows = high - low
        self.ids_BS = torch.from_numpy(ids_BS[:, :length].astype(np.int64))
        row_T, position_T = np.nonzero(keep_BS)
        self.places = Places(
            ids_BS[row_T, position_T].astype(np.int32),
            (row_T + low).astype(np.int32),
            position_T.astype(np.int32),
        )
        self.special_T = (mask_BS[row_T, position_T] == SPECIAL).astype(np.uint8)
        self._whole = len(row_T) == self.ids_BS.numel()
        self._kept_T = torch.from_numpy(row_T * length + position_T)

    def __len__(self) -> int:
        return len(self.special_T)

    def kept(self, x_BSD: torch.Tensor) -> torch.Tensor:
        """The stored tokens of the batch's activations, x_TD."""
        x_TD = x_BSD.flatten(0, 1)
        if self._whole:
            return x_TD
        self._kept_T = self._kept_T.to(x_TD.device)
        return x_TD.index_select(0, self._kept_T)


def rows_of(array: np.ndarray, low: int, high: int) -> np.ndarray:
    """Rows read as from a file: pages of a memory map would add up to the process's memory."""
    if not isinstance(array, np.memmap) or array.filename is None:
        return array[low:high]
    width = array.shape[1]
    at = array.offset + low * width * array.itemsize
    flat = np.fromfile(array.filename, array.dtype, (high - low) * width, offset=at)
    return flat.reshape(-1, width)
