"""The file formats of SAEs: which one a file or folder is, how to read it, how to write it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.errors import InvalidInput, NotFound, Unsupported
from mistudio.ml.formats.circuit_tracer import read_circuit_tracer
from mistudio.ml.formats.dictionary_learning import (
    read_dictionary_learning,
    write_dictionary_learning,
)
from mistudio.ml.formats.gemma_scope import read_gemma_scope
from mistudio.ml.formats.gemma_scope_2 import read_gemma_scope_2
from mistudio.ml.formats.gemma_scope_2_clt import read_gemma_scope_2_clt
from mistudio.ml.formats.llama_scope import read_llama_scope
from mistudio.ml.formats.lm_saes import read_lm_saes
from mistudio.ml.formats.saelens import read_saelens, write_saelens
from mistudio.ml.formats.sparsify import read_sparsify, write_sparsify
from mistudio.ml.formats.temporal import read_temporal
from mistudio.ml.sae.base import SparseAutoencoder

Reader = Callable[[Path], tuple[SparseAutoencoder, dict[str, Any]]]
Writer = Callable[[Path, SparseAutoencoder, Mapping[str, Any]], None]
Has = Callable[[str], bool]  # whether a folder has a file of this name
DEPTH = 4  # folders below the named one that are searched
NUMBERED = re.compile(r".*layer_(\d+)\.safetensors")  # the one file of a layer
NAMED = 5  # of several SAEs, those that the sentence lists


@dataclass(frozen=True)
class SaeFormat:
    """One layout of files. `marks` are paths in its folder that no other format has.

    Of a `one_file` format each file that fits a mark is an SAE by itself, and is what is read.
    `beside` are the other files that the reader uses if they are there, from the same folder.
    `is_told` looks at those where two formats share a mark.
    """

    name: str
    title: str
    marks: tuple[str, ...]
    read: Reader
    write: Writer | None = None
    one_file: bool = False
    beside: tuple[str, ...] = ()
    is_told: Callable[[Has], bool] | None = None


def _of_lm_saes(has: Has) -> bool:
    return has("config.json") and not has("cfg.json")


FORMATS = (
    SaeFormat(
        "saelens",
        "SAELens",
        ("sae_weights.safetensors",),
        read_saelens,
        write_saelens,
        beside=("cfg.json", "activation_scaler.json", "activation_whitening.safetensors"),
        is_told=lambda has: not _of_lm_saes(has),
    ),
    SaeFormat(
        "lm_saes",
        "Llama Scope R1-Distill",
        ("sae_weights.safetensors",),
        read_lm_saes,
        beside=("config.json",),
        is_told=_of_lm_saes,
    ),
    SaeFormat(
        "dictionary_learning",
        "dictionary_learning",
        ("ae.pt",),
        read_dictionary_learning,
        write_dictionary_learning,
        beside=("config.json",),
    ),
    SaeFormat(
        "sparsify",
        "sparsify",
        ("sae.safetensors",),
        read_sparsify,
        write_sparsify,
        beside=("cfg.json", "../config.json"),
    ),
    SaeFormat("gemma_scope", "Gemma Scope", ("params.npz",), read_gemma_scope),
    SaeFormat(
        "gemma_scope_2",
        "Gemma Scope 2",
        ("params.safetensors",),
        read_gemma_scope_2,
        beside=("config.json",),
    ),
    SaeFormat(
        "gemma_scope_2_clt",
        "Gemma Scope 2 across layers",
        ("params_layer_*.safetensors",),
        read_gemma_scope_2_clt,
        one_file=True,
        beside=("config.json",),
    ),
    SaeFormat(
        "llama_scope",
        "Llama Scope",
        ("hyperparams.json", "checkpoints/final.safetensors"),
        read_llama_scope,
    ),
    SaeFormat(
        "temporal",
        "TemporalSAEs",
        ("latest_ckpt.safetensors",),
        read_temporal,
        beside=("conf.yaml",),
    ),
    SaeFormat(
        "circuit_tracer",
        "circuit-tracer",
        ("layer_*.safetensors",),
        read_circuit_tracer,
        one_file=True,
        beside=("config.yaml",),
    ),
)


class Found(NamedTuple):
    """A folder that holds one SAE, or its one file, and its format."""

    format: SaeFormat
    folder: Path


def detect(path: Path) -> Found:
    """Which format a folder, or one of an SAE's files, is.

    A folder with exactly one SAE below it stands for that one. Raises `NotFound` if there is
    nothing at the path, `InvalidInput` if it holds several, `Unsupported` if it holds none.
    """
    if not path.exists():
        raise NotFound(f"There is no file or folder {path}.")
    if path.is_file():
        return _of_file(path)
    here = _formats_in(path)
    if len(here) > 1:
        raise InvalidInput(
            f"{path} holds files of {' and of '.join(found.title for found in here)}; "
            f"name the one to read, such as {path / here[0].marks[0]}."
        )
    if here and not here[0].one_file:
        return Found(here[0], path)
    below = list(_below(path))
    if len(below) == 1:
        return below[0]
    if below:
        names = [str(found.folder.relative_to(path)) for found in below]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise InvalidInput(
            f"{path} holds {len(names)} SAEs; name one: {', '.join(names[:NAMED])}{more}."
        )
    raise Unsupported(f"{path} holds no SAE that can be read. {what_is_read()}")


def read_any(path: Path) -> tuple[SaeFormat, SparseAutoencoder, dict[str, Any]]:
    """Detect and read; the metadata says from which format."""
    found = detect(path)
    sae, metadata = found.format.read(found.folder)
    return found.format, sae, metadata


def writer(name: str) -> Writer:
    """The writer of a format by its name; raises `Unsupported`."""
    for known in FORMATS:
        if known.name == name and known.write is not None:
            return known.write
    raise Unsupported(f"SAEs cannot be written as {name!r}.")


def _of_file(path: Path) -> Found:
    for known in FORMATS:
        for mark in known.marks:
            if known.one_file and path.match(mark):
                return Found(known, path)
            parts = Path(mark).parts
            folder = path.parents[len(parts) - 1]
            if path.parts[-len(parts) :] == parts and _is_told(known, folder):
                return Found(known, folder)
    here = _found_in(path.parent)
    if len(here) == 1 and path.suffix in (".json", ".yaml"):
        return here[0]
    raise Unsupported(f"{path} is no file of an SAE that can be read. {what_is_read()}")


def _formats_in(folder: Path) -> list[SaeFormat]:
    told = (known for known in FORMATS if _is_told(known, folder))
    return [known for known in told if any(_marked(known, folder))]


def _is_told(known: SaeFormat, folder: Path) -> bool:
    return known.is_told is None or known.is_told(lambda name: (folder / name).is_file())


def _marked(known: SaeFormat, folder: Path) -> Iterator[Path]:
    """The files of a folder that tell this format, those of layers by their number."""
    if known.one_file:
        files = [file for mark in known.marks for file in folder.glob(mark) if file.is_file()]
        numbered = [
            (int(found[1]), file) for file in files if (found := NUMBERED.fullmatch(file.name))
        ]
        return iter([file for _, file in sorted(numbered)])
    return (folder / mark for mark in known.marks if (folder / mark).is_file())


def _found_in(folder: Path) -> list[Found]:
    """What a folder holds itself: all of it of the first format that fits."""
    here = _formats_in(folder)[:1]
    if here and here[0].one_file:
        return [Found(here[0], file) for file in _marked(here[0], folder)]
    return [Found(known, folder) for known in here]


def _below(path: Path) -> Iterator[Found]:
    for current, folders, _ in os.walk(path):
        folder = Path(current)
        folders.sort()
        if len(folder.relative_to(path).parts) >= DEPTH:
            folders.clear()
        found = _found_in(folder)
        if found:
            folders.clear()
            yield from found


def what_is_read() -> str:
    """The sentence that names the files which tell an SAE."""
    shown = [
        f"{' or '.join(known.marks)} ({known.title})"
        for known in FORMATS
        if known.read is not read_lm_saes  # whose weights have the same name
    ]
    return f"Looked for {', '.join(shown)}."
