"""The settings of the jobs around a model: import, download, check, report, lens, extraction."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.configs import SAE_HOOKS
from mistudio.core.dataset_configs import name_problem
from mistudio.core.repositories import repository_problem

MODEL_FORMATS = ("auto", "fp32", "bf16", "fp16", "int8", "nf4", "fp4")
TORCH_FORMATS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
EXTRACTION_HOOKS = (*SAE_HOOKS, "mlp_in")
_FORMAT_HELP = (
    "Precision of the weights in memory: auto takes fp32 on CPU and 16 bit on a GPU; int8, nf4 and "
    "fp4 are quantised by bitsandbytes while loading."
)
_CODE_HELP = (
    "Run the Python code of this repository if the model needs it. That code can do anything you "
    "can do on this machine; allow it only for authors you trust."
)


@dataclass(frozen=True)
class ImportModelConfig(Config):
    """Register a Hugging Face folder or a GGUF file as a model."""

    path: str = option(
        "", "Folder or GGUF file", "A Hugging Face model folder or one GGUF file.", required=True
    )
    name: str = option("", "Name", "How the model is called; empty takes the folder's name.")
    format: str = option("auto", "Format", _FORMAT_HELP, choices=MODEL_FORMATS)
    copy: bool = option(
        False, "Copy", "Copy the files into the data folder instead of using them in place."
    )
    allow_code: bool = option(False, "Allow the folder's own code", _CODE_HELP, advanced=True)

    def check(self) -> Iterable[Violation]:
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class DownloadModelConfig(Config):
    """Get a model from the Hugging Face Hub."""

    repo: str = option(
        "", "Repository", "The model's id on the Hub: owner/name or name.", required=True
    )
    name: str = option("", "Name", "How the model is called; empty takes the repository's name.")
    revision: str = option(
        "main", "Revision", "Branch, tag or commit of the repository.", advanced=True
    )
    file: str = option(
        "",
        "GGUF file",
        "Which GGUF file of the repository; empty takes the safetensors weights, or the only GGUF.",
        advanced=True,
    )
    format: str = option("auto", "Format", _FORMAT_HELP, choices=MODEL_FORMATS)
    allow_code: bool = option(False, "Allow the repository's own code", _CODE_HELP, advanced=True)

    def check(self) -> Iterable[Violation]:
        if problem := repository_problem(self.repo):
            yield Violation("repo", problem)
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class CheckModelConfig(Config):
    """Load a model once, find its layers, run a forward pass, read its sizes."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    format: str = option(
        "", "Format", _FORMAT_HELP + " Empty keeps the model's.", choices=("", *MODEL_FORMATS)
    )
    allow_code: bool = option(
        False, "Allow the model's own code", _CODE_HELP + " Stays allowed.", advanced=True
    )


@dataclass(frozen=True)
class ReportModelConfig(Config):
    """Compare a quantised form of a model with its 16-bit form on a text sample."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    dataset: str = option(
        "", "Dataset", "Dataset or tokenisation to read; its first rows are used.", required=True
    )
    format: str = option(
        "",
        "Format",
        "The form to judge; empty takes the model's own.",
        choices=("", *MODEL_FORMATS),
    )
    tokens: int = option(8192, "Tokens", "Most tokens read.", minimum=64, maximum=10_000_000)


@dataclass(frozen=True)
class PromptLensConfig(Config):
    """What the model would say after each layer, at each position of a prompt."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    prompt: str = option("", "Prompt", "Text to read, at most 256 tokens.", required=True)
    top_k: int = option(5, "Tokens per cell", "Likeliest tokens kept.", minimum=1, maximum=20)


@dataclass(frozen=True)
class ExtractConfig(Config):
    """Store activations of a model at chosen layers and hooks, one row per token."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    dataset: str = option(
        "", "Tokenisation", "Tokenisation, or a dataset for its newest one.", required=True
    )
    layers: str = option(
        "", "Layers", "Blocks to read, such as 0,6,11 or 0-3 or all; the first is 0.", required=True
    )
    hooks: tuple[str, ...] = option(
        ("resid_post",),
        "Hooks",
        "resid_post is the block's output, mlp_out and attn_out what the sublayers add to it, "
        "mlp_in what the MLP reads, attn_z the attention's heads before its output projection, "
        "resid_pre what the block reads, resid_mid the stream between attention and MLP. "
        "Repeat for several.",
        choices=EXTRACTION_HOOKS,
        required=True,
    )
    rows: int = option(1000, "Rows", "First rows to read; 0 reads all.", minimum=0, maximum=10**9)
    tokens: int = option(
        0,
        "Tokens",
        "End after this many tokens; 0 sets no limit.",
        minimum=0,
        maximum=10**12,
        advanced=True,
    )
    batch: int = option(
        32, "Batch", "Rows per forward pass, a power of two.", unit="rows", minimum=1, maximum=512
    )
    dtype: str = option(
        "auto",
        "Store as",
        "Precision on disk; auto takes the model's 16-bit type, fp16 on CPU.",
        choices=("auto", "fp16", "bf16", "fp32"),
    )
    container: str = option(
        "safetensors",
        "Container",
        "safetensors shards, or raw little-endian numbers with a JSON description beside them.",
        choices=("safetensors", "raw"),
        advanced=True,
    )
    top_k: int = option(
        100,
        "Strongest tokens",
        "Tokens with the largest norms that are listed per layer and hook.",
        minimum=10,
        maximum=1000,
        advanced=True,
    )
    name: str = option("", "Name", "How the set is called; empty makes one from the settings.")

    def check(self) -> Iterable[Violation]:
        if self.batch & (self.batch - 1):
            yield Violation("batch", "Batch must be a power of two: 1, 2, 4, … 512.")
        for hook in self.hooks:
            if hook not in EXTRACTION_HOOKS:
                yield Violation("hooks", f"Hooks must be of {', '.join(EXTRACTION_HOOKS)}.")
        if problem := name_problem(self.name):
            yield Violation("name", problem)
        if not layers_are_readable(self.layers):
            yield Violation("layers", "Write layers as 0,6,11 or 0-3 or all.")


@dataclass(frozen=True)
class ImportActivationsConfig(Config):
    """Add vectors of a file, [rows, width], as an activation set to train on."""

    path: str = option("", "File", "A .npy or .safetensors file of vectors.", required=True)
    name: str = option("", "Name", "How the set is called; empty takes the file's name.")
    tensor: str = option("", "Tensor", "Which tensor of a .safetensors file that holds several.")
    model: str = option("", "Model", "Model of the library that the vectors come from, if any.")
    layer: int = option(
        -1, "Layer", "Block that they come from; -1 says nothing.", minimum=-1, maximum=511
    )
    hook: str = option(
        "", "Hook", "Hook that they come from; empty says nothing.", choices=("", *EXTRACTION_HOOKS)
    )

    def check(self) -> Iterable[Violation]:
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class VerifyActivationsConfig(Config):
    """Read every shard of an activation set again and compare it with its checksums."""

    activations: str = option("last", "Activation set", "Id or name, or last.", required=True)


@dataclass(frozen=True)
class ExportActivationsConfig(Config):
    """Write one layer and hook of an activation set as one .npy file."""

    activations: str = option("last", "Activation set", "Id or name, or last.", required=True)
    layer: int = option(-1, "Layer", "Layer to write; -1 takes the only one.", minimum=-1)
    hook: str = option(
        "", "Hook", "Hook to write; empty takes the only one.", choices=("", *EXTRACTION_HOOKS)
    )
    out: str = option("", "File", "The .npy file to create.", required=True)


def format_of(dtype: str) -> str:
    """The format that a torch type's name stands for; any other name comes back as it is."""
    return TORCH_FORMATS.get(dtype, dtype)


def layers_are_readable(text: str) -> bool:
    """Whether `chosen_layers` can read the text."""
    try:
        chosen_layers(text, 512)
    except ValueError:
        return False
    return True


def chosen_layers(text: str, count: int) -> list[int]:
    """Layer numbers that "all", "0,6,11" or "0-3,8" names, rising, without those from `count` on.

    Raises ValueError if the text is none of these.
    """
    if text.strip().lower() == "all":
        return list(range(count))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        low = int(first)
        high = int(last) if dash else low
        if low < 0 or high < low or high > 4096:
            raise ValueError(text)
        found.update(range(low, high + 1))
    return sorted(layer for layer in found if layer < count)
