"""The settings of writing a steering for use outside this program."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option

STEERING_FORMATS = {
    "python": "Transformers code (Python)",
    "gguf": "Control vector (GGUF)",
    "safetensors": "Vectors (safetensors)",
}
ENDINGS = {"python": "py", "gguf": "gguf", "safetensors": "safetensors"}
TEXT = "-"  # as the file: nothing is written, the result holds the script


@dataclass(frozen=True)
class ExportSteeringConfig(Config):
    """Write what a run steers with: as code of transformers, or what it adds as vectors."""

    run: str = option("last", "Run", "Id of a kept run, or last.")
    settings: str = option(
        "", "Settings", "Settings of a run as JSON, in place of a kept run.", advanced=True
    )
    variant: str = option(
        "", "Variant", "Which of the run's variants, as its results name it.", advanced=True
    )
    format: str = option(
        "python",
        "Format",
        "python: a script of transformers that writes the same greedy text; gguf: control vector "
        "for llama.cpp; safetensors: one vector per layer.",
        choices=tuple(STEERING_FORMATS),
    )
    out: str = option(
        "", "File", "File to write; empty makes a name in the data folder's exports, - gives text."
    )

    def check(self) -> Iterable[Violation]:
        if self.settings:
            try:
                read = json.loads(self.settings)
            except ValueError:
                read = None
            if not isinstance(read, dict):
                yield Violation("settings", "The settings are no JSON object.")
        elif not self.run:
            yield Violation("run", "Name a run, or last.")
        if self.out == TEXT and self.format != "python":
            yield Violation("out", "Only Python is text; name a file.")
