"""The command line: every subcommand runs headless; without one the window opens."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import mistudio

if TYPE_CHECKING:
    from mistudio.core.config import Config

log = logging.getLogger(__name__)

CANCELLED = 130
USAGE = 2

Verb = Callable[..., None]


class Usage(Exception):
    """The words of a command make no sense; the message says which."""


class Parser(argparse.ArgumentParser):
    """Raises `Usage` where argparse would print its manual and exit."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}; `{self.prog} --help` shows what there is.")


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar. Verbs are named here and looked up in `mistudio.commands` when run."""
    from mistudio.core import configs, dataset_configs, model_configs
    from mistudio.core.config import add_arguments

    parser = Parser(
        prog="mistudio",
        description="Look inside language models. Without a command, the window opens.",
    )
    parser.add_argument("--version", action="version", version=f"miStudio {mistudio.__version__}")
    parser.add_argument("--selftest", action="store_true", help="check this installation and exit")
    common = Parser(add_help=False)
    for target, default in ((parser, None), (common, argparse.SUPPRESS)):
        target.add_argument("--home", metavar="DIR", default=default, help="data folder")
        target.add_argument(
            "--json",
            action="store_true",
            default=False if default is None else default,
            help="print JSON lines; the last one is the result or the error",
        )
    groups = parser.add_subparsers(metavar="COMMAND", dest="command")

    def command(
        group: Any, name: str, verb: str, about: str, cls: type[Config] | None = None, *names: str
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = group.add_parser(
            name, parents=[common], help=about, description=about
        )
        made.set_defaults(verb=verb)
        if cls is not None:
            add_arguments(made, cls, positional=names)
        return made

    def group(name: str, about: str) -> Any:
        made = groups.add_parser(name, help=about, description=about)
        return made.add_subparsers(metavar="VERB", dest="subcommand", required=True)

    command(groups, "demo", "demo", "go the whole way on the bundled sample", configs.DemoConfig)

    datasets = group("dataset", "datasets and their tokenisations")
    command(
        datasets,
        "import",
        "dataset_import",
        "import a text file",
        dataset_configs.ImportDatasetConfig,
        "path",
    )
    command(
        datasets,
        "tokenize",
        "dataset_tokenize",
        "tokenise a dataset for a model",
        dataset_configs.TokenizeConfig,
        "dataset",
    )
    command(datasets, "list", "list_datasets", "list datasets")

    models = group("model", "language models")
    command(
        models,
        "import",
        "model_import",
        "register a Hugging Face folder or GGUF file",
        model_configs.ImportModelConfig,
        "path",
    )
    command(models, "list", "list_models", "list models")
    command(models, "show", "show_model", "show one model").add_argument("model")

    training = command(groups, "train", "train", "train an SAE", configs.TrainConfig)
    verbs = training.add_subparsers(metavar="[resume]", dest="subcommand")
    command(
        verbs,
        "resume",
        "train_resume",
        "go on with a paused or interrupted training",
        configs.ResumeConfig,
        "training",
    )

    saes = group("sae", "the SAE library")
    command(saes, "list", "list_saes", "list SAEs")
    command(saes, "show", "show_sae", "show one SAE").add_argument("sae", nargs="?", default="last")
    command(saes, "eval", "sae_eval", "measure on held-out text", configs.EvaluateConfig, "sae")
    command(
        saes, "export", "sae_export", "write for other programs", configs.ExportSaeConfig, "sae"
    )
    command(
        saes, "import", "sae_import", "add from a SAELens folder", configs.ImportSaeConfig, "path"
    )

    features = group("features", "what the latents of an SAE fire on")
    command(
        features,
        "extract",
        "features_extract",
        "find the features of an SAE",
        configs.HarvestConfig,
        "sae",
    )
    for name, verb, about in (
        ("list", "list_features", "list features"),
        ("search", "search_features", "search labels, notes and tokens"),
    ):
        made = command(features, name, verb, about)
        made.add_argument("sae", nargs="?" if name == "list" else None, default="last")
        if name == "search":
            made.add_argument("text", help="words; the last one may be unfinished")
        made.add_argument("--limit", type=int, default=50, help="most rows (default 50)")
        made.add_argument(
            "--sort",
            default="frequency",
            choices=("frequency", "max", "mean", "index", "label", "samples"),
        )
    shown = command(features, "show", "show_feature", "show one feature")
    shown.add_argument("sae", help="id or name of an SAE, or last")
    shown.add_argument("index", type=int, help="number of the feature")

    command(groups, "steer", "steer", "generate with and without steering", configs.SteerConfig)

    jobs = groups.add_parser("jobs", parents=[common], help="jobs", description="list and direct")
    jobs.set_defaults(verb="list_jobs")
    job_verbs = jobs.add_subparsers(metavar="VERB", dest="subcommand")
    command(job_verbs, "list", "list_jobs", "list jobs")
    for name, verb, about in (
        ("show", "show_job", "show one job"),
        ("log", "job_log", "print a job's notes"),
        ("pause", "job_pause", "pause a job"),
        ("resume", "job_resume", "let a paused or interrupted job go on"),
        ("cancel", "job_cancel", "cancel a job"),
        ("retry", "retry_job", "run a finished job again"),
    ):
        command(job_verbs, name, verb, about).add_argument("job")

    command(groups, "doctor", "doctor", "check this machine, with advice")

    bench = group("bench", "measurements")
    step = command(bench, "train-step", "bench_train_step", "one training step against one GEMM")
    for flag, value in (("--d-in", 576), ("--width", 18432), ("--k", 32), ("--batch", 2048)):
        step.add_argument(flag, type=int, default=value, help=f"(default {value})")
    step.add_argument("--steps", type=int, default=15, help="measured steps (default 15)")
    step.add_argument("--architecture", choices=configs.ARCHITECTURES, default="topk")
    step.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
    return parser


def _verb(name: str) -> Verb:
    from mistudio import commands
    from mistudio.core import configs, dataset_configs, model_configs

    jobs: dict[str, tuple[str, type[Config]]] = {
        "dataset_import": ("import_dataset", dataset_configs.ImportDatasetConfig),
        "dataset_tokenize": ("tokenize", dataset_configs.TokenizeConfig),
        "model_import": ("import_model", model_configs.ImportModelConfig),
        "sae_eval": ("evaluate", configs.EvaluateConfig),
        "sae_export": ("export_sae", configs.ExportSaeConfig),
        "sae_import": ("import_sae", configs.ImportSaeConfig),
        "features_extract": ("harvest", configs.HarvestConfig),
        "steer": ("steer", configs.SteerConfig),
    }
    if name in jobs:
        return commands.job_verb(*jobs[name])
    if name.startswith("job_") and name != "job_log":
        return commands.ask_job(name.removeprefix("job_"))
    return getattr(commands, name)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0, 1 failure, 2 usage, 130 cancelled)."""
    import multiprocessing

    multiprocessing.freeze_support()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(words)
    except Usage as error:
        _fail(words, "usage", str(error))
        return USAGE
    except KeyboardInterrupt:
        _fail(words, "cancelled", "Cancelled.")
        return CANCELLED


def _dispatch(words: Sequence[str]) -> int:
    arguments = build_parser().parse_args(words)
    if arguments.selftest:
        from mistudio.selftest import run as selftest

        return selftest()
    if arguments.command is not None:
        return run_headless(arguments)
    if arguments.json:
        raise Usage("--json needs a command; `mistudio --help` shows what there is.")
    return open_window(arguments.home)


def open_window(home: str | None) -> int:
    """Open the window; what keeps it from opening is a sentence."""
    from mistudio.core.errors import StudioError, Unsupported
    from mistudio.core.paths import Paths

    shown = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    try:
        if sys.platform == "linux" and not any(os.environ.get(name) for name in shown):
            raise Unsupported(
                "There is no screen to open the window on (DISPLAY is not set). Start it in a "
                "desktop session, or use a command: `mistudio --help` lists them."
            )
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
    from mistudio.core.logs import start_log
    from mistudio.core.paths import Paths
    from mistudio.jobs.runner import Studio, as_studio_error

    console = Console(as_json=arguments.json)
    handlers: list[logging.Handler] = []
    try:
        if arguments.command == "doctor":
            from mistudio.system import doctor

            return doctor.print_report(console, arguments.home)
        paths = Paths.at(arguments.home)
        handlers.append(start_log(paths.logs))
        studio = Studio(paths)
        try:
            studio.recover()
            _verb(arguments.verb)(studio, console, arguments)
        finally:
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
