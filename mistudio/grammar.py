"""The grammar of the command line: groups, verbs and their flags. Nothing is run from here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, NoReturn

import mistudio
from mistudio.core import (
    comparison_configs,
    configs,
    dataset_configs,
    model_configs,
    run_configs,
    sweep_configs,
    training_configs,
    training_rules,
)
from mistudio.core.config import add_arguments, names_of
from mistudio.core.retention import RetentionConfig
from mistudio.feature_grammar import feature_verbs
from mistudio.steer_grammar import steer_verbs
from mistudio.steer_study_grammar import steering_bench
from mistudio.vector_grammar import vector_verbs

if TYPE_CHECKING:
    from mistudio.core.config import Config


class Usage(Exception):
    """The words of a command make no sense; the message says which."""


class Parser(argparse.ArgumentParser):
    """Raises `Usage` where argparse would print its manual and exit."""

    def error(self, message: str) -> NoReturn:
        raise Usage(f"{message}; `{self.prog} --help` shows what there is.")


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar. Verbs are named here and looked up in `mistudio.commands` when run."""
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

    _dataset_verbs(command, group("dataset", "datasets and their tokenisations"))
    _model_verbs(command, group("model", "language models"))
    _activation_verbs(command, group("activations", "stored activations of a model"))
    storage = command(groups, "storage", "show_storage", "what takes room on the disk")
    storage.set_defaults(verb="show_storage")
    templates = group("templates", "named settings")
    command(templates, "list", "list_templates", "list templates")
    made = command(templates, "export", "export_templates", "write all templates to a file")
    made.add_argument("--out", help="JSON file to create; empty makes a name with the time")
    made = command(templates, "import", "import_templates", "add the templates of a file")
    made.add_argument("path", help="JSON file written by `templates export`")

    training = command(groups, "train", "train", "train an SAE", training_configs.TrainConfig)
    about = "JSON file of settings, as `config.json` of a run; flags go before it"
    training.add_argument("--config", metavar="FILE", help=about)
    verbs = training.add_subparsers(
        metavar="[resume|continue|stop|list|show|delete]", dest="subcommand"
    )
    command(
        verbs,
        "resume",
        "train_resume",
        "go on with a paused or interrupted training",
        run_configs.ResumeConfig,
        "training",
    )
    about = "go on from a checkpoint of a run, as a new run with full state"
    made = command(verbs, "continue", "train_continue", about)
    made.add_argument("training", help="id or name of a run, or RUN@STEP")
    add_arguments(made, training_configs.TrainConfig, without=("continue_from", "init_from"))
    made = command(verbs, "stop", "train_stop", "end a run and its sweep; the SAEs are kept")
    made.add_argument("training", nargs="?", default="last", help="id or name (default last)")
    command(verbs, "list", "list_trainings", "list runs")
    made = command(verbs, "show", "show_training", "show one run with its settings")
    made.add_argument("training", nargs="?", default="last", help="id or name (default last)")
    made = command(verbs, "delete", "remove_trainings", "delete runs with their checkpoints")
    made.add_argument("training", nargs="+", help="ids or names of runs")
    made.add_argument("--yes", action="store_true", help="do it without asking")
    _checkpoint_verbs(command, group("checkpoints", "checkpoints of a training"))
    exports = group("export", "files for other programs")
    made = command(exports, "metrics", "export_metrics", "write the metric rows of runs as CSV")
    made.add_argument("training", nargs="+", help="ids or names of runs")
    made.add_argument("--out", help="CSV file to write; empty makes a name from the run's")

    about = "train several SAEs from one pass"
    sweeping = command(groups, "sweep", "sweep", about, sweep_configs.SweepConfig)
    about = "JSON file of settings; flags go before it"
    sweeping.add_argument("--config", metavar="FILE", help=about)
    for made in (training, sweeping):
        about = "only say memory, disk and time; with a probe if asked"
        made.add_argument("--plan", action="store_true", help=about)
        about = "measure the times of a --plan"
        made.add_argument("--probe", action="store_true", help=about)

    saes = group("sae", "the SAE library")
    command(saes, "list", "list_saes", "list SAEs")
    command(saes, "show", "show_sae", "show one SAE").add_argument("sae", nargs="?", default="last")
    evaluation, comparison = configs.EvaluateConfig, comparison_configs.CompareSaesConfig
    command(saes, "eval", "evaluate_sae", "measure on held-out text", evaluation, "sae")
    about = "two SAEs of one hook on the same held-out text"
    made = command(saes, "compare", "compare_saes", about, comparison, "sae", "other")
    made.add_argument("--matches", metavar="FILE", help="also write matched features as CSV")
    about = "which features stay the same in another format of the model"
    command(saes, "survival", "survival", about, comparison_configs.SurvivalConfig, "sae")
    command(
        saes, "export", "sae_export", "write for other programs", configs.ExportSaeConfig, "sae"
    )
    local, remote = configs.ImportSaeConfig, configs.DownloadSaeConfig
    made = command(saes, "import", "sae_import", "add from files or the Hub", local, "path")
    add_arguments(made, remote, without=("repo", *names_of(local)))

    _delete(command, saes, "sae", "delete", "delete an SAE with its features and labels")

    feature_verbs(command, group("features", "what the latents of an SAE fire on"), _delete)
    steer_verbs(command, groups)
    vector_verbs(command, group("vectors", "raw directions to steer along"))

    jobs = groups.add_parser("jobs", parents=[common], help="jobs", description="list and direct")
    jobs.set_defaults(verb="list_jobs")
    job_verbs = jobs.add_subparsers(metavar="VERB", dest="subcommand")
    command(job_verbs, "list", "list_jobs", "list jobs")
    for name, verb, about in (
        ("show", "show_job", "show one job"),
        ("log", "job_log", "print a job's notes"),
        ("pause", "job_pause", "pause a job"),
        ("resume", "resume_job", "let a paused or interrupted job go on"),
        ("cancel", "job_cancel", "cancel a job"),
        ("retry", "retry_job", "run a finished job again"),
    ):
        command(job_verbs, name, verb, about).add_argument("job")

    command(groups, "doctor", "doctor", "check this machine, with advice")
    made = command(groups, "selftest", "selftest", "check this installation, library by library")
    about = "only this check; may be given several times"
    made.add_argument("--only", metavar="NAME", action="append", default=[], help=about)
    entry = group("desktop", "the entry in the desktop's menu")
    command(entry, "install", "desktop", "put program, icons and description into the menu")
    command(entry, "remove", "desktop", "take them out again")

    bench = group("bench", "measurements")
    step = command(bench, "train-step", "bench_train_step", "one training step against one GEMM")
    for flag, value in (("--d-in", 576), ("--width", 18432), ("--k", 32), ("--batch", 2048)):
        step.add_argument(flag, type=int, default=value, help=f"(default {value})")
    step.add_argument("--steps", type=int, default=15, help="measured steps (default 15)")
    kinds = ("all", *training_rules.ARCHITECTURES)
    step.add_argument("--architecture", choices=kinds, default="topk", help="(default topk)")
    step.add_argument("--threads", type=int, default=0, help="CPU threads; 0 takes all cores")
    _more_benches(command, bench)
    steering_bench(command, bench)
    return parser


def _checkpoint_verbs(command: Any, verbs: Any) -> None:
    for name, verb, about in (
        ("list", "list_checkpoints", "list checkpoints, newest first"),
        ("save", "save_checkpoint", "ask a run that trains for a checkpoint"),
        ("pin", "pin_checkpoint", "keep a checkpoint whatever the rule says"),
        ("unpin", "unpin_checkpoint", "leave a checkpoint to the rule again"),
        ("delete", "remove_checkpoint", "delete one checkpoint"),
    ):
        made = command(verbs, name, verb, about)
        made.add_argument("training", nargs="?", default="last", help="id or name (default last)")
        if name not in ("list", "save"):
            made.add_argument("--step", type=int, default=-1, help="(default the newest)")
        if name == "delete":
            made.add_argument("--yes", action="store_true", help="do it without asking")
    about = "set how many are kept and delete the others"
    made = command(verbs, "keep", "keep_checkpoints", about, RetentionConfig, "training")
    made.add_argument("--every", type=int, help="steps between checkpoints; 0: only the last")
    made.add_argument("--preview", action="store_true", help="only say what would go")
    about = "put the SAE of a checkpoint into the library"
    config = run_configs.WriteSaeConfig
    command(verbs, "write-sae", "write_sae", about, config, "training")


def _dataset_verbs(command: Any, datasets: Any) -> None:
    local, remote = dataset_configs.ImportDatasetConfig, dataset_configs.DownloadDatasetConfig
    for name, verb, about in (
        ("import", "import_dataset", "import a file or folder, or download from the Hub"),
        ("preview", "preview_dataset", "what a file or Hub dataset holds; stores nothing"),
    ):
        made = command(datasets, name, verb, about, local, "path")
        add_arguments(made, remote, without=("repo", *names_of(local)))
    tokenize = dataset_configs.TokenizeConfig
    command(datasets, "tokenize", "dataset_tokenize", "tokenise a dataset", tokenize, "dataset")
    index = dataset_configs.IndexDatasetConfig
    command(datasets, "index", "dataset_index", "build the word index", index, "dataset")
    made = command(datasets, "search", "search_samples", "samples that hold every word")
    made.add_argument("dataset", help="id or name of a dataset")
    made.add_argument("text", help="words; the last one may be unfinished")
    made.add_argument("--limit", type=int, default=20, help="most samples (default 20)")
    command(datasets, "list", "list_datasets", "list datasets")
    command(datasets, "show", "show_dataset", "show one dataset").add_argument("dataset")
    _hub_search(command, datasets, "search_hub_datasets")
    _delete(command, datasets, "dataset", "delete", "delete a dataset and its tokenisations")
    _delete(command, datasets, "tokenization", "delete-tokenization", "delete one tokenisation")


def _model_verbs(command: Any, models: Any) -> None:
    local, remote = model_configs.ImportModelConfig, model_configs.DownloadModelConfig
    about = "register a Hugging Face folder or GGUF file, or download from the Hub"
    made = command(models, "import", "import_model", about, local, "path")
    add_arguments(made, remote, without=("repo", *names_of(local)))
    check = model_configs.CheckModelConfig
    command(
        models, "format", "change_format", "load in another precision and keep it", check, "model"
    )
    report = model_configs.ReportModelConfig
    about = "compare a quantised form with 16 bit on text"
    command(models, "report", "model_report", about, report, "model", "dataset")
    lens = model_configs.PromptLensConfig
    about = "what each layer would say at each position of a prompt"
    command(models, "lens", "model_lens", about, lens, "model", "prompt")
    command(models, "list", "list_models", "list models")
    command(models, "show", "show_model", "show one model").add_argument("model")
    _hub_search(command, models, "search_hub_models")
    _delete(command, models, "model", "delete", "forget a model; copied files go")


def _activation_verbs(command: Any, activations: Any) -> None:
    about = "store activations at layers and hooks"
    made = command(
        activations, "extract", "extract", about, model_configs.ExtractConfig, "model", "dataset"
    )
    made.add_argument("--plan", action="store_true", help="only say tokens, bytes and room")
    about = "add vectors of a .npy or .safetensors file, of any model"
    importing = model_configs.ImportActivationsConfig
    command(activations, "import", "activations_import", about, importing, "path")
    verify, export = model_configs.VerifyActivationsConfig, model_configs.ExportActivationsConfig
    about = "read every shard again and compare checksums"
    command(activations, "verify", "activations_verify", about, verify, "activations")
    about = "write one layer and hook as .npy"
    command(activations, "export", "activations_export", about, export, "activations")
    command(activations, "list", "list_activations", "list activation sets")
    made = command(activations, "show", "show_activations", "show one with its statistics")
    made.add_argument("activations", nargs="?", default="last")
    _delete(command, activations, "activations", "delete", "delete an activation set")


def _hub_search(command: Any, group: Any, verb: str) -> None:
    made = command(group, "find", verb, "search the Hugging Face Hub")
    made.add_argument("words", help="part of a repository's name")
    made.add_argument("--limit", type=int, default=20, help="most repositories (default 20)")


def _delete(command: Any, group: Any, noun: str, name: str, about: str) -> None:
    made = command(group, name, f"delete_{noun}", about)
    made.add_argument(noun, help="id or name")
    made.add_argument("--yes", action="store_true", help="do it without asking")


def _more_benches(command: Any, bench: Any) -> None:
    made = command(bench, "tokenize", "bench_tokenize", "tokenising against the bare tokenizer")
    made.add_argument("model", nargs="?", default="sample", help="model (default sample)")
    made.add_argument("dataset", nargs="?", default="sample", help="dataset (default sample)")
    made.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    made = command(bench, "extract", "bench_extract", "extraction against a bare forward loop")
    made.add_argument("model", nargs="?", default="sample", help="model (default sample)")
    made.add_argument("dataset", nargs="?", default="sample", help="dataset (default sample)")
    made.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default 3)")
    made.add_argument("--layers", default="1,3", help="such as 0,6,11 or all (default 1,3)")
    made.add_argument("--hooks", action="append", help="repeat for several (default resid_post)")
    made.add_argument("--rows", type=int, default=200, help="(default 200)")
    made = command(bench, "features", "bench_features", "finding and reading features")
    about = "harvest, memory, page, partners, neighbours, table, phrases, labels, exports or "
    about += "ablation (of the newest SAE); repeat"
    made.add_argument("--only", action="append", help=about)
    for flag, value, about in (
        ("--features", 32_768, "features of the made-up set"),
        ("--tokens", 3_145_728, "tokens of the made-up set"),
        ("--pages", 500, "pages opened"),
        ("--rounds", 3, "interleaved rounds"),
        ("--rows", 256, "rows read in a round"),
    ):
        made.add_argument(flag, type=int, default=value, help=f"{about} (default {value:,})")
    made.add_argument("--l0", type=float, default=16.0, help="of the made-up set (default 16)")
    made.add_argument("--model", default="sample", help="read by harvest (default sample)")
    made.add_argument("--dataset", default="sample", help="text read (default sample)")
    made.add_argument("--layers", default="1,3", help="read by harvest (default 1,3)")
    made.add_argument("--widths", default="1152,4608", help="of SAEs (default 1152,4608)")
    made = command(bench, "window", "bench_window", "start, tabs, gaps and repaints of the window")
    made.add_argument("--only", action="append", help="start, remote, training or load; repeat")
    made.add_argument("--rounds", type=int, default=3, help="starts measured (default 3)")
    made.add_argument("--idle", type=float, default=10.0, help="seconds of counting (default 10)")
    made.add_argument("--tokens", type=int, default=300_000, help="of the training beside")
    made = command(bench, "search", "bench_search", "word search over many samples")
    made.add_argument("--samples", type=int, default=1_000_000, help="(default 1,000,000)")
