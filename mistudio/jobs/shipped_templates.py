"""The templates that come with the program, and how those that scale meet a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from mistudio.core.config import to_dict
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.store.records import TemplateRow

EXPANSION = "expansion"
DEPTHS = "depths"


class Shipped(NamedTuple):
    """A template as it is stored; `config` may hold an expansion and depths beside settings."""

    kind: str
    name: str
    description: str
    config: dict[str, Any]
    is_favorite: bool = False


def _training(
    rate: float, expansion: int, steps: int, batch: int, schedule: str, *depths: float
) -> dict[str, Any]:
    config = TrainConfig(
        learning_rate=rate,
        tokens=steps * batch,
        batch=batch,
        decay_share=0.0 if schedule == "constant" else TrainConfig().decay_share,
    )
    return {**to_dict(config), "schedule": schedule, EXPANSION: expansion, DEPTHS: list(depths)}


SHIPPED = (
    Shipped(
        "extraction",
        "Quick Scan",
        "The residual stream of an early, a middle and a late layer on 5,000 rows.",
        to_dict(ExtractConfig(layers="0,6,11", hooks=("resid_post",), rows=5000, top_k=50)),
    ),
    Shipped(
        "extraction",
        "Full Analysis",
        "Every hook of the first twelve layers on all rows.",
        to_dict(
            ExtractConfig(
                layers="0-11",
                hooks=("resid_post", "mlp_out", "attn_out", "mlp_in"),
                rows=0,
                top_k=100,
            )
        ),
    ),
    Shipped(
        "training",
        "Large Expansion",
        "16 latents per dimension at 40 % of the depth: 50,000 steps of 4,096 tokens.",
        _training(3e-4, 16, 50_000, 4096, "linear", 0.4),
    ),
    Shipped(
        "training",
        "High Quality",
        "8 latents per dimension at 25, 50 and 75 % of the depth: 50,000 steps of 4,096 tokens.",
        _training(3e-4, 8, 50_000, 4096, "cosine", 0.25, 0.5, 0.75),
        is_favorite=True,
    ),
    Shipped(
        "training",
        "Fast Prototyping",
        "4 latents per dimension at half the depth: 5,000 steps of 1,024 tokens.",
        _training(5e-4, 4, 5_000, 1024, "constant", 0.5),
        is_favorite=True,
    ),
)


class Scaling(NamedTuple):
    """What a template leaves to the model: latents per dimension, shares of the depth."""

    expansion: int = 0
    depths: tuple[float, ...] = ()


def scaling_of(row: TemplateRow) -> Scaling:
    """The expansion and the depths of a template; none if its settings are complete."""
    depths: Any = row.config.get(DEPTHS) or ()
    return Scaling(int(row.config.get(EXPANSION) or 0), tuple(float(share) for share in depths))


def fitted(scaling: Scaling, hidden_dim: int | None, layers: int | None) -> Mapping[str, Any]:
    """Settings that follow from a model: width, layers and, of these, the middle one."""
    found: dict[str, Any] = {}
    if scaling.expansion and hidden_dim:
        found["width"] = scaling.expansion * hidden_dim
    if scaling.depths and layers:
        # halves go up: half of five blocks is the third
        chosen = [max(0, int(share * layers + 0.5) - 1) for share in scaling.depths]
        found["layer"] = chosen[len(chosen) // 2]
        found["layers"] = ",".join(str(layer) for layer in dict.fromkeys(chosen))
    return found
