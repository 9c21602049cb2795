"""Takes access tokens out of text before it is written anywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{6,}")
MASK = "hf_•••"


def without_tokens(text: str) -> str:
    """The text with every access token replaced by a mask."""
    return _BEARER.sub(lambda found: found[1] + MASK, _TOKEN.sub(MASK, text))


_QUOTED = re.compile(r"""(["'])(?:file://)?/[^"'\n]*\1""")
_PATH = re.compile(r"(?<![\w.~:/<>-])/(?:[\w.@+~-]+/)+[\w.@+~-]*|(?<![\w.~:/<>-])/(?:[\w.@+~-]+)")


def without_private_paths(text: str, known: Mapping[str, str]) -> str:
    """The text with every absolute path replaced by <path>.

    known: what stands for folders that tell nothing of the user, such as that of the program;
      paths below them keep their rest. A path with blanks is known as a whole only in quotes or
      below one of these folders.
    """
    for folder in sorted(known, key=len, reverse=True):
        if len(folder) > 1:
            text = text.replace(folder, known[folder])
    text = _QUOTED.sub(lambda found: f"{found[1]}<path>{found[1]}", text)
    return _PATH.sub("<path>", text)
