"""Which weights a checkpoint was trained on: what it keeps of them, and how a change is told.

A description is a mapping: `format` as the model was loaded, `asked` as its row names it,
`fingerprint` of configuration and files, `transformers` the version that the fingerprint is of.
One without `format` is of a model that is not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

WEIGHTS = "weights"  # where a checkpoint's origin keeps the description
FORMAT, FILES = "format", "files"


def changed(stored: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs of the model, `FORMAT` or `FILES`; "" if nothing does or it is not known."""
    trained = stored.get("format")
    if "format" in now:
        form, same = now["format"], {trained}
    else:  # a device that lacks the format that is asked for loads another one each time
        form, same = now.get("asked"), {trained, stored.get("asked")}
    if trained and form and form not in same:
        return FORMAT
    told, found = stored.get("fingerprint"), now.get("fingerprint")
    # another version of transformers may write the same configuration in other words
    comparable = stored.get("transformers") == now.get("transformers")
    return FILES if comparable and told and found and told != found else ""
