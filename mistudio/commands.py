"""One function per command-line verb: it reads arguments, runs jobs, prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from mistudio.console import Console
from mistudio.core import configs, label_methods, sweep_configs, training_configs
from mistudio.core.config import Config, ConfigT, from_arguments, from_named, given_in, validate
from mistudio.core.control import JobControl, Request
from mistudio.core.errors import Cancelled, InvalidInput
from mistudio.core.launch import launch_of
from mistudio.feature_commands import in_view, narrowed
from mistudio.jobs import feature_pages, lookup, probe_training, sample, training_plan
from mistudio.jobs.runner import Studio
from mistudio.store import features, labels, trainings
from mistudio.store.tables import DATASETS, MODELS, SAES, TOKENIZATIONS

Arguments = argparse.Namespace


def with_signals(
    work: Callable[[JobControl], dict[str, Any]], *, hold: bool, leave: bool = False
) -> dict[str, Any]:
    """Run `work` while Ctrl-C and SIGTERM become a request: hold (a training), leave (a training
    within is left paused), else cancel."""
    control, shared = JobControl(), launch_of().is_shared

    def ask(number: int, frame: FrameType | None) -> None:
        # a launcher repeats Ctrl-C to each of several processes
        if hold and (shared or control.requested() is not Request.PAUSE):
            control.pause()
        elif leave:
            control.leave()
        else:
            control.cancel()

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        return work(control)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_job(
    studio: Studio, console: Console, kind: str, config: Config, *, hold: bool = False
) -> dict[str, Any]:
    """Submit a job and run it here; raises why there is no result."""
    return with_signals(lambda control: studio.run_now(kind, config, console, control), hold=hold)


def finish_here(
    studio: Studio, console: Console, job_id: str, control: JobControl
) -> dict[str, Any]:
    """Run a queued job and the one that it queues in turn; raises why there is no result."""
    got = studio.finish_now(job_id, console, control)
    following = got.get("next")
    return {**got, **(studio.finish_now(following, console, control) if following else {})}


def job_verb(kind: str, cls: type[Config]) -> Callable[[Studio, Console, Arguments], None]:
    """A verb that is one job and prints its result."""

    def verb(studio: Studio, console: Console, arguments: Arguments) -> None:
        console.result(run_job(studio, console, kind, from_arguments(cls, arguments)))

    return verb


def train(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Train an SAE; Ctrl-C leaves a checkpoint from which `train resume` goes on."""
    config = configured(training_configs.TrainConfig, arguments)
    if arguments.plan or arguments.probe:
        _print_plan(studio, console, config, measured=arguments.probe)
        return
    finish_training(console, run_job(studio, console, "train", config, hold=True))


def sweep(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Train several SAEs from one pass; Ctrl-C leaves checkpoints, as with `train`."""
    config = configured(sweep_configs.SweepConfig, arguments)
    if arguments.plan or arguments.probe:
        _print_plan(studio, console, config, measured=arguments.probe)
        return
    finish_training(console, run_job(studio, console, "sweep", config, hold=True))


def configured(cls: type[ConfigT], arguments: Arguments) -> ConfigT:
    """The config of a JSON file, if one is named, with the flags that are given on top."""
    if not arguments.config:
        return from_arguments(cls, arguments)
    path = Path(arguments.config).expanduser()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidInput(f"{path} is no JSON file.", details=str(error)) from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} must hold one JSON object with the settings.")
    return from_named(cls, {**values, **given_in(cls, arguments)})


def _print_plan(
    studio: Studio, console: Console, config: training_configs.TrainConfig, *, measured: bool
) -> None:
    """What a training would take; a plan that is refused is printed too."""
    validate(config)
    rates = None
    if measured:
        result = run_job(studio, console, "probe_training", config)
        rates = probe_training.rates_of(result)
    found = training_plan.plan_training(studio, training_plan.members_of(studio, config), rates)
    console.result(dataclasses.asdict(found), training_plan.lines(found))


def train_resume(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Go on with a paused or interrupted training."""
    wanted = arguments.training
    if wanted == "last":
        unfinished = trainings.unfinished(studio.db())
        wanted = unfinished[0].id if unfinished else wanted
    job = studio.resume_training(wanted)
    result = with_signals(lambda control: studio.finish_now(job, console, control), hold=True)
    finish_training(console, result)


def finish_training(console: Console, result: Mapping[str, Any]) -> None:
    if result.get("status") == "paused":
        console.note("Paused at a checkpoint; `mistudio train resume last` goes on.")
        raise Cancelled
    console.result(result)


def _remove_sample(studio: Studio, console: Console, arguments: Arguments) -> None:
    from mistudio.jobs import remove_sample

    found = remove_sample.parts(studio)
    if not found.is_empty and not arguments.yes:
        raise InvalidInput(f"This would delete {found.words} for good. Say --yes to do it.")
    removed = remove_sample.remove(studio)
    told = f"Deleted: {found.words}." if not found.is_empty else "There is no sample here."
    console.result({"deleted": found._asdict(), "kept": removed.kept}, [told, *removed.kept])


def demo(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Go the whole way on the bundled sample, or take it away."""
    if arguments.remove:
        _remove_sample(studio, console, arguments)
        return
    config = from_arguments(configs.DemoConfig, arguments)
    result = with_signals(
        lambda control: studio.run_now("demo", config, console, control), hold=False, leave=True
    )
    steering = result["steering"]
    console.result(
        result,
        [
            f"Trained on {result['tokens']:,} tokens in {result['seconds']:.0f} s.",
            f"Explained variance {result['explained_variance']:.3f} at L0 {result['l0']:.1f}, "
            f"dead {100 * result['dead_fraction']:.1f} %, "
            f"CE loss score {result['ce_loss_score']:.3f}.",
            f"{result['live_features']:,} of {result['features']:,} features are live.",
            f"Feature {steering['feature']} at {steering['strength']:g} × its maximum: KL "
            f"{steering['kl']:.3f}, perplexity {steering['perplexity_delta']:+.2f}; strength 0 is "
            f"{'' if steering['identity_at_zero'] else 'NOT '}the baseline.",
            *(f"  feature {f['index']}: {f['tokens']}" for f in result["examples"]),
            f"Preset {result['preset']!r} steers with it.",
            f"Baseline: {steering['baseline']!r}",
            f"Steered:  {steering['steered']!r}",
        ],
    )


def list_datasets(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Datasets with their tokenisations."""
    sample.ensure(studio)
    rows: list[dict[str, Any]] = []
    for row in DATASETS.select(studio.db()):
        made = TOKENIZATIONS.select(studio.db(), "dataset_id = ? AND status = 'ready'", [row.id])
        rows.append(
            {
                "id": row.id,
                "name": row.name,
                "source": row.source,
                "status": row.status,
                "samples": row.num_samples,
                "bytes": row.size_bytes,
                "tokenizations": [
                    {"id": t.id, "context": t.context, "rows": t.rows, "tokens": t.tokens}
                    for t in made
                ],
            }
        )
    console.table("datasets", rows, ("id", "name", "source", "status", "samples", "bytes"))


def list_models(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Models of the library."""
    sample.ensure(studio)
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "architecture": row.architecture,
            "layers": row.num_layers,
            "hidden": row.hidden_dim,
            "parameters": row.params_count,
            "status": row.status,
        }
        for row in MODELS.select(studio.db())
    ]
    console.table("models", rows, ("id", "name", "architecture", "layers", "hidden", "parameters"))


def show_model(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one model."""
    row = dataclasses.asdict(lookup.model(studio, arguments.model))
    tree = (row.pop("layer_map") or {}).get("tree", [])
    lines = [f"{key}: {value}" for key, value in row.items() if key != "architecture_config"]
    lines += [f"  {part['name']}  {part['kind']}  {part['shape']}" for part in tree]
    console.result({**row, "tree": tree}, lines)


def list_saes(studio: Studio, console: Console, arguments: Arguments) -> None:
    """SAEs of the library with their held-out figures."""
    rows = [
        {
            "id": row.id,
            "name": row.name,
            "encoder": row.encoder_type,
            "architecture": row.architecture,
            "model": row.model_name,
            "layer": row.layer,
            "hook": row.hook_in,
            "hook_out": row.hook_out,
            "latents": row.n_latents,
            "explained_variance": (row.evaluation or {}).get("ev"),
            "l0": (row.evaluation or {}).get("l0"),
        }
        for row in SAES.select(studio.db())
    ]
    columns = ("id", "name", "architecture", "model", "layer", "hook", "latents")
    console.table("saes", rows, (*columns, "explained_variance", "l0"))


def show_sae(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Everything known of one SAE."""
    console.result(dataclasses.asdict(lookup.sae(studio, arguments.sae)))


def list_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Features of an SAE, most frequent first."""
    _print_features(studio, console, arguments, text="")


def search_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Features whose label, note, top tokens or promoted tokens match."""
    if not arguments.text.strip():
        raise InvalidInput("Write the words to search for.")
    _print_features(studio, console, arguments, text=arguments.text)


def _print_features(studio: Studio, console: Console, arguments: Arguments, *, text: str) -> None:
    if arguments.limit < 1:
        raise InvalidInput("--limit must be at least 1.", code="invalid_config")
    sae = lookup.sae(studio, arguments.sae)
    wanted, sort, descending = (
        narrowed(studio, arguments),
        arguments.sort,
        not arguments.ascending,
    )
    if arguments.view:
        wanted, sort, descending = in_view(studio, console, arguments, wanted)
    rows = feature_pages.find(
        studio,
        sae,
        wanted._replace(text=text),
        sort=sort,
        descending=descending,
        limit=arguments.limit,
    )
    shown = [dataclasses.asdict(row) for row in rows]
    columns = ("index", "label", "label_source", "label_score", "frequency", "max", "top_tokens")
    console.table("features", shown, columns)


def show_feature(studio: Studio, console: Console, arguments: Arguments) -> None:
    """One feature: statistics, logit lens, top examples, intervals."""
    sae = lookup.sae(studio, arguments.sae)
    page = feature_pages.page(studio, sae, arguments.index)
    kept = labels.labels_of(studio.db(), sae.id, arguments.index)
    told = [dataclasses.asdict(label) for label in kept]
    lines = [*feature_pages.lines(page), *label_methods.lines(told)]
    console.result({**page.as_dict(), "labels": told}, lines)


def list_feature_sets(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Finished feature sets of an SAE; the first is the one in use."""
    sae = lookup.sae(studio, arguments.sae)
    rows = [
        {
            "id": found.id,
            "tokens": found.n_tokens,
            "live": found.n_live,
            "context": (found.summary or {}).get("row_length"),
            "activations": found.config.get("activations") or "",
            "truncated": bool((found.summary or {}).get("truncated")),
            "free_shapes": bool((found.summary or {}).get("fast")),
            "created": found.created_at,
        }
        for found in features.feature_sets(studio.db(), sae.id)
    ]
    console.table("feature_sets", rows, tuple(rows[0]) if rows else ("id",))


def use_feature_set(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Use a feature set of its SAE from now on."""
    features.choose_set(studio.db(), arguments.feature_set)
    console.result({"feature_set": arguments.feature_set})


def bench_train_step(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Time training steps against one encoder GEMM of the same size, interleaved."""
    from mistudio.jobs.bench import bench_step

    for name in ("d_in", "width", "k", "batch", "steps"):
        if getattr(arguments, name) < 1:
            raise InvalidInput(
                f"--{name.replace('_', '-')} must be at least 1.", code="invalid_config"
            )
    if arguments.k > arguments.width:
        raise InvalidInput(
            f"k is {arguments.k:,} but the SAE has {arguments.width:,} latents.",
            code="invalid_config",
        )
    columns = ("architecture", "penalty", "density", "step_ms", "gemm_ms", "step_over_gemm")
    columns += ("step_over_gemm_best", "tokens_per_second", "peak_memory")
    console.table("steps", bench_step(arguments), columns)


def bench_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Time finding features and reading them; each measurement is told as it ends."""
    from mistudio.jobs.bench_features import bench_features as measured

    rows: list[dict[str, Any]] = []
    for part in measured(studio, arguments):
        rows += part
        for row in part:
            console.note("  ".join(f"{name} {value}" for name, value in row.items()))
    console.result({"measurements": rows}, [f"{len(rows)} measurements."])
