"""The names of what can be trained, and which settings apply to which of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mistudio.core.training_configs import TrainConfig
    from mistudio.core.training_subject import TrainingSubject

TOPK_FAMILY = ("batch_topk", "matryoshka_batch_topk", "topk")
DENSE_FAMILY = ("standard", "gated", "jumprelu")
ARCHITECTURES = (*TOPK_FAMILY, *DENSE_FAMILY)
# gated has no form as a transcoder: no format holds one, and none was described
TRANSCODER_ARCHITECTURES = (*TOPK_FAMILY, "standard", "jumprelu")
LOW_RANK = ("attn_out", "attn_z")  # hooks whose activations keep to few directions
IN_BLOCK = ("attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
"""the hooks of a block in the order in which they are computed"""
JUMPRELU_PENALTIES = ("tanh", "step", "quadratic")
OPTIMIZERS = ("adam", "adamw", "sgd")
SCHEDULES = ("constant", "linear", "cosine", "exponential")
PRECISIONS = ("fp32", "bf16")
SUBSPACE_INITS = ("auto", "on", "off")
INPUT_NORMS = ("constant", "whitening", "none")
LEAST_MICRO_BATCH = 16  # tokens
LEAST_NESTED = 32  # latents of a Matryoshka SAE with the usual groups

# settings that a run which goes on from another one's checkpoint shares with it
FIXED_IN_A_CONTINUATION = (
    "model",
    "architecture",
    "layer",
    "hook",
    "encoder",
    "hook_in",
    "hook_out",
    "input_norm",
    "optimizer",
    "eight_bit_moments",
    "width",
    "batch",
    "activations",
    "window",
    "seed",
    "data_seed",
    "shuffle",
    "mask_special",
    "skip_positions",
    "norm_cut",
    "held_out_share",
)


def no_transcoder(architecture: str) -> str:
    """The sentence for an architecture that has no transcoder."""
    return (
        f"There is no {architecture} transcoder; choose one of "
        f"{', '.join(TRANSCODER_ARCHITECTURES)}."
    )


def is_sae(config: TrainingSubject) -> bool:
    return config.encoder == "sae"


def is_transcoder(config: TrainingSubject) -> bool:
    return config.encoder != "sae"


def default_aux_k(d_in: int) -> int:
    """Half the model's width, rounded to a power of two."""
    return 2 ** max(0, round(math.log2(max(1, d_in / 2))))


def keeps_k(config: TrainConfig) -> bool:
    return config.architecture in TOPK_FAMILY


def aims_at_k(config: TrainConfig) -> bool:
    return keeps_k(config) or is_quadratic(config)


def is_dense(config: TrainConfig) -> bool:
    return config.architecture in DENSE_FAMILY


def is_jumprelu(config: TrainConfig) -> bool:
    return config.architecture == "jumprelu"


def is_quadratic(config: TrainConfig) -> bool:
    return is_jumprelu(config) and config.jumprelu_penalty == "quadratic"


def is_nested(config: TrainConfig) -> bool:
    return config.architecture == "matryoshka_batch_topk"


def is_standard(config: TrainConfig) -> bool:
    return config.architecture == "standard"


def keeps_moments(config: TrainConfig) -> bool:
    return config.optimizer in ("adam", "adamw")


def decays(config: TrainConfig) -> bool:
    return config.schedule != "constant"


def is_steered_to_l0(config: TrainConfig) -> bool:
    return is_dense(config) and not is_quadratic(config)


def reads_a_model(config: TrainConfig) -> bool:
    return bool(config.model or not config.activations)


def is_whitened(config: TrainConfig) -> bool:
    return config.input_norm == "whitening"


def begins_at_random(config: TrainConfig) -> bool:
    return is_sae(config) and not config.init_from and not config.continue_from


def begins_in_subspace(config: TrainConfig) -> bool:
    choice = config.subspace_init
    wanted = choice == "on" or (choice == "auto" and config.hook in LOW_RANK)
    return wanted and begins_at_random(config)


def is_mixed(config: TrainConfig) -> bool:
    return bool(config.more_datasets)
