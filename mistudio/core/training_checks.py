"""Which settings of a training contradict one another, and which are probably not meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mistudio.core.config import Violation
from mistudio.core.errors import InvalidInput
from mistudio.core.listed_positions import check_positions, read_positions
from mistudio.core.training_rules import (
    IN_BLOCK,
    LEAST_MICRO_BATCH,
    LEAST_NESTED,
    TRANSCODER_ARCHITECTURES,
    aims_at_k,
    is_nested,
    is_steered_to_l0,
    is_transcoder,
    no_transcoder,
)

if TYPE_CHECKING:
    from mistudio.core.training_configs import TrainConfig


LEAST_RATE, HIGH_RATE = 1e-6, 1e-2
FEW_STEPS = 1000


def violations(config: TrainConfig) -> Iterable[Violation]:
    """What cannot be trained, each with its setting."""
    try:
        named = [name for name, _ in config.mixture]
    except InvalidInput as error:
        yield Violation("more_datasets", error.sentence)
    else:
        if len(set(named)) < len(named):
            yield Violation("more_datasets", "A dataset is named twice.")
    if 0 < config.learning_rate < LEAST_RATE:
        yield Violation("learning_rate", "Learning rate must lie between 0.000001 and 0.1.")
    if aims_at_k(config) and config.k > config.width:
        yield Violation("k", f"k is {config.k:,} but the SAE has {config.width:,} latents.")
    if is_steered_to_l0(config) and config.target_l0 > config.width:
        yield Violation(
            "target_l0",
            f"Target L0 is {config.target_l0:,g} but the SAE has {config.width:,} latents.",
        )
    if is_nested(config):
        yield from _group_violations(config)
    if is_transcoder(config):
        if config.architecture not in TRANSCODER_ARCHITECTURES:
            yield Violation("architecture", no_transcoder(config.architecture))
        if IN_BLOCK.index(config.hook_in) > IN_BLOCK.index(config.hook_out):
            yield Violation(
                "hook_out",
                f"{config.hook_out} is computed before {config.hook_in}, so that nothing of it can "
                "be predicted; choose a later one.",
            )
    if config.continue_from and config.init_from:
        yield Violation("init_from", "A run continues another one or starts from an SAE.")
    try:
        skipped = read_positions(config.skip_positions)
        if config.context:
            check_positions(skipped, config.context)
    except InvalidInput as error:
        yield Violation("skip_positions", error.sentence)
    if 0 < config.micro_batch < LEAST_MICRO_BATCH:
        yield Violation(
            "micro_batch", f"A micro-batch has at least {LEAST_MICRO_BATCH} tokens; 0 is off."
        )
    if config.window < config.batch:
        yield Violation("window", "The shuffle window must hold at least one batch.")


def _group_violations(config: TrainConfig) -> Iterable[Violation]:
    try:
        groups = config.groups
    except ValueError:
        yield Violation("group_sizes", "Write group sizes as whole numbers: 256,1024,4096.")
        return
    if not groups and config.width < LEAST_NESTED:
        yield Violation("width", f"A Matryoshka SAE needs at least {LEAST_NESTED} latents.")
    rising = all(a < b for a, b in zip((0, *groups), groups, strict=False))
    if groups and not (rising and groups[-1] == config.width):
        yield Violation(
            "group_sizes",
            f"Group sizes must rise and end with the number of latents, {config.width:,}.",
        )


def doubts(config: TrainConfig) -> list[str]:
    """What is allowed but probably not meant, as sentences."""
    found: list[str] = []
    if is_transcoder(config) and config.hook_in == config.hook_out:
        if config.encoder == "skip_transcoder":
            found.append(
                f"The skip transcoder reads and gives {config.hook_in}: its skip connection "
                "alone can copy the activations, so that the latents may learn nothing."
            )
        else:
            found.append(
                f"The transcoder reads and gives {config.hook_in}: it is a sparse autoencoder "
                "that does not subtract its decoder bias first."
            )
    steps = -(-config.tokens // max(1, config.batch))
    if 0 < steps < FEW_STEPS:  # 0: one pass, whose length is known when it begins
        found.append(
            f"The length is {steps:,} step{'' if steps == 1 else 's'}; in fewer than "
            f"{FEW_STEPS:,} features are seldom learnt well."
        )
    if config.learning_rate > HIGH_RATE:
        found.append(
            f"A learning rate of {config.learning_rate:g} is high; above {HIGH_RATE:g} the loss "
            "may grow instead of falling."
        )
    return found
