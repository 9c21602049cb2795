"""Describes a model layer by layer: shapes, types and parameters of what it is made of."""

from __future__ import annotations

from typing import Any

from torch import nn

from mistudio.ml.architecture import Blocks, find_blocks, text_config
from mistudio.ml.quantization import parameter_count, parameter_shape

Described = dict[str, Any]

_MAX_DEPTH = 3  # inside a block: attention or MLP, its layers, experts


def architecture_tree(model: nn.Module) -> list[Described]:
    """Rows for a viewer: index, name, kind, note, shape, dtype, params.

    Blocks have `children` (rows again) and `hooks` (hook name to module path) as well. Each
    parameter counts once, where it is met first; an output matrix that is the embedding has none.
    """
    blocks = find_blocks(model)
    seen: set[int] = set()
    rows = [_row(0, "Embedding", "embedding", blocks.embedding, seen)]
    heads = _heads(model)
    for layer, block in enumerate(blocks.modules):
        row = _row(len(rows), f"Block {layer}", "block", block, seen, children=True)
        row["note"] = ", ".join(part for part in (heads, _mlp(blocks, layer)) if part)
        row["hooks"] = hook_paths(blocks, layer)
        rows.append(row)
    if blocks.final_norm is not None:
        rows.append(_row(len(rows), "Final norm", "norm", blocks.final_norm, seen))
    if blocks.unembedding is not None:
        row = _row(len(rows), "Output", "unembedding", blocks.unembedding, seen)
        if not row["params"]:
            row["note"] = "the embedding's weights"
        rows.append(row)
    return rows


def hook_paths(blocks: Blocks, layer: int) -> dict[str, str]:
    """The hook points that a block offers, with the paths of their modules."""
    paths = {"resid_post": f"{blocks.path}.{layer}"}
    if blocks.mlp[layer] is not None:
        paths["mlp_out"] = blocks.mlp_path[layer]
    if blocks.attention[layer] is not None:
        paths["attn_out"] = blocks.attention_path[layer]
    return paths


def count_weights(model: nn.Module) -> dict[str, int]:
    """Weights by what quantising does to them.

    "linear" are those of linear layers except the output matrix; "others" are all the rest:
    embedding, output, norms, biases, and experts that are kept as one tensor.
    """
    output = getattr(model, "get_output_embeddings", lambda: None)()
    tied = {id(parameter) for parameter in output.parameters()} if output is not None else set()
    linear = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and id(weight) not in tied and _is_linear(module):
            linear += parameter_count(weight)
    total = sum(parameter_count(parameter) for parameter in model.parameters())
    return {"linear": linear, "others": total - linear}


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _row(
    index: int,
    name: str,
    kind: str,
    module: nn.Module,
    seen: set[int],
    *,
    children: bool = False,
    depth: int = 0,
) -> Described:
    own = [p for p in module.parameters() if id(p) not in seen]
    weight = getattr(module, "weight", None)
    row: Described = {
        "index": index,
        "name": name,
        "kind": kind,
        "note": "",
        "shape": parameter_shape(weight) if weight is not None else None,
        "dtype": str(own[0].dtype).removeprefix("torch.") if own else None,
        "params": sum(parameter_count(p) for p in own),
    }
    if children and depth < _MAX_DEPTH:
        row["children"] = _children(module, seen, depth)
    seen.update(id(p) for p in own)
    return row


def _children(module: nn.Module, seen: set[int], depth: int) -> list[Described]:
    rows: list[Described] = []
    for name, child in module.named_children():
        inside = any(True for _ in child.children())
        row = _row(
            len(rows), name, type(child).__name__, child, seen, children=inside, depth=depth + 1
        )
        rows.append(row)
    for name, parameter in module.named_parameters(recurse=False):
        if name not in ("weight", "bias"):  # such as the joint tensor of all experts
            rows.append(
                {
                    "index": len(rows),
                    "name": name,
                    "kind": "tensor",
                    "note": "",
                    "shape": list(parameter.shape),
                    "dtype": str(parameter.dtype).removeprefix("torch."),
                    "params": 0 if id(parameter) in seen else parameter_count(parameter),
                }
            )
    return rows


def _heads(model: nn.Module) -> str:
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", None)
    width = getattr(config, "hidden_size", None)
    if not heads or not width:
        return ""
    size = getattr(config, "head_dim", None) or width // heads
    shared = getattr(config, "num_key_value_heads", None)
    keys = f" ({shared} key/value)" if shared and shared != heads else ""
    return f"{heads} heads × {size}{keys}"


def _mlp(blocks: Blocks, layer: int) -> str:
    """The widths through an MLP, from the shapes of its first and last linear layer."""
    module = blocks.modules[layer]
    inside = blocks.mlp_path[layer].rpartition(".")[2]
    found = next((c for n, c in module.named_children() if n in (inside, "mlp")), None)
    linears = [m for m in (found.modules() if found is not None else ()) if _is_linear(m)]
    widths = [_widths(linear) for linear in linears]
    expert = next(((w, h) for w, h in widths if w != h), None)
    if expert is None:
        return ""
    width, middle = expert
    return f"MLP {width:,} → {middle:,} → {width:,}"


def _widths(linear: nn.Module) -> tuple[int, int]:
    """Numbers in and out of a linear layer."""
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    rows, columns = parameter_shape(linear.weight)
    return rows, columns
