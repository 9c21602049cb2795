"""Settings of the jobs that make features searchable by text and by meaning."""

from __future__ import annotations

from dataclasses import dataclass

from mistudio.core.config import Config, option


@dataclass(frozen=True)
class IndexContextsConfig(Config):
    """Index the text that features were read from, so that they are found by where they fire."""

    sae: str = option("", "SAE", "Id or name of an SAE, or last.", required=True)


@dataclass(frozen=True)
class EmbedFeaturesConfig(Config):
    """Embed the labels of features with a local sentence encoder, so that meanings are compared."""

    sae: str = option("", "SAE", "Id or name of an SAE, or last.", required=True)
    encoder: str = option(
        "",
        "Encoder",
        "Folder of a sentence encoder; empty takes that of the data folder or the Hub's cache.",
    )


@dataclass(frozen=True)
class MapFeaturesConfig(Config):
    """Place live features by the two principal components of their decoder directions."""

    sae: str = option("", "SAE", "Id or name of an SAE, or last.", required=True)
    anew: bool = option(False, "Compute again", "Compute it even if it is known.")
