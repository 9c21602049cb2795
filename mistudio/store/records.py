"""Rows as Python sees them; one frozen dataclass per table."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

Json = dict[str, Any]
# eq=False, repr=False: `Row` has both once for all, where dataclasses would compile them anew for
# each class at every start


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Row:
    """What every row carries."""

    id: str
    created_at: str = ""
    updated_at: str = ""

    def _values(self) -> tuple[Any, ...]:
        """What its columns hold, in their order."""
        return tuple(getattr(self, known.name) for known in fields(self))

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        told = zip(fields(self), self._values(), strict=True)
        return f"{type(self).__name__}({', '.join(f'{f.name}={value!r}' for f, value in told)})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WorkRow(Row):
    """A row made by a job; progress is 0 to 100, None when idle."""

    status: str = "ready"
    progress: float | None = None
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class JobRow(WorkRow):
    kind: str
    lane: str
    title: str
    config: Json = field(default_factory=dict[str, Any])
    target_id: str | None = None
    error_details: str | None = None
    retryable: bool = False
    phase: str | None = None
    rate: str | None = None
    eta_s: float | None = None
    request: str | None = None
    pid: int | None = None
    heartbeat_at: float | None = None
    checkpoint: str | None = None
    retry_of: str | None = None
    retry_count: int = 0
    result: Json | None = None
    hidden: bool = False
    position: float = 0.0
    started_at: str | None = None
    finished_at: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class DatasetRow(WorkRow):
    name: str
    source: str
    repo_id: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    commit_sha: str | None = None
    text_column: str | None = None
    description: str | None = None
    licence: str | None = None
    is_indexed: bool = False
    num_samples: int | None = None
    statistics: Json | None = None
    path: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TokenizationRow(WorkRow):
    dataset_id: str
    tokenizer_name: str
    settings_hash: str
    context: int
    settings: Json = field(default_factory=dict[str, Any])
    model_id: str | None = None
    rows: int | None = None
    tokens: int | None = None
    statistics: Json | None = None
    path: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ModelRow(WorkRow):
    name: str
    origin: str
    path: str
    repo_id: str | None = None
    revision: str | None = None
    commit_sha: str | None = None
    licence: str | None = None
    architecture: str | None = None
    params_count: int | None = None
    format: str | None = None
    num_layers: int | None = None
    hidden_dim: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    vocab_size: int | None = None
    max_positions: int | None = None
    architecture_config: Json | None = None
    layer_map: Json | None = None
    logit_lens_ready: bool = False
    trust_remote_code: bool = False
    memory_bytes: int | None = None
    report: Json | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ActivationSetRow(WorkRow):
    name: str
    config: Json = field(default_factory=dict[str, Any])
    model_id: str | None = None
    tokenization_id: str | None = None
    model_format: str | None = None
    layers: str | None = None
    hooks: str | None = None
    dtype: str | None = None
    container: str | None = None
    n_tokens: int | None = None
    batch_size: int | None = None
    top_k: int | None = None
    statistics: Json | None = None
    path: str | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TemplateRow(Row):
    kind: str
    name: str
    description: str | None = None
    config: Json = field(default_factory=dict[str, Any])
    is_favorite: bool = False
    is_builtin: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingRow(WorkRow):
    name: str
    encoder_type: str
    architecture: str
    layer: int
    hook: str
    config: Json = field(default_factory=dict[str, Any])
    parent_id: str | None = None
    group_id: str | None = None
    """what trainings share that one job runs over one pass"""
    model_id: str | None = None
    model_format: str | None = None
    activation_set_id: str | None = None
    current_step: int = 0
    total_steps: int | None = None
    tokens_seen: int = 0
    latest_loss: float | None = None
    latest_l0: float | None = None
    latest_dead: int | None = None
    latest_ev: float | None = None
    sae_id: str | None = None
    path: str | None = None
    size_bytes: int | None = None
    started_at: str | None = None
    ended_at: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CheckpointRow(Row):
    training_id: str
    step: int
    path: str
    loss: float | None = None
    l0: float | None = None
    heldout_ev: float | None = None
    heldout_l0: float | None = None
    heldout_dead: float | None = None
    """share of the latents that never fired in `heldout_n` tokens"""
    heldout_n: int | None = None
    heldout_documents: int | None = None
    heldout_ev_low: float | None = None
    heldout_ev_high: float | None = None
    heldout_l0_low: float | None = None
    heldout_l0_high: float | None = None
    is_best: bool = False
    is_pinned: bool = False
    verified: bool = False
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SaeRow(WorkRow):
    name: str
    origin: str
    encoder_type: str
    architecture: str
    d_in: int
    d_out: int
    n_latents: int
    path: str
    training_id: str | None = None
    checkpoint_step: int | None = None
    repo_id: str | None = None
    model_id: str | None = None
    model_name: str | None = None
    model_format: str | None = None
    layer: int | None = None
    hook_in: str | None = None
    hook_out: str | None = None
    dtype: str | None = None
    normalisation: str | None = None
    source_format: str | None = None
    weights_hash: str | None = None
    config: Json | None = None
    evaluation: Json | None = None
    is_favorite: bool = False
    size_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeatureSetRow(WorkRow):
    sae_id: str
    config: Json = field(default_factory=dict[str, Any])
    tokenization_id: str | None = None
    n_tokens: int | None = None
    n_live: int | None = None
    store_hash: str | None = None
    summary: Json | None = None
    path: str | None = None
    size_bytes: int | None = None
    chosen_at: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SteeringRunRow(WorkRow):
    mode: str
    prompt: str
    config: Json = field(default_factory=dict[str, Any])
    model_id: str | None = None
    sae_id: str | None = None
    seed: int | None = None
    outputs: Json | None = None
    metrics: Json | None = None
    duration: float | None = None
    note: str | None = None
    is_favorite: bool = False


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SteeringVectorRow(Row):
    """A raw direction; those that were imported from one file share `group_id`."""

    name: str
    group_id: str
    model_name: str
    layer: int
    hook: str
    method: str
    """mean, pca, pca-centred, feature-mean, import"""
    width: int
    norm: float
    path: str
    model_id: str | None = None
    model_hash: str | None = None
    sae_id: str | None = None
    feature_index: int | None = None
    report: Json | None = None
    notes: str | None = None
    size_bytes: int | None = None
