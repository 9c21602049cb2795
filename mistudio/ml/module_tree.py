"""Describes a model layer by layer: shapes, types and parameters of what it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from mistudio.ml.architecture import (
    Blocks,
    attention_projection,
    find_blocks,
    mlp_reader,
    reader_between,
    text_config,
)
from mistudio.ml.quantization import parameter_count, parameter_shape

Described = dict[str, Any]

_MAX_DEPTH = 3  # inside a block: attention or MLP, its layers, experts


def architecture_tree(model: nn.Module) -> list[Described]:
    """Rows for a viewer: index, name, kind, note, shape, dtype, params.

    Blocks have `children` (rows again) and `hooks` (hook name to module path) as well. Each
    parameter counts once, where it is met first; an output matrix that is the embedding has none.
    What is neither embedding, block, final norm nor output (positions, projections, a vision
    tower) has rows too, so that the rows add up to the model.
    """
    blocks = find_blocks(model)
    seen: set[int] = set()
    rows = [_row(0, "Embedding", "embedding", blocks.embedding, seen)]
    known = {id(p) for part in _named_parts(blocks) for p in part.parameters()}
    others = list(_other_parts(model, "", known))
    for path, part in others:
        if isinstance(part, nn.Embedding):
            positions = "pos" in path or path.endswith("wpe")
            name = "Position embedding" if positions else path.rpartition(".")[2]
            rows.append(_row(len(rows), name, "embedding", part, seen))
    heads = _heads(model)
    for layer, block in enumerate(blocks.modules):
        row = _row(len(rows), f"Block {layer}", "block", block, seen, children=True)
        row["note"] = ", ".join(part for part in (heads, _mlp(model, blocks, layer)) if part)
        row["hooks"] = hook_paths(blocks, layer)
        rows.append(row)
    if blocks.final_norm is not None:
        rows.append(_row(len(rows), "Final norm", "norm", blocks.final_norm, seen))
    if blocks.unembedding is not None:
        row = _row(len(rows), "Output", "unembedding", blocks.unembedding, seen)
        if not row["params"]:
            row["note"] = "the embedding's weights"
        rows.append(row)
    for path, part in others:
        if not isinstance(part, nn.Embedding):
            name = path.rpartition(".")[2]
            inside = any(True for _ in part.children())
            rows.append(_row(len(rows), name, type(part).__name__, part, seen, children=inside))
    return rows


def _named_parts(blocks: Blocks) -> list[nn.Module]:
    ends = (blocks.final_norm, blocks.unembedding)
    return [blocks.embedding, *blocks.modules, *(part for part in ends if part is not None)]


def _other_parts(module: nn.Module, path: str, known: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Path and module of the largest parts that hold parameters, but none of the known ones."""
    ids = {id(p) for p in module.parameters()}
    if not ids or ids <= known:
        return
    if not ids & known:
        yield path, module
        return
    for name, child in module.named_children():
        yield from _other_parts(child, f"{path}.{name}" if path else name, known)


def hook_paths(blocks: Blocks, layer: int) -> dict[str, str]:
    """The hook points that a block offers, with the paths of their modules."""
    paths = {"resid_post": f"{blocks.path}.{layer}"}
    if blocks.mlp[layer] is not None:
        paths["mlp_out"] = blocks.mlp_path[layer]
    if blocks.attention[layer] is not None:
        paths["attn_out"] = blocks.attention_path[layer]
    if (reader := mlp_reader(blocks, layer)) is not None:
        paths["mlp_in"] = reader[0]
    if (projection := attention_projection(blocks, layer)) is not None:
        paths["attn_z"] = projection[0]
    paths["resid_pre"] = paths["resid_post"]
    if {"mlp_out", "attn_out"} <= set(paths):
        paths["resid_mid"] = reader_between(blocks, layer)
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


def _mlp(model: nn.Module, blocks: Blocks, layer: int) -> str:
    """The widths through an MLP and through its experts, by what leads back to the stream."""
    config = text_config(model)
    width = getattr(config, "hidden_size", None)
    found = mlp_reader(blocks, layer)
    if found is None or not width:
        return ""
    parts = dict(found[1].named_modules())
    experts = next((part for name, part in parts.items() if name.endswith("experts")), None)
    of_experts = {id(part) for part in experts.modules()} if experts is not None else set()
    own = [part for part in parts.values() if id(part) not in of_experts]
    own += [part for part in (blocks.mlp[layer],) if part is not None and part is not found[1]]
    texts: list[str] = []
    if experts is not None and (several := _experts(experts, width)):
        count, middle = several
        used = getattr(config, "num_experts_per_tok", None)
        texts.append(f"{count:,} experts" + (f" ({used} per token)" if used else ""))
        texts.append(f"each {width:,} → {middle:,} → {width:,}")
    if middle := _middle(own, width):
        word = "shared MLP" if texts else "MLP"
        texts.append(f"{word} {width:,} → {middle:,} → {width:,}")
    return ", ".join(texts)


def _middle(modules: Iterable[nn.Module], width: int) -> int:
    """Numbers that the last linear layer giving `width` ones reads, 0 if there is none."""
    sides = [_widths(module) for module in modules if _is_linear(module)]
    return next((read for read, given in reversed(sides) if given == width), 0)


def _experts(experts: nn.Module, width: int) -> tuple[int, int] | None:
    """How many experts there are, and the width inside one."""
    if isinstance(experts, nn.ModuleList):
        middle = _middle(experts[0].modules(), width) if len(experts) else 0
        return (len(experts), middle) if middle else None
    joint = [p.shape for p in experts.parameters() if p.ndim == 3]  # [experts, …, …]
    if not joint or width not in joint[-1][1:]:
        return None
    sides = list(joint[-1][1:])  # the last one leads back to the stream
    sides.remove(width)
    return joint[-1][0], sides[0]


def _widths(linear: nn.Module) -> tuple[int, int]:
    """Numbers in and out of a linear layer."""
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    rows, columns = parameter_shape(linear.weight)
    return rows, columns
