"""What was read of features last, kept small: a page opened again is not read and rendered anew."""

from __future__ import annotations

import pickle
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

MOST_BYTES = 16 << 20  # of one open store; a page takes about 15 KB

_kept: weakref.WeakKeyDictionary[Any, KeptPages] = weakref.WeakKeyDictionary()


class KeptPages:
    """Answers by what was asked, as bytes, up to a size; those asked for longest ago go first."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most, self._size = most_bytes, 0
        self._answers: OrderedDict[Hashable, bytes] = OrderedDict()

    def get(self, asked: Hashable, read: Callable[[], Any]) -> Any:
        """The answer of `read()`, kept from before or now; plain values, a new copy each time."""
        stored = self._answers.get(asked)
        if stored is not None:
            self._answers.move_to_end(asked)
            return pickle.loads(stored)
        answer = read()
        stored = pickle.dumps(answer, pickle.HIGHEST_PROTOCOL)
        self._answers[asked] = stored
        self._size += len(stored)
        while self._size > self._most:
            self._size -= len(self._answers.popitem(last=False)[1])
        return answer


def pages_of(store: object) -> KeptPages:
    """What is kept of a store; it goes when the store is closed."""
    found = _kept.get(store)
    if found is None:
        found = _kept[store] = KeptPages()
    return found
