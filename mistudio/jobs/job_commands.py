"""The line of the command line that does what a job of the window does."""

from __future__ import annotations

import dataclasses
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.config import Config, command_line, from_dict

if TYPE_CHECKING:
    from mistudio.core.steering_export_configs import ExportSteeringConfig


class Words(NamedTuple):
    """Words of a command, and the settings that stand without their flag."""

    words: str
    positional: tuple[str, ...] = ()


COMMANDS = {
    "import_dataset": Words("dataset import", ("path",)),
    "download_dataset": Words("dataset import", ("repo",)),
    "index_dataset": Words("dataset index", ("dataset",)),
    "tokenize": Words("dataset tokenize", ("dataset",)),
    "import_model": Words("model import", ("path",)),
    "download_model": Words("model import", ("repo",)),
    "check_model": Words("model format", ("model",)),
    "report_model": Words("model report", ("model", "dataset")),
    "prompt_lens": Words("model lens", ("model", "prompt")),
    "extract_activations": Words("activations extract", ("model", "dataset")),
    "import_activations": Words("activations import", ("path",)),
    "verify_activations": Words("activations verify", ("activations",)),
    "export_activations": Words("activations export", ("activations",)),
    "train": Words("train"),
    "sweep": Words("sweep"),
    "write_sae": Words("checkpoints write-sae", ("training",)),
    "evaluate": Words("sae eval", ("sae",)),
    "compare_saes": Words("sae compare", ("sae", "other")),
    "survival": Words("sae survival", ("sae",)),
    "export_sae": Words("sae export", ("sae",)),
    "import_sae": Words("sae import", ("path",)),
    "download_sae": Words("sae import", ("repo",)),
    "harvest": Words("features extract", ("sae",)),
    "label_features": Words("features label", ("sae",)),
    "export_features": Words("features export", ("sae",)),
    "import_explanations": Words("features import-explanations", ("path", "sae")),
    "import_cache": Words("features import-delphi", ("path", "sae")),
    "feature_lens": Words("features lens", ("sae", "feature")),
    "absorption": Words("features absorption", ("sae", "feature")),
    "ablate": Words("features ablate", ("sae",)),
    "own_text": Words("features test", ("text",)),
    "attribute": Words("features attribute", ("text",)),
    "index_contexts": Words("features index-text", ("sae",)),
    "embed_features": Words("features embed", ("sae",)),
    "map_features": Words("features map", ("sae",)),
    "sae_health": Words("features health", ("sae",)),
    "steer": Words("steer"),
    "steer_preview": Words("steer preview", ("sae",)),
    "steer_dose": Words("steer dose", ("sae",)),
    "steer_claims": Words("steer claim", ("sae",)),
    "steer_controls": Words("steer controls", ("run",)),
    "steer_export": Words("steer export", ("run",)),
    "contrast_vector": Words("vectors contrast"),
    "feature_mean": Words("vectors feature", ("sae", "feature")),
    "import_vectors": Words("vectors import", ("path",)),
    "export_vectors": Words("vectors export"),
    "demo": Words("demo"),
}
WITHOUT = ("add_sample", "probe_extraction", "probe_training")
"""kinds that only the window starts: what they do is part of other commands"""


def command_of(kind: str, config: Config) -> str:
    """The command that does the same, "" for a kind that has none.

    Lists of prompts are written as files that bash and zsh make on the way.
    """
    from mistudio.core.analysis_configs import AbsorptionConfig
    from mistudio.core.steering_export_configs import ExportSteeringConfig
    from mistudio.core.vector_configs import ContrastConfig, ExportVectorsConfig

    known = COMMANDS.get(kind)
    if known is None:
        return ""
    if isinstance(config, ContrastConfig | AbsorptionConfig):
        plain = dataclasses.replace(config, positive=(), negative=())
        sides = (("positive", config.positive), ("negative", config.negative))
        lists = [f"--{name} <(printf '%s\\n' {shlex.join(texts)})" for name, texts in sides]
        line = command_line(known.words, plain, positional=known.positional)
        return " ".join([line, *lists])
    if isinstance(config, ExportVectorsConfig):
        plain = dataclasses.replace(config, vectors=())
        return command_line(f"{known.words} {shlex.join(config.vectors)}".strip(), plain)
    if isinstance(config, ExportSteeringConfig):
        return _export_command(known.words, config)
    return command_line(known.words, config, positional=known.positional)


def _export_command(words: str, config: ExportSteeringConfig) -> str:
    """Of a kept run; settings that no run has been made with have no command."""
    if config.settings:
        return ""
    given = {"format": config.format, "variant": config.variant, "out": config.out}
    flags = [part for name, value in given.items() if value for part in (f"--{name}", value)]
    return shlex.join(["mistudio", *words.split(), config.run, *flags])


def command_of_job(kind: str, stored: dict[str, Any]) -> str:
    """`command_of` a job's stored settings."""
    from mistudio.jobs.registry import JOB_KINDS  # all jobs: the window starts without them

    if kind not in COMMANDS:
        return ""
    return command_of(kind, from_dict(JOB_KINDS[kind].config_class, stored))
