"""What a training learns and what it reads: the settings that everybody sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mistudio.core.config import Config, option
from mistudio.core.configs import ENCODERS, HOOKS, SAE_HOOKS, TRANSCODER_INPUTS
from mistudio.core.errors import InvalidInput
from mistudio.core.training_rules import (
    ARCHITECTURES,
    aims_at_k,
    is_mixed,
    is_sae,
    is_steered_to_l0,
    is_transcoder,
    reads_a_model,
)


@dataclass(frozen=True)
class TrainingSubject(Config):
    """What a training learns, from which activations, and for how long."""

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
        "resid_post is the block's output, mlp_out and attn_out what the sublayer adds to it, "
        "attn_z the attention's heads side by side, before its output projection, resid_pre what "
        "the block reads, which in block 0 is the embedding, resid_mid the stream between "
        "attention and MLP.",
        choices=SAE_HOOKS,
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
        "Tokens to train on; text is reused in a new order when it runs out. 0 takes one pass, as "
        "a command does that names stored activations and no length.",
        unit="tokens",
        minimum=0,
        maximum=1_000_000_000_000,
    )
    seed: int = option(0, "Seed", "Start of every random choice.", minimum=0, maximum=2**31 - 1)
    name: str = option("", "Name", "How the SAE is called; empty makes one from the settings.")
    context: int = option(
        0,
        "Context",
        "Tokens per row when the dataset must be tokenised first; 0 takes its newest tokenisation "
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

    def unnamed(self) -> Mapping[str, Any]:
        return {"tokens": 0} if self.activations else {}

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
