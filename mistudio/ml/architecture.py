"""Finds the blocks of any decoder-only model by structure."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

from torch import nn

from mistudio.core.configs import MLP_NORMS
from mistudio.core.errors import Unsupported

_ATTENTION_NAMES = ("self_attn", "self_attention", "attention", "attn", "mixer", "linear_attn")
_MLP_NAMES = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "fc2")
# OPT has no module for its MLP: its first linear layer reads what an MLP would read.
_MLP_READERS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "moe", "fc1")
_MIXERS = ("mixer", "linear_attn")  # in place of attention, without heads that attend
# what reads the heads side by side and gives what attention adds to the stream
_PROJECTIONS = ("o_proj", "out_proj", "c_proj", "dense")
# Norms that follow a sublayer, so that their output is what is added to the stream. Llama's
# post_attention_layernorm precedes the MLP; it follows attention only beside an MLP post-norm.
_MLP_POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffn_layernorm")
_ATTENTION_POST_NORMS = ("post_self_attn_layernorm", "post_attention_layernorm")


@dataclass(frozen=True)
class Blocks:
    """Where the parts of a decoder-only model are. Modules are those of the model itself."""

    path: str  # of the block list, such as "model.layers"
    modules: list[nn.Module]  # the blocks in order
    mlp: list[nn.Module | None]  # per block the module whose output is the MLP's contribution
    attention: list[nn.Module | None]  # likewise for attention
    final_norm: nn.Module | None  # between the last block and the unembedding
    unembedding: nn.Module | None  # hidden states to logits
    embedding: nn.Module  # token ids to vectors
    mlp_path: list[str]  # path of each `mlp` module, "" where none was found
    attention_path: list[str]

    def __len__(self) -> int:
        return len(self.modules)


def find_blocks(model: nn.Module) -> Blocks:
    """The block list of a causal language model, found by structure.

    It is the outermost list of modules as long as the configuration says there are layers, else
    the longest list of modules of one class. Raises `Unsupported` if there is none.
    """
    path, blocks = _block_list(model)
    mlp = [_sublayer(block, _MLP_NAMES, _MLP_POST_NORMS, "mlp") for block in blocks]
    attention = [
        _sublayer(block, _ATTENTION_NAMES, _ATTENTION_POST_NORMS, "attn") for block in blocks
    ]
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    if embedding is None:
        raise Unsupported("This model has no token embedding, so it cannot be used here.")
    return Blocks(
        path=path,
        modules=blocks,
        mlp=[module for _, module in mlp],
        attention=[module for _, module in attention],
        final_norm=_final_norm(model, path),
        unembedding=getattr(model, "get_output_embeddings", lambda: None)(),
        embedding=embedding,
        mlp_path=[f"{path}.{i}.{name}" if name else "" for i, (name, _) in enumerate(mlp)],
        attention_path=[
            f"{path}.{i}.{name}" if name else "" for i, (name, _) in enumerate(attention)
        ],
    )


def mlp_reader(blocks: Blocks, layer: int) -> tuple[str, nn.Module] | None:
    """Path and module of a block's MLP, even where a norm follows it; None if there is no MLP."""
    children = dict(blocks.modules[layer].named_children())
    words = ("mlp", "feedforward", "moe")
    kinds = {name: type(child).__name__.lower() for name, child in children.items()}
    named = (name for name in _MLP_READERS if name in children)
    typed = (
        name
        for name, kind in kinds.items()
        if any(word in kind for word in words) and "norm" not in kind
    )
    name = next(chain(named, typed), "")
    return (f"{blocks.path}.{layer}.{name}", children[name]) if name else None


def attention_projection(blocks: Blocks, layer: int) -> tuple[str, nn.Module] | None:
    """Path and module of the layer that leads a block's heads back to the stream, or None.

    It is the attention's own one, even where a norm follows it. Mixers without heads have none.
    """
    for name, child in blocks.modules[layer].named_children():
        if not _is_attention(name, child):
            continue
        for path, module in child.named_modules():
            if path.rpartition(".")[2] in _PROJECTIONS:
                return f"{blocks.path}.{layer}.{name}.{path}", module
    return None


def reader_between(blocks: Blocks, layer: int) -> str:
    """Path of what reads the stream behind a block's attention: the norm before the MLP, or the MLP
    itself; "" if there is no MLP."""
    children = dict(blocks.modules[layer].named_children())
    ends_in_norm = any(name in children for name in _MLP_POST_NORMS)
    fitting = (name for name in MLP_NORMS if name in children)
    name = next((n for n in fitting if n != "post_attention_layernorm" or not ends_in_norm), "")
    if name:
        return f"{blocks.path}.{layer}.{name}"
    found = mlp_reader(blocks, layer)
    return found[0] if found else ""


def _is_attention(name: str, module: nn.Module) -> bool:
    kind = type(module).__name__.lower()
    return "norm" not in kind and name not in _MIXERS and ("attn" in kind or "attention" in kind)


def text_config(model: nn.Module) -> Any:
    """The configuration of a model's text part, or None."""
    config = getattr(model, "config", None)
    return config.get_text_config() if config is not None else None


def _block_list(model: nn.Module) -> tuple[str, list[nn.Module]]:
    wanted = getattr(text_config(model), "num_hidden_layers", None)
    outer: list[tuple[str, list[nn.Module]]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        if any(name.startswith(path + ".") for path, _ in outer):
            continue  # inside another list: experts or heads of a block
        outer.append((name, list(module)))
    candidates = [entry for entry in outer if len(entry[1]) == wanted]
    if not candidates:
        candidates = [entry for entry in outer if len({type(m) for m in entry[1]}) == 1]
    if not candidates:
        raise Unsupported(
            "No repeated blocks were found in this model; a left-to-right transformer is needed.",
            code="no_blocks",
        )
    # A vision tower may have as many blocks as the text; the text's stand beside its embedding.
    embedding = _path_of(model, getattr(model, "get_input_embeddings", lambda: None)())
    return max(
        candidates,
        key=lambda entry: (_shared(entry[0], embedding), len(entry[1]), _parameters(entry[1])),
    )


def _path_of(model: nn.Module, wanted: nn.Module | None) -> str:
    return next((path for path, module in model.named_modules() if module is wanted), "")


def _shared(one: str, other: str) -> int:
    """How many parts two paths have in common from their beginning."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _parameters(modules: list[nn.Module]) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def _sublayer(
    block: nn.Module, names: tuple[str, ...], post_norms: tuple[str, ...], kind: str
) -> tuple[str, nn.Module | None]:
    children = dict(block.named_children())
    has_mlp_post_norm = any(name in children for name in _MLP_POST_NORMS)
    for name in post_norms:
        if name in children and (name != "post_attention_layernorm" or has_mlp_post_norm):
            return name, children[name]
    for name in names:
        if name in children:
            return name, children[name]
    words = ("mlp", "feedforward", "moe") if kind == "mlp" else ("attention", "attn")
    for name, child in children.items():
        cls = type(child).__name__.lower()
        if any(word in cls for word in words) and "norm" not in cls:
            return name, child
    return "", None


def _final_norm(model: nn.Module, path: str) -> nn.Module | None:
    """The norm that is a sibling of the block list, found by class name; the last one counts.

    One that the embedding's name is in stands before the blocks (BLOOM), unless it is the only one
    (LFM2).
    """
    parent = model.get_submodule(path.rpartition(".")[0])
    norms = [
        (name, child)
        for name, child in parent.named_children()
        if "norm" in type(child).__name__.lower() or isinstance(child, nn.LayerNorm)
    ]
    behind = [child for name, child in norms if "emb" not in name.lower()]
    return (behind or [child for _, child in norms] or [None])[-1]
