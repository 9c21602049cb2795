"""The settings of making, importing and exporting raw directions ("vectors")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.configs import HOOKS, SAE_HOOKS
from mistudio.core.dataset_configs import name_problem
from mistudio.core.steering_spec import parse_edits

METHODS = ("mean", "pca", "pca-centred")
READINGS = ("last", "mean")
VECTOR_FORMATS = ("gguf", "safetensors")
MOST_PROMPTS = 2000


@dataclass(frozen=True)
class ContrastConfig(Config):
    """A direction from what a model holds after two lists of prompts."""

    model: str = option("", "Model", "Id or name of a model.", required=True)
    layer: int = option(0, "Layer", "Block that is read, from 0.", minimum=0, maximum=511)
    positive: tuple[str, ...] = option(
        (), "Positive prompts", "Prompts that show the wanted thing.", required=True
    )
    negative: tuple[str, ...] = option(
        (), "Negative prompts", "Prompts that show the opposite.", required=True
    )
    method: str = option(
        "mean",
        "Method",
        "mean: difference of means. pca: first component of the differences of pairs. "
        "pca-centred: of pairs around their middle. Pairs are lines of the same number.",
        choices=METHODS,
    )
    read: str = option(
        "last",
        "Read",
        "The last token of each prompt, or the mean over its tokens; special tokens never count.",
        choices=READINGS,
    )
    hook: str = option("resid_post", "Hook", "What is read of the block.", choices=HOOKS)
    name: str = option("", "Name", "How the vector is called; empty makes one.")

    def check(self) -> Iterable[Violation]:
        for name, prompts in (("positive", self.positive), ("negative", self.negative)):
            if len(prompts) > MOST_PROMPTS:
                yield Violation(name, f"At most {MOST_PROMPTS:,} prompts are read of each list.")
        both = set(self.positive) & set(self.negative)
        if both:
            yield Violation("negative", f"{min(both)!r} is in both lists.")
        if self.method != "mean" and len(self.positive) != len(self.negative):
            yield Violation(
                "method",
                f"PCA compares pairs, but there are {len(self.positive):,} positive and "
                f"{len(self.negative):,} negative prompts.",
            )
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class FeatureMeanConfig(Config):
    """A feature's difference of means: where it fires, less the rest of its text."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    feature: int = option(0, "Feature", "Number of the feature.", minimum=0)
    tokens: int = option(
        131_072, "Tokens", "Most tokens of the text that are read.", minimum=256, maximum=10**8
    )
    seed: int = option(0, "Seed", "Which rows are drawn.", minimum=0, maximum=2**31 - 1)
    name: str = option("", "Name", "How the vector is called; empty makes one.")

    def check(self) -> Iterable[Violation]:
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class ImportVectorsConfig(Config):
    """Add the vectors of a file: safetensors, .npy, GGUF control vector, Neuronpedia JSON."""

    path: str = option("", "File", "The file with one vector or several.", required=True)
    model: str = option("", "Model", "Id or name of the model they steer.", required=True)
    layer: int = option(
        -1,
        "Layer",
        "Block whose output the file's only vector is added to; -1 takes what the file says.",
        minimum=-1,
        maximum=511,
    )
    hook: str = option(
        "", "Hook", "Where it is added; empty takes what the file says.", choices=("", *SAE_HOOKS)
    )
    name: str = option("", "Name", "How they are called; empty takes the file's name.")

    def check(self) -> Iterable[Violation]:
        if problem := name_problem(self.name):
            yield Violation("name", problem)


@dataclass(frozen=True)
class ExportVectorsConfig(Config):
    """Write vectors or a blend of SAE features for other programs; a layer's are summed."""

    vectors: tuple[str, ...] = option(
        (), "Vectors", "Id or name, with =STRENGTH behind it if that is not 1. Repeat for several."
    )
    sae: str = option("", "SAE", "Id or name of the SAE whose features are blended.")
    feature: tuple[str, ...] = option(
        (), "Feature", "N=STRENGTH, what is added to the activation. Repeat for several."
    )
    format: str = option(
        "gguf", "Format", "gguf: control vector for llama.cpp.", choices=VECTOR_FORMATS
    )
    out: str = option("", "File", "File to write; empty makes a name in the data folder's exports.")

    def check(self) -> Iterable[Violation]:
        if not self.vectors and not self.feature:
            yield Violation("vectors", "Name at least one vector or feature.")
        if self.feature and not self.sae:
            yield Violation("sae", "Name the SAE of the features.")
        yield from (Violation("feature", s) for s in parse_edits(self.feature).problems)
