"""The settings of training an SAE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Violation, option
from mistudio.core.dataset_configs import HELD_OUT_SHARE
from mistudio.core.listed_positions import read_positions
from mistudio.core.training_checks import doubts, violations
from mistudio.core.training_rules import (
    INPUT_NORMS,
    JUMPRELU_PENALTIES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    SUBSPACE_INITS,
    aims_at_k,
    begins_at_random,
    decays,
    is_dense,
    is_jumprelu,
    is_nested,
    is_standard,
    keeps_k,
    keeps_moments,
)
from mistudio.core.training_subject import TrainingSubject


@dataclass(frozen=True)
class TrainConfig(TrainingSubject):
    """Train one sparse autoencoder on the activations of one hook, or one transcoder on two."""

    sparsity: float = option(
        0.0,
        "Sparsity weight",
        "Weight of the penalty, at the start if a target L0 is set; 0 takes 1, with tanh 5, and a "
        "tenth of that with a target.",
        minimum=0.0,
        maximum=1e6,
        applies=is_dense,
        advanced=True,
    )
    sparsity_warmup: int = option(
        -1,
        "Sparsity warm-up",
        "Steps over which the penalty's weight rises from 0; -1 takes a twentieth of the run, or "
        "all of it for tanh without a target.",
        unit="steps",
        minimum=-1,
        maximum=1_000_000,
        applies=is_dense,
        advanced=True,
    )
    group_sizes: str = option(
        "",
        "Group sizes",
        "Latents of each nested dictionary, rising, the last being all latents, such as "
        "256,1024,4096; empty takes 1/32, 3/32, 7/32, 15/32 and all.",
        applies=is_nested,
        advanced=True,
    )
    unit_decoder: bool = option(
        True,
        "Unit decoder",
        "Hold every feature's direction at unit length; off lets lengths go free and puts them "
        "into the penalty.",
        applies=is_standard,
        advanced=True,
    )
    input_norm: str = option(
        "constant",
        "Input normalisation",
        "constant multiplies all activations by one number, so that settings fit every model; "
        "whitening also turns and stretches them until they vary alike in every direction, and "
        "the curves of loss and explained variance are then those of whitened activations; none "
        "takes them as they are. The finished SAE reads plain activations.",
        choices=INPUT_NORMS,
        advanced=True,
    )
    subspace_init: str = option(
        "auto",
        "First directions",
        "Where features begin: on draws them from the directions that activations keep to, the "
        "fewest that hold 99 % of their variance, so that fewer never fire; off from all; auto is "
        "on for attn_out and attn_z, as attention writes into few directions.",
        choices=SUBSPACE_INITS,
        applies=begins_at_random,
        advanced=True,
        hashed_at_default=False,
    )
    jumprelu_penalty: str = option(
        "tanh",
        "Penalty",
        "tanh of the latents; step counts the active ones (needs far more tokens); quadratic asks "
        "each token for k active ones.",
        choices=JUMPRELU_PENALTIES,
        applies=is_jumprelu,
        advanced=True,
    )
    bandwidth: float = option(
        0.0,
        "Bandwidth",
        "Width around a threshold in which it is taught, in units of the scaled input; 0 takes 2 "
        "for tanh, else 0.05.",
        minimum=0.0,
        maximum=100.0,
        applies=is_jumprelu,
        advanced=True,
    )
    first_threshold: float = option(
        0.0,
        "First threshold",
        "Where thresholds begin; 0 takes 0.1 for tanh, else 0.01.",
        minimum=0.0,
        maximum=100.0,
        applies=is_jumprelu,
        advanced=True,
    )
    ghost: bool = option(
        True,
        "Revive rare latents",
        "Pull latents that hardly fire back towards firing (ghost penalty).",
        applies=is_dense,
        advanced=True,
    )
    batch: int = option(
        2048, "Batch", "Tokens per step.", unit="tokens", minimum=64, maximum=16_384, advanced=True
    )
    micro_batch: int = option(
        0,
        "Micro-batch",
        "Tokens of a batch that are worked on at a time, their gradients added up, which needs "
        "less memory; at least 16. batch_topk and matryoshka_batch_topk then choose their latents "
        "within each piece. 0 takes whole batches, or pieces where those do not fit.",
        unit="tokens",
        minimum=0,
        maximum=16_384,
        advanced=True,
    )
    learning_rate: float = option(
        0.0,
        "Learning rate",
        "Peak rate of the optimiser; 0 takes 0.0002 / sqrt(latents / 16384), at most 0.001, and in "
        "a run of fewer than 15,000 steps sqrt(15000 / steps) times that, at most 0.002.",
        minimum=0.0,
        maximum=0.1,
        advanced=True,
    )
    warmup_steps: int = option(
        -1,
        "Warm-up",
        "Steps of rising rate; -1 takes 1000, at most a tenth of the run.",
        unit="steps",
        minimum=-1,
        maximum=1_000_000,
        advanced=True,
    )
    schedule: str = option(
        "linear",
        "Rate's fall",
        "How the rate falls at the end of the run: linear or cosine to 0, exponential to a "
        "thousandth; constant keeps it.",
        choices=SCHEDULES,
        advanced=True,
    )
    decay_share: float = option(
        0.2,
        "Final decay",
        "Share of the run, at its end, over which the rate falls.",
        minimum=0.0,
        maximum=1.0,
        applies=decays,
        advanced=True,
    )
    optimizer: str = option(
        "adam",
        "Optimiser",
        "adam; adamw, whose weight decay does not pass through the moments; sgd with momentum 0.9, "
        "which needs less memory and a far higher rate.",
        choices=OPTIMIZERS,
        advanced=True,
    )
    weight_decay: float = option(
        0.0,
        "Weight decay",
        "Pulls the weight matrices towards 0; rows held at unit length, biases and thresholds are "
        "left alone.",
        minimum=0.0,
        maximum=10.0,
        advanced=True,
    )
    eight_bit_moments: bool = option(
        False,
        "8-bit moments",
        "Keep the optimiser's averages of the weight matrices in 8 bits: 10 instead of 16 bytes "
        "per weight in all, for a slower step.",
        applies=keeps_moments,
        advanced=True,
    )
    precision: str = option(
        "fp32",
        "Precision",
        "bf16 rounds what enters the encoder's product, which a GPU then forms faster; weights, "
        "moments, latents and losses stay in fp32.",
        choices=PRECISIONS,
        advanced=True,
    )
    k_anneal: float = option(
        1.0,
        "k anneal",
        "Start with this many times k and come down over the first tenth; 1 is off.",
        minimum=1.0,
        maximum=10.0,
        applies=keeps_k,
        advanced=True,
    )
    aux_k: int = option(
        -1,
        "Auxiliary k",
        "Dead latents that model what is left over; -1 takes half the model's width, 0 is off.",
        minimum=-1,
        maximum=65_536,
        applies=keeps_k,
        advanced=True,
    )
    aux_weight: float = option(
        0.03125,
        "Auxiliary weight",
        "Weight of the auxiliary loss.",
        minimum=0.0,
        maximum=10.0,
        applies=keeps_k,
        advanced=True,
    )
    dead_window: int = option(
        0,
        "Dead window",
        "A latent is dead after this many tokens without firing; 0 takes 10 million, "
        "or a tenth of a shorter run.",
        unit="tokens",
        minimum=0,
        maximum=1_000_000_000_000,
        advanced=True,
    )
    gradient_clip: float = option(
        1.0,
        "Gradient clip",
        "Largest gradient norm, in units of the loss before division by the variance.",
        minimum=1e-6,
        maximum=1e6,
        advanced=True,
    )
    mask_special: bool = option(
        True, "Mask special tokens", "Leave BOS, EOS and other special tokens out.", advanced=True
    )
    skip_positions: str = option(
        "",
        "Skip positions",
        "Positions of a row that are left out of the training and of all that is measured, the "
        "first being 0, such as 0 or 0-3,127; empty leaves none out.",
        advanced=True,
        hashed_at_default=False,
    )
    norm_cut: float = option(
        10.0,
        "Mask norms above",
        "Leave tokens out whose activation norm exceeds this many medians (attention sinks).",
        unit="× median",
        minimum=1.0,
        maximum=1e6,
        advanced=True,
    )
    window: int = option(
        262_144,
        "Shuffle window",
        "Tokens whose activations are shuffled together.",
        unit="tokens",
        minimum=1024,
        maximum=16_777_216,
        advanced=True,
    )
    data_seed: int = option(
        -1,
        "Seed of the order",
        "Start of the data's order; -1 takes the seed.",
        minimum=-1,
        maximum=2**31 - 1,
        advanced=True,
    )
    shuffle: bool = option(
        True,
        "Shuffle",
        "Draw tokens in random order; off, they come as they are stored.",
        advanced=True,
    )
    checkpoint_every: int = option(
        1000,
        "Checkpoint every",
        "Steps between checkpoints; 0 writes only the last.",
        unit="steps",
        minimum=0,
        maximum=1_000_000,
        advanced=True,
    )
    metrics_every: int = option(
        10,
        "Metrics every",
        "Steps between two points of the curves.",
        unit="steps",
        minimum=1,
        maximum=1000,
        advanced=True,
    )
    eval_every: int = option(
        1000,
        "Evaluation every",
        "Steps between looks at 32,768 held-out tokens, which tell explained variance, L0 and "
        "silent latents beside the curves and which checkpoint is the best; each automatic "
        "checkpoint and the last step are measured too, and 0 measures only these. A look takes "
        "about as long as 25 steps of 2,048 tokens.",
        unit="steps",
        minimum=0,
        maximum=1_000_000,
        advanced=True,
    )
    held_out_share: float = option(
        HELD_OUT_SHARE,
        "Held-out share",
        "Share of the documents that are kept for evaluation, and as many again for calibration; "
        "the rest is trained on. Documents are told apart by the hash of their text. Another share "
        "than 5 tokenises the text once more. The SAE keeps its share: it is measured later on "
        "documents that it was not trained on.",
        unit="%",
        minimum=1.0,
        maximum=40.0,
        advanced=True,
        hashed_at_default=False,
    )
    eval_tokens: int = option(
        1_000_000,
        "Evaluation tokens",
        "Most held-out tokens of the final evaluation.",
        unit="tokens",
        minimum=1024,
        maximum=100_000_000,
        advanced=True,
    )

    continue_from: str = option(
        "",
        "Continue from",
        "Id of a run, or ID@STEP, to go on from its newest or from that checkpoint "
        "with full state; the length counts from that run's beginning.",
        advanced=True,
    )
    init_from: str = option(
        "",
        "Start from SAE",
        "Id or name of an SAE of the library, also an imported one, whose weights the run starts "
        "with (fine-tuning).",
        advanced=True,
    )

    @property
    def skipped(self) -> tuple[int, ...]:
        """The positions of a row that are left out, rising; raises `InvalidInput`."""
        return read_positions(self.skip_positions)

    @property
    def order_seed(self) -> int:
        """The seed of the data's order."""
        return self.seed if self.data_seed < 0 else self.data_seed

    @property
    def aim(self) -> str:
        """What decides how many latents are active, in short."""
        if aims_at_k(self):
            return f"k {self.k:,}"
        return f"L0 {self.target_l0:g}" if self.target_l0 else "fixed penalty"

    @property
    def aimed_l0(self) -> float | None:
        """Active latents per token that the run is to end with; None if nothing decides them."""
        if aims_at_k(self):
            return float(self.k)
        return self.target_l0 or None

    def check(self) -> Iterable[Violation]:
        return violations(self)

    def warnings(self) -> list[str]:
        """What is allowed but probably not meant, as sentences."""
        return doubts(self)

    @property
    def holds_unit_decoder(self) -> bool:
        """Whether decoder rows are brought back to unit length after each step."""
        return self.unit_decoder or not is_standard(self)

    @property
    def groups(self) -> tuple[int, ...]:
        """The chosen widths of the nested dictionaries, () for the usual ones.

        Raises `ValueError` for text that is no list of whole numbers.
        """
        return tuple(int(part) for part in self.group_sizes.replace(" ", "").split(",") if part)
