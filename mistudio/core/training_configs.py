"""The settings of training an SAE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mistudio.core.config import Config, Violation, option
from mistudio.core.configs import ENCODERS, HOOKS, TRANSCODER_INPUTS
from mistudio.core.errors import InvalidInput
from mistudio.core.training_checks import doubts, violations
from mistudio.core.training_rules import (
    ARCHITECTURES,
    INPUT_NORMS,
    JUMPRELU_PENALTIES,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULES,
    aims_at_k,
    decays,
    is_dense,
    is_jumprelu,
    is_mixed,
    is_nested,
    is_sae,
    is_standard,
    is_steered_to_l0,
    is_transcoder,
    keeps_k,
    keeps_moments,
    reads_a_model,
)


@dataclass(frozen=True)
class TrainConfig(Config):
    """Train one sparse autoencoder on the activations of one hook, or one transcoder on two."""

    model: str = option("", "Model", "Id or name of a model.", required=True, applies=reads_a_model)
    dataset: str = option(
        "",
        "Dataset",
        "Id or name of a dataset or of a tokenisation.",
        required=True,
        applies=reads_a_model,
    )
    encoder: str = option(
        "sae",
        "Encoder type",
        "sae gives back the activations it reads; transcoder gives those of another hook of the "
        "same block, such as an MLP's output from its input; skip_transcoder adds a linear map of "
        "what it reads, which leaves the latents what is not linear.",
        choices=ENCODERS,
    )
    architecture: str = option(
        "batch_topk",
        "Architecture",
        "topk keeps k latents per token; batch_topk keeps k per token on average over a batch; "
        "matryoshka_batch_topk does the same with nested dictionaries, the first 1/32, 3/32, 7/32 "
        "and 15/32 of the latents, that each reconstruct the input: general features come first. "
        "standard, gated and jumprelu are made sparse by a penalty, whose weight takes some "
        "hundred steps to find its target.",
        choices=ARCHITECTURES,
    )
    layer: int = option(
        0, "Layer", "Block whose activations are learnt; the first is 0.", minimum=0, maximum=511
    )
    hook: str = option(
        "resid_post",
        "Hook",
        "resid_post is the block's output, mlp_out and attn_out what the sublayer adds to it.",
        choices=HOOKS,
        applies=is_sae,
    )
    hook_in: str = option(
        "mlp_in",
        "Hook in",
        "What the transcoder reads; mlp_in is what the block's MLP reads, after its norm.",
        choices=TRANSCODER_INPUTS,
        applies=is_transcoder,
    )
    hook_out: str = option(
        "mlp_out",
        "Hook out",
        "What the transcoder is to give; of the same block and not computed before what it reads.",
        choices=HOOKS,
        applies=is_transcoder,
    )
    width: int = option(
        4096, "Latents", "Number of features to learn.", minimum=1, maximum=1_048_576
    )
    k: int = option(
        32,
        "k",
        "Features active per token: exactly with topk, else on average.",
        minimum=1,
        maximum=65_536,
        applies=aims_at_k,
    )
    target_l0: float = option(
        32.0,
        "Target L0",
        "Features active per token that the penalty's weight is steered to; 0 leaves the weight as "
        "it is.",
        minimum=0.0,
        maximum=65_536.0,
        applies=is_steered_to_l0,
    )
    tokens: int = option(
        2_048_000,  # 1,000 steps of the default batch
        "Length",
        "Tokens to train on; text is reused in a new order when it runs out. 0 takes one pass.",
        unit="tokens",
        minimum=0,
        maximum=1_000_000_000_000,
    )
    seed: int = option(0, "Seed", "Start of every random choice.", minimum=0, maximum=2**31 - 1)
    name: str = option("", "Name", "How the SAE is called; empty makes one from the settings.")
    context: int = option(
        0,
        "Context",
        "Tokens per row when the dataset must be tokenised first; 0 uses its newest tokenisation "
        "for this model, or the default of tokenising.",
        unit="tokens",
        minimum=0,
        maximum=4096,
    )
    activations: str = option(
        "",
        "Activations",
        "Id or name of an activation set to read the layer and hook from, instead of running the "
        "model. Of one that was imported, no model and dataset are needed.",
    )
    more_datasets: tuple[str, ...] = option(
        (),
        "Further datasets",
        "Datasets or tokenisations to mix in, each as NAME or NAME=WEIGHT; the weights say how "
        "many tokens come from each.",
        applies=reads_a_model,
    )
    dataset_weight: float = option(
        1.0,
        "Weight of the dataset",
        "Weight of the first dataset among several.",
        minimum=1e-6,
        maximum=1e6,
        applies=is_mixed,
    )
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
    def order_seed(self) -> int:
        """The seed of the data's order."""
        return self.seed if self.data_seed < 0 else self.data_seed

    @property
    def mixture(self) -> list[tuple[str, float]]:
        """Every dataset with its weight; raises `InvalidInput` for a weight that is none."""
        found = [(self.dataset, self.dataset_weight if self.more_datasets else 1.0)]
        for text in self.more_datasets:
            name, equals, number = text.rpartition("=")
            if not equals:
                found.append((text, 1.0))
                continue
            try:
                weight = float(number)
            except ValueError:
                weight = 0.0
            if not 0 < weight < float("inf"):
                raise InvalidInput(f"{text!r} gives no weight: write NAME=2, a number above 0.")
            found.append((name, weight))
        return found

    @property
    def hook_read(self) -> str:
        """The hook whose activations go in."""
        return self.hook if is_sae(self) else self.hook_in

    @property
    def hook_written(self) -> str:
        """The hook whose activations are learnt: that of `hook_read` for an SAE."""
        return self.hook if is_sae(self) else self.hook_out

    @property
    def place(self) -> str:
        """Hook or hooks in short, such as "resid_post" or "mlp_in → mlp_out"."""
        return self.hook if is_sae(self) else f"{self.hook_in} → {self.hook_out}"

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
