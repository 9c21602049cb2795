"""The command line: every subcommand runs headless; without one the window opens."""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mistudio.system.slow_sorts import avoid_slow_sorts

if TYPE_CHECKING:
    from mistudio.core.config import Config

log = logging.getLogger(__name__)

CANCELLED = 130
USAGE = 2

Verb = Callable[..., None]


def _verb(name: str) -> Verb:
    from mistudio import (
        analysis_commands,
        commands,
        evaluation_commands,
        feature_commands,
        job_commands,
        library_commands,
        partner_commands,
        steer_commands,
        steer_study_commands,
        training_commands,
        vector_commands,
    )
    from mistudio.core import (
        configs,
        dataset_configs,
        feature_export_configs,
        feature_search_configs,
        label_configs,
        model_configs,
    )

    jobs: dict[str, tuple[str, type[Config]]] = {
        "dataset_tokenize": ("tokenize", dataset_configs.TokenizeConfig),
        "dataset_index": ("index_dataset", dataset_configs.IndexDatasetConfig),
        "model_report": ("report_model", model_configs.ReportModelConfig),
        "model_lens": ("prompt_lens", model_configs.PromptLensConfig),
        "activations_import": ("import_activations", model_configs.ImportActivationsConfig),
        "activations_verify": ("verify_activations", model_configs.VerifyActivationsConfig),
        "activations_export": ("export_activations", model_configs.ExportActivationsConfig),
        "sae_export": ("export_sae", configs.ExportSaeConfig),
        "features_extract": ("harvest", configs.HarvestConfig),
        "features_export": ("export_features", feature_export_configs.ExportFeaturesConfig),
        "import_explanations": (
            "import_explanations",
            feature_export_configs.ImportExplanationsConfig,
        ),
        "import_cache": ("import_cache", feature_export_configs.ImportCacheConfig),
        "features_label": ("label_features", label_configs.LabelConfig),
        "features_index_text": ("index_contexts", feature_search_configs.IndexContextsConfig),
        "features_embed": ("embed_features", feature_search_configs.EmbedFeaturesConfig),
    }
    if name in jobs:
        return commands.job_verb(*jobs[name])
    if name.startswith("job_") and name != "job_log":
        return job_commands.ask_job(name.removeprefix("job_"))
    for made in ("delete", "search_hub"):
        if name.startswith(f"{made}_"):
            kind = name.removeprefix(f"{made}_").removesuffix("s" if made == "search_hub" else "")
            return getattr(library_commands, made)(kind)
    for module in (
        analysis_commands,
        library_commands,
        evaluation_commands,
        feature_commands,
        job_commands,
        partner_commands,
        steer_commands,
        steer_study_commands,
        training_commands,
        vector_commands,
    ):
        if hasattr(module, name):
            return getattr(module, name)
    return getattr(commands, name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0, 1 failure, 2 usage, 130 cancelled)."""
    if getattr(sys, "frozen", False):
        import multiprocessing  # elsewhere there is nothing to do, and it takes a while to load

        multiprocessing.freeze_support()
    avoid_slow_sorts()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        # a bare start opens the window at once: the grammar would take a quarter of its time
        if not words or (len(words) == 2 and words[0] == "--home"):
            return open_window(words[1] if words else None)
        return _checked(_with_config(words))
    except KeyboardInterrupt:
        _fail(words, "cancelled", "Cancelled.")
        return CANCELLED


def _checked(words: Sequence[str]) -> int:
    from mistudio.grammar import Usage

    try:
        return _dispatch(words)
    except Usage as error:
        _fail(words, "usage", str(error))
        return USAGE


def _with_config(words: list[str]) -> list[str]:
    """`train FILE.json` is short for `train --config FILE.json`."""
    for at, (word, following) in enumerate(itertools.pairwise(words)):
        if word == "train" and following.lower().endswith(".json"):
            return [*words[: at + 1], "--config", *words[at + 1 :]]
    return words


def _dispatch(words: Sequence[str]) -> int:
    from mistudio.grammar import Usage, build_parser

    arguments = build_parser().parse_args(words)
    if arguments.selftest or arguments.command == "selftest":
        return _selftest(arguments)
    if arguments.command is not None:
        return run_headless(arguments)
    if arguments.json:
        raise Usage("--json needs a command; `mistudio --help` shows what there is.")
    return open_window(arguments.home)


def _selftest(arguments: argparse.Namespace) -> int:
    from mistudio.console import Console
    from mistudio.core.errors import StudioError
    from mistudio.grammar import Usage
    from mistudio.selftest import run

    try:
        return run(Console(as_json=arguments.json), getattr(arguments, "only", ()))
    except StudioError as error:
        raise Usage(error.sentence) from error


def open_window(home: str | None) -> int:
    """Open the window; what keeps it from opening is a sentence."""
    import gc

    gc.disable()  # nothing made while starting is garbage; then the window collects it itself
    return _open_window(home)


def _open_window(home: str | None) -> int:
    from mistudio.core.errors import StudioError, Unsupported
    from mistudio.core.paths import Paths
    from mistudio.system import display

    try:
        sentence = display.obstacle()
        if sentence:
            raise Unsupported(sentence)
        paths = Paths.at(home)
        from mistudio.gui.app import run
    except StudioError as error:
        _fail((), error.code, error.sentence)
        return 1
    return run(paths)


def _fail(words: Sequence[str], code: str, sentence: str) -> None:
    from mistudio.console import Console

    Console(as_json="--json" in words).error(code, sentence)


def run_headless(arguments: argparse.Namespace) -> int:
    """Run a parsed subcommand; every failure becomes one sentence."""
    from mistudio.console import Console
    from mistudio.core.errors import Cancelled
    from mistudio.core.launch import launch_of
    from mistudio.core.logs import start_log
    from mistudio.core.paths import Paths
    from mistudio.core.settings import SettingsFile
    from mistudio.jobs import hub_choice
    from mistudio.jobs.crew import Crew, check_shared, follow
    from mistudio.jobs.runner import Studio, as_studio_error

    console = Console(as_json=arguments.json)
    handlers: list[logging.Handler] = []
    try:
        if arguments.command == "doctor":
            from mistudio.system import doctor

            return doctor.print_report(console, arguments.home)
        if arguments.command == "desktop":
            from mistudio import desktop_commands

            return desktop_commands.run(console, arguments)
        launch = launch_of()
        if launch.is_shared:
            check_shared(arguments)
        if launch.rank:
            return follow(launch, console)
        paths = Paths.at(arguments.home)
        handlers.append(start_log(paths.logs))
        hub_choice.configure(SettingsFile(paths.settings).values)
        studio = Studio(paths)
        try:
            if launch.is_shared:
                studio.crew = Crew(launch)
            studio.recover()
            _verb(arguments.verb)(studio, console, arguments)
        finally:
            if studio.crew is not None:
                studio.crew.close()
            studio.close()
    except (Cancelled, KeyboardInterrupt):
        console.error("cancelled", "Cancelled.")
        return CANCELLED
    except BrokenPipeError:
        return 1
    except Exception as error:
        failure = as_studio_error(error)
        if failure.code == "bug":
            log.exception("the command broke")
        console.error(failure.code, failure.sentence, failure.details)
        return USAGE if failure.code == "invalid_config" else 1
    finally:
        for handler in handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
