"""Takes access tokens out of text before it is written anywhere."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"hf_[A-Za-z0-9]{4,}")
_BEARER = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{6,}")
MASK = "hf_•••"


def without_tokens(text: str) -> str:
    """The text with every access token replaced by a mask."""
    return _BEARER.sub(lambda found: found[1] + MASK, _TOKEN.sub(MASK, text))
