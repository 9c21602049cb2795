"""Checks a model by using it: one forward pass with every hook counted, and what was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mistudio.core.configs import HOOKS
from mistudio.core.errors import Damaged, InvalidInput, StudioError, Unsupported
from mistudio.ml.activations.capture import Capture
from mistudio.ml.activations.multi_capture import HookPoint, MultiCapture
from mistudio.ml.facts import ModelFacts, describe_unusable, quiet_transformers
from mistudio.ml.hooks import INPUT, hook_path
from mistudio.ml.lens import why_no_lens
from mistudio.ml.loading import LoadedModel, tokenizer_fingerprint
from mistudio.ml.module_tree import architecture_tree, count_weights, hook_paths

_PROBE_IDS = 8


@dataclass(frozen=True)
class ModelCheck:
    """What using a model has shown. `weights` counts "linear" ones and "others"."""

    facts: ModelFacts
    params: int
    format: str
    memory_bytes: int
    note: str
    blocks: str
    tree: list[dict[str, Any]]
    hooks: dict[str, str]  # hook points that can be read, with the path in the last block with one
    hooks_why: dict[str, str]  # those that cannot, with the reason
    widths: dict[str, int]  # of what can be read, numbers per token
    weights: dict[str, int]
    tokenizer: str
    lens_why: str  # why there is no logit lens, "" if there is one

    def layer_map(self) -> dict[str, Any]:
        """What is kept in the model's row, as JSON values."""
        return {
            "blocks": self.blocks,
            "tree": self.tree,
            "hooks": self.hooks,
            "hooks_why": self.hooks_why,
            "widths": self.widths,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "lens_why": self.lens_why,
            "fingerprint": self.facts.fingerprint,
        }


def check_model(
    loaded: LoadedModel, step: Callable[[float], None] = lambda _done: None
) -> ModelCheck:
    """Use a loaded model once and read everything from its tensors.

    `step` gets the share done and may raise. Raises `StudioError` if blocks do not run exactly
    once in a pass or the output is no number.
    """
    step(0.0)
    _forward_counted(loaded)
    step(0.3)
    hooks: dict[str, str] = {}
    hooks_why: dict[str, str] = {}
    widths: dict[str, int] = {}
    for hook in HOOKS:
        last = _last_with(loaded, hook)
        try:
            widths[hook] = Capture(loaded, last, hook).d
            hooks[hook] = hook_path(loaded, last, hook)
        except (Unsupported, InvalidInput) as refusal:
            if hook == "resid_post":
                raise
            hooks_why[hook] = refusal.sentence
        step(0.4 + 0.1 * len(hooks))
    for hook in ("mlp_in", "attn_z", "resid_pre", "resid_mid"):
        last = _last_with(loaded, hook)
        try:
            (widths[hook],) = MultiCapture(loaded, [HookPoint(last, hook)]).widths
            hooks[hook] = hook_path(loaded, last, hook).removesuffix(INPUT)
        except StudioError as refusal:
            hooks_why[hook] = refusal.sentence
    step(0.8)
    tree = architecture_tree(loaded.model)
    for row in tree:
        if "hooks" in row:
            row["hooks"] = {h: path for h, path in row["hooks"].items() if h not in hooks_why}
    weights = count_weights(loaded.model)
    lens_why = why_no_lens(loaded)
    step(0.9)
    return ModelCheck(
        facts=loaded.facts,
        params=sum(weights.values()),
        format=loaded.format,
        memory_bytes=loaded.memory_bytes,
        note=loaded.note,
        blocks=loaded.blocks.path,
        tree=tree,
        hooks=hooks,
        hooks_why=hooks_why,
        widths=widths,
        weights=weights,
        tokenizer=tokenizer_fingerprint(loaded.tokenizer),
        lens_why=lens_why,
    )


def _last_with(loaded: LoadedModel, hook: str) -> int:
    """The last block that has a hook, since in hybrid models not all have attention.

    The last block of all where none has it.
    """
    last = len(loaded.blocks) - 1
    found = (n for n in range(last, -1, -1) if hook in hook_paths(loaded.blocks, n))
    return next(found, last)


@torch.inference_mode()
def _forward_counted(loaded: LoadedModel) -> None:
    """One pass over eight tokens in which each block must run exactly once."""
    fired: Counter[int] = Counter()

    def count(layer: int) -> Callable[..., None]:
        def note(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            fired[layer] += 1

        return note

    modules = loaded.blocks.modules
    handles = [block.register_forward_hook(count(i)) for i, block in enumerate(modules)]
    ids_BS = torch.arange(_PROBE_IDS, device=loaded.device)[None] % loaded.facts.vocab_size
    try:
        logits_BSV = loaded.model(input_ids=ids_BS, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    wrong = [layer for layer in range(len(modules)) if fired[layer] != 1]
    if wrong:
        raise StudioError(
            f"Block {wrong[0]} ran {fired[wrong[0]]} times in one pass instead of once; this model "
            "cannot be read there.",
            code="hook_count",
        )
    if not bool(logits_BSV.isfinite().all()):
        if loaded.format == "fp32":
            raise Damaged(
                f"The output of {loaded.facts.name} is not a number; its weights are damaged. Get "
                "the model again."
            )
        raise Unsupported(
            f"In {loaded.format.upper()} this model's output is not a number; choose "
            f"{'BF16' if loaded.format == 'fp16' else 'FP32'}.",
            code="not_finite",
        )


def describe(path: Path) -> tuple[ModelFacts, list[dict[str, Any]]]:
    """What can be shown of a model that cannot be used: facts and, where possible, its tree.

    Built without weights and without code of its repository. Raises as `inspect_model` does for
    missing or damaged files.
    """
    from transformers import AutoConfig, AutoModel

    facts = describe_unusable(path)
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            model = AutoModel.from_config(config, trust_remote_code=False)
            return facts, architecture_tree(model)
    except Exception:  # noqa: BLE001  # any family at all may come here; its facts are enough
        return facts, []
