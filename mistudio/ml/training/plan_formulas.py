"""Bytes and operations of a training by formula. Plain arithmetic: nothing here loads torch.

Copies were counted in the code and their sum compared with the measured peak of whole processes
(tests/heavy/test_training_plan.py). d is the hook's width, m the latents, N the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mistudio.core.retention import DEFAULT_CAP, KEEP_ALL, KEEP_EVERY
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import (
    DENSE_FAMILY,
    TOPK_FAMILY,
    begins_in_subspace,
    default_aux_k,
    is_whitened,
)

FLOAT, DOUBLE = 4, 8
CHUNK_ENTRIES = 9 << 20  # pre-activations formed at a time, as in ml/sae/trainable.py
GPU_CHUNK_ENTRIES, GPU_CHUNK_SHARE = 1 << 28, 1 / 32
MIN_CHUNK_ROWS = 64
SLICE_BYTES = 8 << 20  # of a weight gradient, as in ml/sae/sparse_gradient.py
AUX_DENSE = 8  # dead latents per auxiliary k, as in ml/sae/auxiliary.py
ENCODE_ENTRIES, MIN_ENCODE_ROWS = 1 << 23, 16  # at a time, of a finished SAE: ml/sae/base.py
LOGIT_ENTRIES = 1 << 25  # as in ml/evaluation/language_model_loss.py
FORWARD_TOKENS = 2048  # of one pass, as in ml/activations/masking.py
STATISTICS_TOKENS = 100_000
CALIBRATION_TOKENS, CALIBRATION_ROWS = 131_072, 4096  # in all, at a time: jobs/training_data.py
LOSS_TOKENS = 32_768
FOLLOWED_TOKENS = 32_768  # at each look at held-out text: ml/evaluation/held_out.py
PLANNED_DEAD = 0.1  # share of latents taken to be dead when the room for AuxK is planned

# Copies of the chunk's pre-activations that are alive together, by family.
_CHUNK_COPIES = {
    "topk": 1.5,
    "batch_topk": 2.0,
    "matryoshka_batch_topk": 2.0,
    "standard": 1.3,
    "gated": 1.6,
    "jumprelu": 1.6,
}
_GPU_DENSE_COPIES = 5.0  # on a GPU all latents are one tile
_ROW_COPIES = {"matryoshka_batch_topk": 10.0}  # [N, d] in float32; 5 of the others
_WHOLE_COPIES = 2.0  # of these the batch as read and as scaled; the others are of a piece
# What is kept of each entry that takes part, in the step over active latents alone.
_ACTIVE_BYTES = {"standard": 120, "gated": 160, "jumprelu": 100}
_ACTIVE_SHARE = {"cpu": 0.1, "cuda": 0.02}  # at most, as in ml/sae/dense.py
_SCRATCH = 14_000_000  # what matrix products and the allocator keep for themselves
_RESTING = 150_000_000  # most of a step's memory that the allocator keeps after the last one
_ENTRY_BYTES = 60  # per active latent: ids, values, their order by latent, copies of these
_STREAM_COPIES, _INNER_COPIES = 3.0, 2.0  # of the residual stream and of the MLP's inside
_LOGIT_COPIES = 6.4
_ENCODE_COPIES = 2.25  # without and with its bias, and a quarter as the mask of what is above
_FORWARD_SHARE = 0.6  # measured 0.67 and 0.51 with models of 135M and 2.8M parameters
_NARROW_SHARE = 0.1  # where a processor multiplies 16-bit numbers; measured with NF4
_FOLD_COPIES = (
    6  # of a weight matrix in float32, while a whitening and the rows' lengths are folded
)
_MEASURING_PRODUCTS = 1.3  # of an encoder, per token: encoding, decoding, sums in double precision
_LOAD_RATE = 5e8  # bytes/s of weights from files that were read before
_CANDIDATES = 2.5  # values looked at per active latent when a threshold is calibrated


@dataclass(frozen=True)
class ModelNeeds:
    """What of a language model decides how much a training takes."""

    name: str
    weight_bytes: int
    params: int
    layers: int
    hidden: int
    vocab: int
    intermediate: int = 0
    """width inside the MLP; 0: four times the model's"""
    value_bytes: int = FLOAT
    """of one activation"""


@dataclass(frozen=True)
class Room:
    """What a machine has for a training; bytes. `free` counts what this program can let go."""

    device: str
    """cpu or cuda"""
    free: int
    total: int
    disk_free: int
    program: int = 0
    """what the libraries take that are not loaded yet"""
    cores: int = 1
    core_flops: float = 0.0
    """operations per second of one core in a product of matrices; 0: not measured"""
    shared: bool = False
    """whether a GPU uses the machine's own memory"""


def is_eight_bit(config: TrainConfig) -> bool:
    """Whether moments take one byte each."""
    return config.eight_bit_moments and config.optimizer != "sgd"


def parameters(config: TrainConfig, d: int) -> int:
    """Numbers in the weight matrices, a skip transcoder's linear map included."""
    skip = d * d if config.encoder == "skip_transcoder" else 0
    return 2 * d * config.width + skip


def state_bytes(config: TrainConfig, d: int) -> int:
    """Weights, gradients and moments."""
    moments = {"sgd": FLOAT}.get(config.optimizer, 2 * FLOAT)
    per_number = 2 * FLOAT + (2 if is_eight_bit(config) else moments)
    counters = config.width * (6 * 8 + 6 * FLOAT)  # firings, ages and the vectors' own share
    return parameters(config, d) * per_number + counters + _directions_bytes(config, d)


def _directions_bytes(config: TrainConfig, d: int) -> int:
    """The principal directions of the activations, and with whitening the map along them."""
    if is_whitened(config):
        return (FLOAT + DOUBLE) * d * d
    return DOUBLE * d * d if begins_in_subspace(config) else 0


def saved_bytes(config: TrainConfig, d: int) -> int:
    """One checkpoint on the disk: weights, moments, the directions of a whitening."""
    unsaved = FLOAT * d * d if is_whitened(config) else _directions_bytes(config, d)
    return state_bytes(config, d) - parameters(config, d) * FLOAT - unsaved


def chunk_entries(room: Room) -> int:
    """Pre-activations that a step forms at a time on this machine."""
    if room.device != "cuda":
        return CHUNK_ENTRIES
    return min(GPU_CHUNK_ENTRIES, max(CHUNK_ENTRIES, int(room.total * GPU_CHUNK_SHARE) // FLOAT))


def chunk_bytes(config: TrainConfig, room: Room) -> int:
    """The same for these settings, in bytes."""
    rows = min(rows_of(config), max(MIN_CHUNK_ROWS, chunk_entries(room) // config.width))
    return rows * config.width * FLOAT


def rows_of(config: TrainConfig) -> int:
    """Tokens that a step works on at a time."""
    return min(config.batch, config.micro_batch or config.batch)


def step_bytes(config: TrainConfig, d: int, room: Room) -> int:
    """Working memory of one step, beside `state_bytes`.

    A dense step is largest when just so few latents are active that only those are worked on.
    """
    architecture, matrix, rows = config.architecture, config.width * d * FLOAT, rows_of(config)
    copies = _CHUNK_COPIES[architecture]
    if architecture in DENSE_FAMILY and room.device == "cuda":
        copies = _GPU_DENSE_COPIES
    taken = _SCRATCH + copies * chunk_bytes(config, room)
    ends = 1 if config.encoder == "sae" else 2  # a transcoder has a target beside its input
    copies = _ROW_COPIES.get(architecture, 5.0) - _WHOLE_COPIES
    taken += ends * (copies * rows + _WHOLE_COPIES * config.batch) * d * FLOAT
    if architecture in DENSE_FAMILY:
        share = _ACTIVE_SHARE[room.device]
        taken += share * rows * config.width * _ACTIVE_BYTES[architecture]
    else:
        taken += round(rows * config.k * config.k_anneal) * _ENTRY_BYTES
        taken += 3 * min(SLICE_BYTES, matrix) + 0.3 * matrix
    if config.precision == "bf16":
        taken += 1.5 * matrix
    if rows < config.batch:
        taken += parameters(config, d) * FLOAT  # where the pieces' gradients are added up
    return round(taken)


def auxiliary_bytes(config: TrainConfig, d: int) -> int:
    """Working memory of AuxK while a tenth of the latents are dead."""
    if config.architecture not in TOPK_FAMILY or config.aux_k == 0 or config.aux_weight == 0:
        return 0
    dead, rows = PLANNED_DEAD * config.width, rows_of(config)
    active = config.aux_k if config.aux_k > 0 else default_aux_k(d)
    of_tokens, of_latents = rows * dead * FLOAT, dead * d * FLOAT
    if dead > AUX_DENSE * active:
        return round(2 * of_tokens + 2 * of_latents + rows * active * FLOAT)
    return round(5 * of_tokens + 2 * of_latents + 2 * rows * d * FLOAT)


def forward_bytes(model: ModelNeeds, context: int, batch_tokens: int = 0) -> int:
    """Working memory of one truncated pass; none for activations without a model."""
    if not model.params:
        return 0
    tokens = batch_tokens or max(1, FORWARD_TOKENS // context) * context
    inner = model.intermediate or 4 * model.hidden
    values = _STREAM_COPIES * model.hidden + _INNER_COPIES * inner
    return round(_SCRATCH + tokens * values * model.value_bytes)


def finish_bytes(config: TrainConfig, d: int, room: Room) -> int:
    """The finished SAE beside the one that was trained, and the search for its threshold, or the
    folding of a whitening.

    The search works in what the allocator kept of the steps, except for the buffer still in use.
    """
    resting = min(step_bytes(config, d, room), _RESTING)
    if config.architecture in ("batch_topk", "matryoshka_batch_topk"):
        values = FLOAT * _CANDIDATES * config.k * CALIBRATION_TOKENS
        entries = _CANDIDATES * config.k * min(CALIBRATION_TOKENS, CALIBRATION_ROWS)
        dense = _ENCODE_COPIES * FLOAT * max(MIN_ENCODE_ROWS * config.width, ENCODE_ENTRIES)
        search = chunk_bytes(config, room) + values + max(values, dense + _ENTRY_BYTES * entries)
        resting = max(resting, round(search))
    if is_whitened(config):
        resting = max(resting, _FOLD_COPIES * config.width * d * FLOAT + 3 * DOUBLE * d * d)
    return parameters(config, d) * FLOAT + resting


def finished_bytes(config: TrainConfig, d: int) -> int:
    """A finished SAE."""
    return parameters(config, d) * FLOAT


def evaluation_bytes(
    config: TrainConfig, d: int, model: ModelNeeds, context: int, room: Room
) -> int:
    """The finished SAE and the logits of the passes that measure it."""
    if not model.vocab:
        return finished_bytes(config, d) + chunk_bytes(config, room)
    rows = max(1, LOGIT_ENTRIES // (context * model.vocab))
    tokens = min(rows * context, max(context, min(config.eval_tokens, LOSS_TOKENS)))
    logits = tokens * model.vocab * model.value_bytes
    return round(finished_bytes(config, d) + _LOGIT_COPIES * logits + chunk_bytes(config, room))


def window_bytes(config: TrainConfig, d: int, text_tokens: int = 0) -> int:
    """The file of shuffled activations; a transcoder's holds what it reads and what it gives."""
    tokens = min(config.window * 2, text_tokens) if text_tokens else config.window
    sides = 1 if config.encoder == "sae" else 2
    return tokens * d * 2 * sides


def followed_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Held-out tokens that a run is followed on."""
    return min(FOLLOWED_TOKENS, _part_tokens(config, text_tokens) or FOLLOWED_TOKENS)


def _part_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens of a text that are held out for evaluation, and as many for calibration."""
    return round(config.held_out_share / 100 * text_tokens)


def followed_bytes(config: TrainConfig, d: int, text_tokens: int = 0) -> int:
    """The file of these tokens in float32, which may hold almost twice as many."""
    sides = 1 if config.encoder == "sae" else 2
    return 2 * followed_tokens(config, text_tokens) * d * FLOAT * sides


def looks(config: TrainConfig) -> int:
    """How often a whole run is measured on them."""
    steps = steps_of(config)
    saves, every = config.checkpoint_every, config.eval_every
    count = sum(steps // each for each in (saves, every) if each)
    if saves and every:
        count -= steps // math.lcm(saves, every)
    at_the_end = any(each and steps % each == 0 for each in (saves, every))
    return count + (not at_the_end)


def kept_checkpoints(config: TrainConfig) -> int:
    """How many checkpoints of a whole run stay on the disk."""
    steps = steps_of(config)
    written = math.ceil(steps / config.checkpoint_every) if config.checkpoint_every else 1
    return min(written, DEFAULT_CAP, max(KEEP_ALL, 4 + steps // KEEP_EVERY))


def loads(members: Sequence[TrainConfig], text_tokens: int) -> int:
    """How often a model is loaded that is there only while activations are read: for their
    statistics and the first window, for each other one, and for what is held out, to follow, to
    calibrate and to measure on."""
    config = members[0]
    windows = math.ceil(config.tokens / config.window)
    if config.activations or (text_tokens and text_tokens < 2 * config.window):
        windows = 1  # stored, or kept from epoch to epoch
    calibrates = any(calibration_tokens(member, text_tokens) for member in members)
    return windows + 2 + calibrates


def load_seconds(model: ModelNeeds) -> float:
    """How long one loading takes."""
    return model.weight_bytes / _LOAD_RATE


def steps_of(config: TrainConfig) -> int:
    """Steps of a whole run."""
    return max(1, math.ceil(config.tokens / config.batch))


def step_products(config: TrainConfig) -> float:
    """ρ: how many encoder products a step takes, as measured on processors."""
    products = {"gated": 7.0}.get(config.architecture, 5.0)
    return 1.6 if config.architecture in TOPK_FAMILY else products


def step_flops(config: TrainConfig, d: int) -> float:
    """Operations of one step."""
    whitening = 2 * config.batch * d * d if is_whitened(config) else 0
    return step_products(config) * 2 * config.batch * d * config.width + whitening


def measuring_steps(config: TrainConfig) -> float:
    """Steps that take as long as measuring an SAE on one token."""
    return _MEASURING_PRODUCTS / (step_products(config) * config.batch)


def measuring_flops(config: TrainConfig, d: int) -> float:
    """Operations per token of measuring an SAE on held-out activations."""
    return _MEASURING_PRODUCTS * 2 * d * config.width


def forward_flops(model: ModelNeeds, layer: int) -> float:
    """Operations per token of a pass that ends behind a block."""
    inside = max(0, model.params - model.vocab * model.hidden)
    return 2 * inside * (layer + 1) / max(1, model.layers)


def forward_share(model: ModelNeeds) -> float:
    """How much of a processor's speed in large products a pass of the model reaches."""
    return _FORWARD_SHARE if model.value_bytes == FLOAT else _NARROW_SHARE


def held_out_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens of the evaluation."""
    return min(config.eval_tokens, _part_tokens(config, text_tokens) or config.eval_tokens)


def calibration_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens on which a threshold is found."""
    if config.architecture not in ("batch_topk", "matryoshka_batch_topk"):
        return 0
    return min(CALIBRATION_TOKENS, _part_tokens(config, text_tokens) or CALIBRATION_TOKENS)


def measured_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens that the SAE encodes beside its steps, those of the looks among them."""
    seen = looks(config) * followed_tokens(config, text_tokens)
    return finish_tokens(config, text_tokens) + seen


def finish_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens that the finished SAE encodes."""
    return calibration_tokens(config, text_tokens) + held_out_tokens(config, text_tokens)


def forward_tokens(config: TrainConfig, text_tokens: int) -> int:
    """Tokens that go through the model: a text that fits into the window passes once."""
    train = config.tokens
    if text_tokens and text_tokens < 2 * config.window:
        train = min(train, text_tokens)
    statistics = min(STATISTICS_TOKENS, text_tokens or STATISTICS_TOKENS)
    finish = finish_tokens(config, text_tokens)
    return train + statistics + finish + followed_tokens(config, text_tokens)
