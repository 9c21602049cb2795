"""The settings of writing features for other programs and of reading labels from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option

TABLE_FORMATS = ("csv", "parquet", "json", "jsonl")
FOLDER_FORMATS = ("neuronpedia", "neuronpedia_upload", "saedashboard", "delphi")
FEATURE_FORMATS = (*TABLE_FORMATS, "html", *FOLDER_FORMATS)
FORMAT_TITLES = {
    "csv": "CSV table",
    "parquet": "Parquet table",
    "json": "JSON",
    "jsonl": "JSON lines",
    "html": "HTML report for a browser, offline",
    "neuronpedia": "Neuronpedia, bulk layout",
    "neuronpedia_upload": "Neuronpedia, upload batches",
    "saedashboard": "SAEDashboard JSON",
    "delphi": "delphi cache of activations",
}
FORMAT_ENDINGS = {**{name: f".{name}" for name in TABLE_FORMATS}, "html": ".html"}
WHICH = ("all", "live", "labelled", "favourites")


def _has_examples(config: ExportFeaturesConfig) -> bool:
    return config.format not in ("csv", "parquet", "delphi")


def _is_peer(config: ExportFeaturesConfig) -> bool:
    return config.format in FOLDER_FORMATS


def _has_creator(config: ExportFeaturesConfig) -> bool:
    return _is_peer(config) and config.format != "delphi"


def _has_vectors(config: ExportFeaturesConfig) -> bool:
    return config.format == "neuronpedia"


@dataclass(frozen=True)
class ExportFeaturesConfig(Config):
    """Write features with their statistics, labels and examples."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    format: str = option("csv", "Format", "What to write.", choices=FEATURE_FORMATS)
    which: str = option(
        "live",
        "Features",
        "Those that fired, all, those with a label, or favourites; numbers or a list go before.",
        choices=WHICH,
    )
    features: str = option(
        "", "Numbers", "Only these features, in this order, such as 3,17,40-60; empty takes which."
    )
    list: str = option("", "List", "Only the features of this list (id or name).")
    out: str = option(
        "", "Write to", "File or folder to make; empty makes a name in the data folder's exports."
    )
    examples: int = option(
        10,
        "Top examples",
        "Strongest examples of each feature, one per row of text; 0 for none.",
        minimum=0,
        maximum=100,
        applies=_has_examples,
    )
    context: int = option(
        16,
        "Context",
        "Tokens shown before and after the strongest one.",
        unit="tokens",
        minimum=0,
        maximum=511,
        applies=_has_examples,
    )
    model_id: str = option(
        "", "Model id", "The model's id there; empty takes its name here.", applies=_is_peer
    )
    set_name: str = option(
        "",
        "Set",
        "Name of the set of SAEs there, of delphi the hook; empty makes one of the hook.",
        applies=_is_peer,
    )
    creator: str = option(
        "", "Creator", "Your name or id there; it stands in every row.", applies=_has_creator
    )
    vectors: bool = option(
        False,
        "Vectors",
        "Also the decoder vector of each feature, which makes the files much larger.",
        applies=_has_vectors,
    )

    def check(self) -> Iterable[Violation]:
        if self.features and self.list:
            yield Violation("list", "Name features or a list, not both.")
        if self.format.startswith("neuronpedia") and self.examples < 1:
            yield Violation("examples", "Neuronpedia needs at least one example.")


@dataclass(frozen=True)
class ImportExplanationsConfig(Config):
    """Take labels from Neuronpedia's explanation files, beside those there are."""

    path: str = option(
        "", "From", "A batch-N.jsonl(.gz) file of explanations, or a folder of them.", required=True
    )
    sae: str = option("last", "SAE", "Id or name of the SAE they belong to.", required=True)
    layer: str = option(
        "", "Source", "Only rows of this source, such as 6-res-jb; empty takes a file's only one."
    )


@dataclass(frozen=True)
class ImportCacheConfig(Config):
    """Take activations over that delphi found, as a feature set with its text."""

    path: str = option(
        "",
        "From",
        "Folder of a delphi cache: files such as 0_1023.safetensors, with their tokens.",
        required=True,
    )
    sae: str = option("last", "SAE", "Id or name of the SAE they are of.", required=True)
    name: str = option("", "Dataset", "What the text shall be called; empty takes the folder's.")
    labels: bool = option(
        True,
        "Labels by rules",
        "Name every feature afterwards by rules that are fitted on half of the rows and scored on "
        "the other.",
    )
    seed: int = option(0, "Seed", "Halves of the rows of the labels.", minimum=0)
