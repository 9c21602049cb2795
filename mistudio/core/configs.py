"""The settings of the jobs around a trained SAE: evaluate, exchange, harvest, steer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mistudio.core.config import Config, Violation, option
from mistudio.core.repositories import repository_problem

HOOKS = ("resid_post", "mlp_out", "attn_out")
"""what a block and its sublayers give, as wide as the stream"""
STREAM_HOOKS = (*HOOKS, "resid_pre", "resid_mid")  # where directions are those of the stream
SAE_HOOKS = (*HOOKS, "attn_z", "resid_pre", "resid_mid")
"""what an SAE may read; attn_z is as wide as all heads together, resid_pre enters a block and
resid_mid is the stream between its attention and its MLP"""
MLP_NORMS = (
    "pre_feedforward_layernorm",
    "pre_mlp_layernorm",
    "post_attention_layernorm",
    "ln_2",
    "final_layer_norm",
    "ffn_norm",
)
"""names of the norm that reads resid_mid before the MLP; the first that a block has is it"""
ENCODERS = ("sae", "transcoder", "skip_transcoder")
TRANSCODER_INPUTS = ("mlp_in", *HOOKS, "resid_mid")  # what a transcoder may read
# that an SAE or transcoder is written in
SAE_FORMATS = ("saelens", "dictionary_learning", "sparsify", "circuit_tracer")


@dataclass(frozen=True)
class EvaluateConfig(Config):
    """Measure an SAE on held-out documents."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    dataset: str = option(
        "",
        "Dataset",
        "Dataset or tokenisation; empty takes the one it was trained on, of an SAE of imported "
        "vectors those that were held out.",
    )
    tokens: int = option(
        200_000, "Tokens", "Most held-out tokens.", unit="tokens", minimum=1024, maximum=100_000_000
    )
    loss_tokens: int = option(
        32_768,
        "Loss tokens",
        "Most of them on which the language model's loss is measured, which takes whole passes of "
        "the model, each time with something else at the hook.",
        unit="tokens",
        minimum=64,
        maximum=100_000_000,
    )


def _is_a_set(config: ExportSaeConfig) -> bool:
    return config.format == "circuit_tracer"


@dataclass(frozen=True)
class ExportSaeConfig(Config):
    """Write an SAE in a format that other programs read."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    format: str = option(
        "saelens",
        "Format",
        "Program that shall read it; sparsify only holds topk and groupmax, circuit_tracer only "
        "transcoders.",
        choices=SAE_FORMATS,
    )
    out: str = option("", "Folder", "Folder to create.", required=True)
    others: tuple[str, ...] = option(
        (),
        "Other layers",
        "Transcoders of the model's other layers: circuit_tracer reads one for every layer from 0 "
        "on. Repeat for several.",
        applies=_is_a_set,
    )


@dataclass(frozen=True)
class SaePlaceConfig(Config):
    """What an SAE that is added is called, and where it reads if its files do not say so."""

    name: str = option("", "Name", "How the SAE is called; empty takes the folder's name.")
    model: str = option("", "Model", "Model it reads; empty takes what the file says.")
    layer: int = option(-1, "Layer", "Block it reads; -1 takes what the file says.", minimum=-1)
    hook: str = option(
        "",
        "Hook",
        "Hook it reads; empty takes what the file says. mlp_in is for transcoders.",
        choices=("", *SAE_HOOKS, "mlp_in"),
    )
    hook_out: str = option(
        "",
        "Hook out",
        "What a transcoder gives; empty takes what the file says.",
        choices=("", *HOOKS),
    )
    measure: bool = option(
        True,
        "Measure it at once",
        "Measure it on 2,048 held-out tokens of the newest text that is tokenised for its model, "
        "which shows a wrong hook, scale or format.",
        advanced=True,
    )


@dataclass(frozen=True)
class ImportSaeConfig(SaePlaceConfig):
    """Add an SAE of this or another program to the library."""

    path: str = option(
        "",
        "Folder",
        "Folder or file of an SAE; which program wrote it is seen from its files.",
        required=True,
    )


@dataclass(frozen=True)
class DownloadSaeConfig(SaePlaceConfig):
    """Get an SAE from the Hugging Face Hub and add it to the library."""

    repo: str = option(
        "", "Repository", "The repository's id on the Hub: owner/name or name.", required=True
    )
    folder: str = option(
        "",
        "Folder in it",
        "Which of its SAEs: the folder, or a layer's file; empty if the repository holds one.",
    )
    revision: str = option(
        "main", "Revision", "Branch, tag or commit of the repository.", advanced=True
    )

    def check(self) -> Iterable[Violation]:
        if problem := repository_problem(self.repo):
            yield Violation("repo", problem)


@dataclass(frozen=True)
class HarvestConfig(Config):
    """Find the features of an SAE: what each latent fires on, over a tokenisation."""

    sae: str = option("last", "SAE", "Id or name of an SAE, or last.", required=True)
    dataset: str = option(
        "", "Dataset", "Dataset or tokenisation; empty takes the one it was trained on."
    )
    context: int = option(128, "Context", "Tokens per row.", unit="tokens", minimum=8, maximum=4096)
    rows: int = option(
        24_576, "Rows", "Most rows to read.", unit="rows", minimum=1, maximum=1_000_000
    )
    top_k: int = option(
        20, "Examples", "Top examples kept per feature, one per row.", minimum=1, maximum=1000
    )
    seed: int = option(0, "Seed", "Order in which rows are drawn.", minimum=0, advanced=True)
    labels: bool = option(
        True,
        "Label them",
        "Name every feature afterwards by rules that are fitted on half of the rows and scored on "
        "the other; seconds, and no language model.",
    )
    activations: str = option(
        "",
        "Activations",
        "Id or name of an activation set of this text, read instead of running the model; empty "
        "runs the model.",
    )
    batch_size: int = option(
        0,
        "Batch",
        "Rows read between two looks at pause, cancel and checkpoint: rounded up to whole tiles of "
        "2,048 tokens (8,192 on a GPU), so that the result does not depend on it. With free shapes "
        "the rows of one forward pass. 0 takes one tile.",
        unit="rows",
        minimum=0,
        maximum=4096,
        advanced=True,
    )
    fast: bool = option(
        False,
        "Free shapes",
        "One forward pass per batch, whatever its size, instead of tiles of one shape. The last "
        "bits of the activations then depend on the batch, and the feature set is marked.",
        advanced=True,
    )


def _needs_sae(config: Any) -> bool:
    from mistudio.core.steering_settings import needs_sae

    return needs_sae(config)


@dataclass(frozen=True)
class SteerConfig(Config):
    """Generate text with and without steering and measure the difference."""

    sae: str = option(
        "last",
        "SAE",
        "Id or name of an SAE, or last; of no matter where only vectors steer.",
        required=True,
        applies=lambda config: _needs_sae(config),
    )
    feature: tuple[str, ...] = option(
        (),
        "Feature",
        "N=VALUE[:OP] with OP add (default), clamp or any other; as --edit. Repeat for several.",
        required=True,
        applies=lambda config: not (config.edit or config.spec or config.replace or config.abort),
    )
    edit: tuple[str, ...] = option(
        (),
        "Edit",
        "SOURCE=VALUE[UNIT][:OP][/LAYERS][>TARGET][?N>LEVEL]; SOURCE is N, SAE#N or @VECTOR, UNIT "
        "max, raw, % or kl, LAYERS further ones that are added to. Repeat for several.",
        advanced=True,
    )
    spec: str = option(
        "", "Specification", "JSON file with edits, positions and norm rule.", advanced=True
    )
    prompt: str = option("", "Prompt", "Text the model continues.", required=True)
    unit: str = option(
        "max",
        "Unit",
        "max: VALUE times the feature's largest activation; raw: the activation itself; percent: "
        "of the median norm of the stream.",
        choices=("max", "raw", "percent"),
    )
    max_tokens: int = option(100, "New tokens", "Tokens to generate.", minimum=1, maximum=2048)
    temperature: float = option(
        0.7, "Temperature", "0 always takes the likeliest token.", minimum=0.0, maximum=2.0
    )
    top_p: float = option(
        0.9,
        "Top-p",
        "Keep the likeliest tokens up to this total probability.",
        minimum=0.01,
        maximum=1.0,
    )
    top_k: int = option(
        50, "Top-k", "Keep this many of the likeliest tokens; 0 keeps all.", minimum=0, maximum=500
    )
    repetition_penalty: float = option(
        1.0, "Repetition penalty", "Above 1 makes repeated tokens rarer.", minimum=0.5, maximum=2.0
    )
    seed: int = option(0, "Seed", "Same seed, same text.", minimum=0, maximum=2**31 - 1)
    positions: str = option(
        "all",
        "Positions",
        "Tokens that are steered: all, prompt, generated, last, first:K, ranges as 0-3,12-, "
        "text:WORDS, regex:PATTERN, role:user; +special and +sinks steer such tokens too.",
    )
    norm: str = option(
        "",
        "Norm",
        "keep: steered tokens keep their length; cap:R: the change is at most R times as long.",
        advanced=True,
    )
    replace: bool = option(
        False,
        "Reconstruction only",
        "Drop what the SAE does not explain; a baseline for reconstruction.",
        advanced=True,
    )
    abort: str = option(
        "", "Abort", "End a text where a feature is above a level, as N>LEVEL.", advanced=True
    )
    mode: str = option(
        "blended",
        "Mode",
        "blended: all edits together; compare: each alone; sweep: all at several strengths; "
        "operators: one source's edit beside its alternatives.",
        choices=("blended", "compare", "sweep", "operators"),
        advanced=True,
    )
    strengths: str = option(
        "0.25,0.5,1,2",
        "Strengths",
        "Factors of a sweep, 2 to 16.",
        advanced=True,
        applies=lambda config: config.mode == "sweep",
    )
    alternative: tuple[str, ...] = option(
        (),
        "Alternative",
        "Another edit of a source that is steered, in its place; as --edit. Repeat for several.",
        advanced=True,
        applies=lambda config: config.mode == "operators",
    )
    samples: int = option(
        1, "Samples", "Texts of each variant.", minimum=1, maximum=10, advanced=True
    )
    presence_penalty: float = option(
        0.0,
        "Presence penalty",
        "Taken off the score of tokens that were generated.",
        minimum=-2.0,
        maximum=2.0,
        advanced=True,
    )
    frequency_penalty: float = option(
        0.0,
        "Frequency penalty",
        "Taken off the score of a token for each time it was generated.",
        minimum=-2.0,
        maximum=2.0,
        advanced=True,
    )
    stop: tuple[str, ...] = option(
        (), "Stop", "A text ends before this string. Repeat for several.", advanced=True
    )
    chat: bool = option(
        False, "Chat template", "The prompt is what a user says to the model.", advanced=True
    )
    time_limit: float = option(
        180.0, "Time limit", "Generation ends then; the text so far is kept.", unit="s", minimum=1.0
    )

    def check(self) -> Iterable[Violation]:
        from mistudio.core.steering_settings import problems

        yield from (Violation(name, sentence) for name, sentence in problems(self))


@dataclass(frozen=True)
class DemoConfig(Config):
    """Run the whole path on the bundled sample."""

    tokens: int = option(1_200_000, "Tokens", "Tokens to train on.", unit="tokens", minimum=20_000)
    seed: int = option(0, "Seed", "Start of every random choice.", minimum=0)
