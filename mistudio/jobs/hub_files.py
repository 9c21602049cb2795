"""The files of one commit on the Hub: those in the cache from there, others piece by piece."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mistudio.core.control import JobControl
from mistudio.core.errors import Offline

if TYPE_CHECKING:
    from mistudio.hub.ranges import RangeReader

_RECENT_PIECES = 8  # of a megabyte


class HubFiles:
    """The files of a commit as a `FileSource`: those in the cache from there, others by pieces."""

    def __init__(
        self,
        snapshot: Path,
        sizes: Mapping[str, int],
        reader: RangeReader | None,
        control: JobControl,
    ) -> None:
        self.sizes = sizes
        self.control = control
        self._snapshot = snapshot
        self._reader = reader
        self._recent: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()

    def local(self, path: str) -> Path | None:
        """The file in the cache if it is there in full."""
        place = self._snapshot / path
        try:
            return place if place.stat().st_size == self.sizes[path] else None
        except OSError:
            return None

    def read(self, path: str, start: int, end: int) -> bytes:
        """Bytes start..end-1 from the Hub; raises `Offline` where that is not to be asked.

        The last pieces are kept: a beginning is read for the preview, the columns and the rows.
        """
        key = (path, start, end)
        found = self._recent.get(key)
        if found is None:
            if self._reader is None:
                raise Offline("Offline mode is on; this dataset is not in the cache in full.")
            found = self._recent[key] = self._reader.read(path, start, end)
            if len(self._recent) > _RECENT_PIECES:
                self._recent.popitem(last=False)
        return found

    def text(self, path: str, most: int) -> str:
        """The beginning of a small text file, "" if there is none."""
        size = min(self.sizes.get(path, 0), most)
        if not size:
            return ""
        place = self.local(path)
        content = place.read_bytes()[:size] if place else self.read(path, 0, size)
        return content.decode("utf-8", "replace")


def sizes_below(folder: Path) -> dict[str, int]:
    """Bytes of every file below a folder, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
