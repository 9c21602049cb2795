"""SAE files as other programs write them, made by hand, and what those programs compute.

The computations are float64 and share no code with the readers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mistudio.ml.sae.base import SparseAutoencoder

D, M, K = 16, 64, 5


def random(*shape: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parts(*, unit: bool = True) -> dict[str, torch.Tensor]:
    """W_enc [D, M], b_enc, W_dec [M, D], b_dec; rows of W_dec of length 1, or of any."""
    W_dec = torch.nn.functional.normalize(random(M, D, seed=1), dim=1)
    return {
        "W_enc": W_dec.T.contiguous() + random(D, M, seed=2, scale=0.05),
        "b_enc": random(M, seed=3, scale=0.1),
        "W_dec": W_dec if unit else W_dec * torch.linspace(0.4, 2.5, M)[:, None],
        "b_dec": random(D, seed=4),
    }


def inputs() -> torch.Tensor:
    """x [50, D]."""
    return random(50, D, seed=5, scale=2.0)


def pre_activations(p: dict[str, torch.Tensor], x: torch.Tensor, *, subtract: bool) -> torch.Tensor:
    d = {name: tensor.double() for name, tensor in p.items()}
    x = x.double() - d["b_dec"] if subtract else x.double()
    return x @ d["W_enc"] + d["b_enc"]


def decoded(p: dict[str, torch.Tensor], f: torch.Tensor) -> torch.Tensor:
    return f @ p["W_dec"].double() + p["b_dec"].double()


def kept_top_k(h: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest of ReLU(h) in each row, the rest 0; by sorting."""
    f = h.clamp(min=0)
    least = f.sort(dim=1, descending=True).values[:, k - 1 : k]
    return torch.where(f >= least, f, torch.zeros_like(f))


def kept_group_max(h: torch.Tensor, k: int) -> torch.Tensor:
    """The largest of each of k runs of ReLU(h) in each row, the rest 0; run by run."""
    f = torch.zeros_like(h)
    length = h.shape[1] // k
    for row in range(len(h)):
        for first in range(0, h.shape[1], length):
            best = first + int(h[row, first : first + length].argmax())
            f[row, best] = h[row, best].clamp(min=0)
    return f


def rows_to_pursue(*, unit: bool = True) -> torch.Tensor:
    """W_dec [M, D]; longer than the root of 2 none may be, or what is left over grows."""
    W_dec = parts()["W_dec"]
    return W_dec if unit else W_dec * torch.linspace(0.6, 1.3, M)[:, None]


def kept_by_pursuit(
    x: torch.Tensor,
    rows: torch.Tensor,
    least: float = 1e-2,
    steps: int | None = None,
    *,
    once: bool = True,
) -> torch.Tensor:
    """What a matching pursuit makes of x [B, D] with rows [M, D], token by token, step by step."""
    rows, f = rows.double(), torch.zeros(len(x), len(rows), dtype=torch.float64)
    for token in range(len(x)):
        left, seen = x[token].double().clone(), set[int]()
        for _ in range(steps or x.shape[1]):
            products = [float(row @ left) for row in rows]
            best = products.index(max(products))
            if products[best] <= 0:
                break
            f[token, best] += products[best]
            left -= products[best] * rows[best]
            if (once and best in seen) or float(left.norm()) < least:
                break
            seen.add(best)
    return f


def kept_above(h: torch.Tensor, threshold: torch.Tensor | float) -> torch.Tensor:
    """h where it exceeds the threshold and 0, else 0."""
    over = h > torch.as_tensor(threshold, dtype=torch.float64)
    return torch.where(over & (h > 0), h, torch.zeros_like(h))


def agrees(sae: SparseAutoencoder, f: torch.Tensor, p: dict[str, torch.Tensor]) -> None:
    """The SAE selects what `f` selects and reconstructs the same, to rounding."""
    x = inputs()
    lengths = p["W_dec"].double().norm(dim=1)
    ours = sae.encode(x)
    assert torch.equal(ours > 0, f > 0)
    assert 0 < (f > 0).double().mean() < 0.9
    scale = lengths / sae.W_dec_FO.double().norm(dim=1)  # 1 where the reader kept the lengths
    assert (ours.double() - f * scale).abs().max() <= 3e-6 * (f * scale).abs().max()
    y = decoded(p, f)
    assert (sae.reconstruct(x).double() - y).abs().max() <= 3e-6 * y.abs().max()


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


HEADS, KEYS = 2, 8  # of a temporal SAE's layer: heads, and the width of its keys


def texts() -> torch.Tensor:
    """The tokens of `inputs` as 5 texts of 10 tokens: x [5, 10, D]."""
    return inputs().view(5, 10, D)


def temporal_parts(
    *, layers: int = 1, tied: bool = True, unit: bool = True, width: int = D
) -> dict[str, torch.Tensor]:
    """The tensors of a temporal SAE by SAELens's names; of another width it is tied."""
    p = parts(unit=unit)
    found = {"W_dec": p["W_dec"], "b_dec": p["b_dec"]}
    if width != D:
        W_dec = torch.nn.functional.normalize(random(M, width, seed=1), dim=1)
        found = {"W_dec": W_dec, "b_dec": random(width, seed=4, scale=0.1)}
    elif not tied:
        found["W_enc"] = p["W_enc"]
    shapes = {"k_ctx": (KEYS, M), "q_target": (KEYS, M), "v_ctx": (M, M), "c_proj": (M, M)}
    for layer in range(layers):
        for number, (name, shape) in enumerate(shapes.items()):
            seed = 20 + 10 * layer + number
            stem = f"attn_layers.{layer}.{name}"
            found[f"{stem}.weight"] = random(*shape, seed=seed, scale=0.6)
            found[f"{stem}.bias"] = random(shape[0], seed=seed + 5, scale=0.3)
    return found


def temporal_by_hand(
    z: torch.Tensor, tensors: dict[str, torch.Tensor], *, k: int | None, layers: int = 1
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of its own [B, S, M] and what a temporal SAE expects [B, S, d] of z = x - b_dec.

    Text by text, token by token, head by head; before the first token stands one of no latents.
    """
    p = {name: tensor.double() for name, tensor in tensors.items()}
    W_dec, W_enc = p["W_dec"], p.get("W_enc", p["W_dec"].T)
    z, factor = z.double(), 1 / (4 * z.shape[-1])
    f = torch.zeros(*z.shape[:2], M, dtype=torch.float64)
    expected = torch.zeros_like(z)
    for text in range(len(z)):
        left = z[text].clone()
        for layer in range(layers):
            stem = f"attn_layers.{layer}"

            def told(name: str, of: torch.Tensor, stem: str = stem) -> torch.Tensor:
                return p[f"{stem}.{name}.weight"] @ of + p[f"{stem}.{name}.bias"]

            latents = (factor * left @ W_enc).clamp(min=0)
            before = [torch.zeros(M, dtype=torch.float64), *latents[:-1]]
            given = []
            for token in range(z.shape[1]):
                heads = []
                for head in range(HEADS):
                    keys = slice(head * KEYS // HEADS, (head + 1) * KEYS // HEADS)
                    values = slice(head * M // HEADS, (head + 1) * M // HEADS)
                    query = told("q_target", latents[token])[keys]
                    seen = before[: token + 1]
                    scores = torch.stack([query @ told("k_ctx", one)[keys] for one in seen])
                    weights = (scores / (KEYS // HEADS) ** 0.5).softmax(0)
                    told_values = torch.stack([told("v_ctx", one)[values] for one in seen])
                    heads.append(weights @ told_values)
                out = told("c_proj", torch.cat(heads)).clamp(min=0)
                given.append(out @ W_dec)
            for token, direction in enumerate(given):
                length = direction.norm() + 1e-6
                part = (direction @ left[token]) / length**2 * direction
                expected[text, token] += part
                left[token] -= part
        h = factor * left @ W_enc
        f[text] = h.clamp(min=0) if k is None else kept_top_k(h, k)
    return f, expected


def written_temporal(
    folder: Path, tensors: dict[str, torch.Tensor] | None = None, **config: Any
) -> Path:
    """A folder with a temporal SAE as SAELens writes it."""
    tensors = temporal_parts() if tensors is None else tensors
    told = {
        "architecture": "temporal",
        "d_in": D,
        "d_sae": M,
        "dtype": "float32",
        "n_heads": HEADS,
        "n_attn_layers": 1,
        "bottleneck_factor": M // KEYS,
        "sae_diff_type": "topk",
        "kval_topk": K,
        "tied_weights": "W_enc" not in tensors,
        "apply_b_dec_to_input": True,
        "metadata": {"sae_lens_version": "6.54.12"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps({**told, **config}))
    save_file(tensors, folder / "sae_weights.safetensors")
    return folder
