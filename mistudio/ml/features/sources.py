"""Where a harvest's activations come from: the model's forward pass, or a stored activation set."""

from __future__ import annotations

import hashlib
import json
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.core.errors import Mismatch
from mistudio.ml.activations.capture import check_ids
from mistudio.ml.activations.multi_capture import HookPoint
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.activations.readers import stored_rows
from mistudio.ml.activations.shards import ActivationSet
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features.rows import RowBlock
from mistudio.ml.hooks import tl_name
from mistudio.ml.loading import LoadedModel


class Source(Protocol):
    """Gives what an SAE reads (and, of a transcoder, what it is to give) for a block of rows."""

    @property
    def name(self) -> str:
        """The hook's name, or both hooks' names."""
        ...

    @property
    def path(self) -> str:
        """What sentences call the place."""
        ...

    @property
    def d_in(self) -> int: ...

    @property
    def written(self) -> HookPoint:
        """Where the SAE writes."""
        ...

    @property
    def is_pair(self) -> bool: ...

    @property
    def origin(self) -> list[object]:
        """What decides the bits of the activations, beside model, hook and text."""
        ...

    def usable(self, tokens: TokenStore, length: int) -> NDArray[np.bool_] | None:
        """Rows of the tokenisation that can be read, None for all; may raise `Mismatch`."""
        ...

    def __call__(self, block: RowBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """x [R, S, d_in] and y [R, S, d_out]; the same tensor if there is one hook."""
        ...


class LiveSource:
    """One truncated forward pass for each block."""

    def __init__(self, loaded: LoadedModel, layer: int, hook_in: str, hook_out: str) -> None:
        """Raises as `PairCapture` does for places that cannot be read."""
        self._capture = PairCapture(loaded, layer, hook_in, hook_out)
        self._vocab_size = loaded.facts.vocab_size
        self.name, self.path = self._capture.tl_name, self._capture.path
        self.d_in, self.is_pair = self._capture.d_in, self._capture.is_pair
        self.written = HookPoint(layer, hook_out)
        self.origin: list[object] = []

    def usable(self, tokens: TokenStore, length: int) -> NDArray[np.bool_] | None:
        """All rows."""
        return None

    def __call__(self, block: RowBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """Raises `InvalidInput` for tokens of another vocabulary, `OutOfMemory`."""
        ids_BS = torch.from_numpy(block.ids_RS).long()
        check_ids(ids_BS, self._vocab_size)
        return self._capture(ids_BS)


class StoredSource:
    """Rows of an activation set that was made from this very text with this model.

    Values are those of the set's precision. A set in fp32 whose rows went through the model as
    many at a time as a harvest takes gives the bits of the live pass; others differ by rounding.
    """

    def __init__(
        self,
        stored: ActivationSet,
        tokens: TokenStore,
        layer: int,
        hook_in: str,
        hook_out: str,
        device: torch.device,
    ) -> None:
        """Raises `InvalidInput` if a hook is not stored, `Mismatch` if the text is another."""
        hooks = [hook_in] if hook_in == hook_out else [hook_in, hook_out]
        self.name = " → ".join(tl_name(layer, hook) for hook in hooks)
        self._points = [HookPoint(layer, hook) for hook in hooks]
        self._reader = stored_rows(stored, tokens, self._points, device)
        self._tokens = tokens
        self.path = f"L{layer}.{hook_in} of the stored activations"
        self.d_in, self.is_pair = self._reader.widths[0], len(hooks) == 2
        self.written = self._points[-1]
        files = json.dumps(stored.meta["files"], sort_keys=True)
        self.origin: list[object] = ["stored", hashlib.sha256(files.encode()).hexdigest()]
        self.dtype = str(stored.meta["dtype"])

    def usable(self, tokens: TokenStore, length: int) -> NDArray[np.bool_] | None:
        """Rows that are stored whole; raises `Mismatch` for rows that would be cut."""
        if length != tokens.context:
            raise Mismatch(
                f"Stored activations are those of whole rows of {tokens.context:,} tokens; choose "
                "that context, or read with the model."
            )
        numbers = np.arange(len(tokens))
        parts = [
            self._reader.holds(tokens, numbers[low : low + 4096])
            for low in range(0, len(numbers), 4096)
        ]
        return np.concatenate(parts)

    def __call__(self, block: RowBlock) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of padding below the block's own read as zeros. Raises `Damaged`, `NotFound`."""
        found: list[torch.Tensor] = []

        def take(_point: int, x_RSD: torch.Tensor) -> None:
            missing = len(block.ids_RS) - len(x_RSD)
            if missing:
                x_RSD = torch.cat([x_RSD, x_RSD.new_zeros(missing, *x_RSD.shape[1:])])
            found.append(x_RSD)

        self._reader.read(self._tokens, block.rows_R2[:, 0], take)
        return found[0], found[-1]
