"""Every kind of job: its lane, its settings, its function."""

from __future__ import annotations

from typing import Any

from mistudio.core import (
    analysis_configs,
    comparison_configs,
    configs,
    dataset_configs,
    model_configs,
    run_configs,
    sweep_configs,
    training_configs,
)
from mistudio.core.config import Config
from mistudio.jobs import (
    ablate,
    activation_files,
    attribute,
    check_model,
    checkpoints,
    compare_saes,
    demo,
    download_dataset,
    download_model,
    download_sae,
    evaluate,
    extract_activations,
    harvest,
    import_activations,
    import_dataset,
    import_model,
    import_sae,
    index_dataset,
    own_text,
    probe_extraction,
    probe_training,
    prompt_lens,
    report_model,
    sae_library,
    sample,
    steer,
    survival,
    tokenize,
    train,
    train_sweep,
)
from mistudio.jobs.context import JobKind
from mistudio.store.connection import Db
from mistudio.store.tables import ACTIVATION_SETS, DATASETS, MODELS, SAES, TOKENIZATIONS, TRAININGS

TABLES = {
    "sae": SAES,
    "activations": ACTIVATION_SETS,
    "dataset": DATASETS,
    "model": MODELS,
    "training": TRAININGS,
}

JOB_KINDS: dict[str, JobKind] = {
    known.kind: known
    for known in (
        JobKind(
            "import_dataset",
            "io",
            "Import dataset",
            dataset_configs.ImportDatasetConfig,
            import_dataset.run,
            import_dataset.prepare,
        ),
        JobKind(
            "index_dataset",
            "io",
            "Index",
            dataset_configs.IndexDatasetConfig,
            index_dataset.run,
            index_dataset.prepare,
        ),
        JobKind(
            "download_dataset",
            "io",
            "Download dataset",
            dataset_configs.DownloadDatasetConfig,
            download_dataset.run,
            download_dataset.prepare,
            resumable=True,
        ),
        JobKind(
            "tokenize",
            "io",
            "Tokenise",
            dataset_configs.TokenizeConfig,
            tokenize.run,
            tokenize.prepare,
        ),
        JobKind("add_sample", "io", "Add the sample", sample.AddSampleConfig, sample.run),
        JobKind(
            "import_model",
            "gpu",
            "Import model",
            model_configs.ImportModelConfig,
            import_model.run,
            import_model.prepare,
        ),
        JobKind(
            "download_model",
            "io",
            "Download model",
            model_configs.DownloadModelConfig,
            download_model.run,
            download_model.prepare,
            resumable=True,
        ),
        JobKind(
            "check_model",
            "gpu",
            "Check model",
            model_configs.CheckModelConfig,
            check_model.run,
            check_model.prepare,
        ),
        JobKind(
            "report_model",
            "gpu",
            "Quantisation report of",
            model_configs.ReportModelConfig,
            report_model.run,
            report_model.prepare,
            subject="model",
        ),
        JobKind(
            "prompt_lens",
            "gpu",
            "Prompt lens on",
            model_configs.PromptLensConfig,
            prompt_lens.run,
            prompt_lens.prepare,
            subject="model",
        ),
        JobKind(
            "extract_activations",
            "gpu",
            "Extract activations of",
            model_configs.ExtractConfig,
            extract_activations.run,
            extract_activations.prepare,
            subject="model",
            resumable=True,
        ),
        JobKind(
            "probe_extraction",
            "gpu",
            "Time an extraction from",
            model_configs.ExtractConfig,
            probe_extraction.run,
            probe_extraction.prepare,
            subject="model",
        ),
        JobKind(
            "import_activations",
            "io",
            "Import activations",
            model_configs.ImportActivationsConfig,
            import_activations.run,
            import_activations.prepare,
        ),
        JobKind(
            "verify_activations",
            "io",
            "Verify activations",
            model_configs.VerifyActivationsConfig,
            activation_files.run_verify,
            activation_files.prepare_verify,
        ),
        JobKind(
            "export_activations",
            "io",
            "Export activations",
            model_configs.ExportActivationsConfig,
            activation_files.run_export,
            activation_files.prepare_export,
        ),
        JobKind(
            "train",
            "gpu",
            "Train",
            training_configs.TrainConfig,
            train.run,
            train.prepare,
            ends_turn_on_pause=True,
            early_finish=True,
        ),
        JobKind(
            "write_sae",
            "gpu",
            "Write SAE of",
            run_configs.WriteSaeConfig,
            checkpoints.run_write_sae,
            checkpoints.prepare_write_sae,
            subject="training",
        ),
        JobKind(
            "sweep",
            "gpu",
            "Train several on",
            sweep_configs.SweepConfig,
            train_sweep.run,
            train_sweep.prepare,
            ends_turn_on_pause=True,
            early_finish=True,
        ),
        JobKind(
            "probe_training",
            "gpu",
            "Time a training on",
            sweep_configs.SweepConfig,
            probe_training.run,
            probe_training.prepare,
            subject="model",
        ),
        JobKind(
            "evaluate", "gpu", "Evaluate", configs.EvaluateConfig, evaluate.run, evaluate.prepare
        ),
        JobKind(
            "compare_saes",
            "gpu",
            "Compare",
            comparison_configs.CompareSaesConfig,
            compare_saes.run,
            compare_saes.prepare,
        ),
        JobKind(
            "survival",
            "gpu",
            "Survival report of",
            comparison_configs.SurvivalConfig,
            survival.run,
            survival.prepare,
        ),
        JobKind("export_sae", "io", "Export SAE", configs.ExportSaeConfig, sae_library.run_export),
        JobKind("import_sae", "io", "Import SAE", configs.ImportSaeConfig, import_sae.run_import),
        JobKind(
            "download_sae",
            "io",
            "Download SAE",
            configs.DownloadSaeConfig,
            download_sae.run,
            download_sae.prepare,
            resumable=True,
        ),
        JobKind(
            "harvest",
            "gpu",
            "Find features",
            configs.HarvestConfig,
            harvest.run,
            harvest.prepare,
            resumable=True,
        ),
        JobKind(
            "ablate",
            "gpu",
            "Ablate features of",
            analysis_configs.AblateConfig,
            ablate.run,
            ablate.prepare,
            resumable=True,
        ),
        JobKind(
            "own_text",
            "gpu",
            "Read own text with",
            analysis_configs.OwnTextConfig,
            own_text.run,
            own_text.prepare,
        ),
        JobKind(
            "attribute",
            "gpu",
            "Attribute a next token with",
            analysis_configs.AttributeConfig,
            attribute.run,
            attribute.prepare,
        ),
        JobKind(
            "steer",
            "gpu",
            "Steer",
            configs.SteerConfig,
            steer.run,
            steer.prepare,
            early_finish=True,
        ),
        JobKind("demo", "gpu", "Run the sample", configs.DemoConfig, demo.run),
    )
}


_SUBJECTS = ("name", "path", "repo", "sae", "activations", "dataset", "model")


def title_of(db: Db, known: JobKind, config: Config) -> str:
    """What a job is called in lists: its noun and the name of the thing it works on."""
    for name in (known.subject, *_SUBJECTS):
        value: Any = getattr(config, name, "") if name else ""
        if value and value != "last":
            row = TABLES[name].find(db, str(value)) if name in TABLES else None
            if row is None and name == "dataset":
                tokens = TOKENIZATIONS.find(db, str(value))
                row = DATASETS.find(db, tokens.dataset_id) if tokens else None
            short = row.name if row else str(value).rstrip("/").rsplit("/", 1)[-1]
            return f"{known.noun} {short}"
    return known.noun.removesuffix(" of")
