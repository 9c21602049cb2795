"""The settings of labelling features: by rules, or by a language model on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from mistudio.core.config import Config, Violation, option

METHODS = ("rules", "model")
_LOCAL = ("localhost",)


def loopback_problem(address: str) -> str:
    """Why an address is not one of a server on this machine; "" if it is."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return f"{address!r} is no address; write one such as http://127.0.0.1:8080/v1."
    if parts.scheme not in ("http", "https") or not host:
        return f"{address!r} is no address; write one such as http://127.0.0.1:8080/v1."
    try:
        local = ip_address(host).is_loopback
    except ValueError:
        local = host.lower() in _LOCAL
    if local and parts.username is None:
        return ""
    return (
        f"{host!r} is not this machine. Labels are only asked of a server on it, such as "
        "http://127.0.0.1:8080/v1, so that no text leaves it."
    )


def _by_model(config: LabelConfig) -> bool:
    return config.method == "model"


def _by_rules(config: LabelConfig) -> bool:
    return config.method == "rules"


@dataclass(frozen=True)
class LabelConfig(Config):
    """Name features: by rules fitted to the text, or by a language model on this machine."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    method: str = option(
        "rules",
        "Method",
        "rules: from tokens, words and logits, all live features at once; model: a language model "
        "reads 40 examples of each feature.",
        choices=METHODS,
    )
    feature: tuple[str, ...] = option(
        (),
        "Feature",
        "Number of a feature; repeat for several. Without, all live features.",
        applies=_by_model,
    )
    model: str = option(
        "",
        "Model",
        "Chat model of the library that writes the labels; empty takes the SAE's own model.",
        applies=_by_model,
    )
    endpoint: str = option(
        "",
        "Endpoint",
        "Address of an OpenAI-compatible server on this machine, instead of a model of the "
        "library, such as http://127.0.0.1:8080/v1.",
        applies=_by_model,
    )
    endpoint_model: str = option(
        "", "Its model", "Name of the model that the server shall use.", applies=_by_model
    )
    clusters: bool = option(
        True,
        "Cluster labels",
        "Also words that at least three of a feature's neighbours share: of those that point the "
        "same way and those that fire with it. Takes up to as long again.",
        applies=_by_rules,
    )
    detection: bool = option(
        True,
        "Detection score",
        "Ask the model which of 50 active and 50 inactive texts the label fits.",
        applies=_by_model,
    )
    fuzzing: bool = option(
        False,
        "Fuzzing score",
        "Ask the same of texts in which tokens are marked, rightly or at random.",
        applies=_by_model,
    )
    embedding: bool = option(
        True,
        "Embedding score",
        "Compare label and texts with the sentence encoder, where there is one.",
        applies=_by_model,
    )
    encoder: str = option(
        "",
        "Encoder",
        "Folder of a sentence encoder; empty looks into `encoders` of the data folder and the "
        "Hugging Face cache.",
        applies=_by_model,
        advanced=True,
    )
    anew: bool = option(
        False,
        "Label anew",
        "Also features that this model has labelled before.",
        applies=_by_model,
    )
    seed: int = option(0, "Seed", "Halves of the rows and choice of texts.", minimum=0)

    def check(self) -> Iterable[Violation]:
        for number in self.feature:
            if not number.isdigit():
                yield Violation("feature", f"{number!r} is no number of a feature.")
        if self.method != "model":
            return
        if self.endpoint and (problem := loopback_problem(self.endpoint)):
            yield Violation("endpoint", problem)
        if self.endpoint and self.model:
            yield Violation("endpoint", "Name a model of the library or an endpoint, not both.")
        if self.endpoint and not self.endpoint_model:
            yield Violation("endpoint_model", "Name the model that the server shall use.")
