"""What a new dataset is called: a name that no other has, so that commands can tell them apart."""

from __future__ import annotations

from unicodedata import category

from mistudio.core.dataset_configs import LONGEST_NAME
from mistudio.core.events import Reporter
from mistudio.jobs import sample
from mistudio.jobs.runner import Studio
from mistudio.store.tables import DATASETS

_RESERVED = {sample.NAME, "last"}  # commands mean something else by these


def free_name(studio: Studio, wanted: str, report: Reporter) -> str:
    """`wanted`, or with _2, _3… where it is taken, which is noted; what no name may hold goes."""
    plain = "".join(" " if category(c) in ("Cc", "Cs") else c for c in wanted)
    wanted = plain.strip()[:LONGEST_NAME] or "dataset"
    taken = {row.name for row in DATASETS.select(studio.db())} | _RESERVED
    number, free = 2, wanted
    while free in taken:
        suffix = f"_{number}"
        free, number = wanted[: LONGEST_NAME - len(suffix)] + suffix, number + 1
    if free != wanted:
        report.note(f"The name {wanted!r} is taken; this dataset is called {free!r}.")
    return free
