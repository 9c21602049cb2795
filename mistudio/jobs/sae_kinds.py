"""The kinds of job that train, measure and exchange SAEs."""

from __future__ import annotations

from mistudio.core import (
    comparison_configs,
    configs,
    health_configs,
    run_configs,
    sweep_configs,
    training_configs,
)
from mistudio.jobs import (
    checkpoints,
    compare_saes,
    download_sae,
    evaluate,
    import_sae,
    probe_training,
    sae_health,
    sae_library,
    survival,
    train,
    train_sweep,
)
from mistudio.jobs.context import JobKind

SAE_KINDS = (
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
    JobKind("evaluate", "gpu", "Evaluate", configs.EvaluateConfig, evaluate.run, evaluate.prepare),
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
    JobKind(
        "sae_health",
        "gpu",
        "Health report of",
        health_configs.HealthConfig,
        sae_health.run,
        sae_health.prepare,
        subject="sae",
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
)
