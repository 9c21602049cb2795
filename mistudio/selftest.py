"""Checks an installation: every library that is loaded late does its smallest real work."""

from __future__ import annotations

import contextlib
import io
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from mistudio import selftest_libraries, selftest_window
from mistudio.core.errors import InvalidInput, StudioError

if TYPE_CHECKING:
    from mistudio.console import Console

CHECKS: dict[str, Callable[[], str]] = {
    "database": selftest_libraries.database,
    "torch": selftest_libraries.torch_forward,
    "tokenizer": selftest_libraries.tokenizer,
    "model": selftest_libraries.model,
    "training": selftest_libraries.training,
    "quantisation": selftest_libraries.quantisation,
    "safetensors": selftest_libraries.tensor_files,
    "gguf": selftest_libraries.gguf_file,
    "datasets": selftest_libraries.tables,
    "meaning": selftest_libraries.sentence_embedding,
    "hub": selftest_libraries.hub_client,
    "plot": selftest_window.plot,
    "window": selftest_window.window,
}


def run(console: Console, only: Sequence[str] = ()) -> int:
    """Print one line per check with its time; returns 0 if all passed, else 1 and a sentence.

    Each check is on its own: one that fails does not keep the others from running. Raises
    `InvalidInput` for an unknown name in `only`.
    """
    unknown = sorted(set(only) - set(CHECKS))
    if unknown:
        raise InvalidInput(f"There is no check {unknown[0]!r}; there are {', '.join(CHECKS)}.")
    failed: list[str] = []
    began = time.perf_counter()
    for name in only or CHECKS:
        start = time.perf_counter()
        with _quiet() as said:
            ok, found, details = _ask(CHECKS[name])
        if not ok:
            failed.append(name)
            details = "\n".join(part for part in (details, said.getvalue().strip()) if part)
        console.check(name, ok, time.perf_counter() - start, found, details)
    seconds = time.perf_counter() - began
    count = len(only or CHECKS)
    lines = [f"All {count} checks passed in {seconds:.1f} s."] if not failed else []
    if failed:
        console.error(
            "selftest",
            f"{len(failed)} of {count} checks failed: {', '.join(failed)}. "
            "`mistudio doctor` looks for the reason; --json tells more.",
        )
    else:
        console.result({"checks": count, "failed": 0, "seconds": round(seconds, 3)}, lines)
    return 1 if failed else 0


def _ask(check: Callable[[], str]) -> tuple[bool, str, str]:
    """Whether it passed, its sentence, and what an expert would want to know."""
    try:
        return True, check(), ""
    except StudioError as error:
        return False, error.sentence, error.details
    except Exception as error:  # noqa: BLE001  # a library may raise anything; the line says what
        return False, f"{type(error).__name__}: {error}", traceback.format_exc()


@contextlib.contextmanager
def _quiet() -> Iterator[io.StringIO]:
    """Keep what libraries print or warn of off the lines of the checks."""
    said = io.StringIO()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield said
