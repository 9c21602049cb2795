"""SAE files as other programs write them, made by hand, and what those programs compute.

The computations are float64 and share no code with the readers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

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
