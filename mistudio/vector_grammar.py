"""The grammar of the command line for raw directions."""

from __future__ import annotations

from typing import Any

from mistudio.core.config import add_arguments
from mistudio.core.vector_configs import (
    ContrastConfig,
    ExportVectorsConfig,
    FeatureMeanConfig,
    ImportVectorsConfig,
)


def vector_verbs(command: Any, vectors: Any) -> None:
    """The grammar of `mistudio vectors`."""
    command(vectors, "list", "list_vectors", "list vectors")
    command(vectors, "show", "show_vector", "show one vector").add_argument("vector")
    made = command(vectors, "contrast", "vectors_contrast", "make one from two lists of prompts")
    add_arguments(made, ContrastConfig, without=("positive", "negative"))
    for name in ("positive", "negative"):
        about = f"text file of {name} prompts, one per line"
        made.add_argument(f"--{name}", metavar="FILE", required=True, help=about)
    about = "make one of a feature: mean where it fires less the rest"
    command(vectors, "feature", "vectors_feature", about, FeatureMeanConfig, "sae", "feature")
    about = "add those of a file of another program"
    command(vectors, "import", "vectors_import", about, ImportVectorsConfig, "path")
    about = "write for llama.cpp (gguf) or as safetensors"
    made = command(vectors, "export", "vectors_export", about)
    made.add_argument("vectors", nargs="*", help="ids or names, with =STRENGTH if that is not 1")
    add_arguments(made, ExportVectorsConfig, without=("vectors",))
    made = command(vectors, "rename", "rename_vector", "give a vector another name")
    made.add_argument("vector", help="id or name")
    made.add_argument("name", help="the new name")
    made = command(vectors, "note", "note_vector", "write down what a vector is for")
    made.add_argument("vector", help="id or name")
    made.add_argument("text", help="empty takes the note away")
    made = command(vectors, "delete", "remove_vectors", "delete vectors")
    made.add_argument("vector", nargs="+", help="ids or names; a name means every layer of it")
    made.add_argument("--yes", action="store_true", help="do it without asking")
