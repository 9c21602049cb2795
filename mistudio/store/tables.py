"""The tables whose rows are plain records; modules beside this one hold what is particular."""

from __future__ import annotations

from mistudio.store import records
from mistudio.store.table import Table

JOBS = Table("jobs", records.JobRow, "job", "job")
DATASETS = Table("datasets", records.DatasetRow, "dataset", "dataset")
TOKENIZATIONS = Table("tokenizations", records.TokenizationRow, "tokenisation", "tokenization")
MODELS = Table("models", records.ModelRow, "model", "model")
ACTIVATION_SETS = Table(
    "activation_sets", records.ActivationSetRow, "activation set", "activation_set"
)
TEMPLATES = Table("templates", records.TemplateRow, "template", "template")
TRAININGS = Table("trainings", records.TrainingRow, "training", "training")
CHECKPOINTS = Table("checkpoints", records.CheckpointRow, "checkpoint", "checkpoint")
SAES = Table("saes", records.SaeRow, "SAE", "sae")
FEATURE_SETS = Table("feature_sets", records.FeatureSetRow, "feature set", "feature_set")
STEERING_RUNS = Table("steering_runs", records.SteeringRunRow, "steering run", "steering_run")
STEERING_VECTORS = Table("steering_vectors", records.SteeringVectorRow, "vector", "steering_vector")
