"""Features of a transcoder: read at its input, of the tokens that counted in its training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.ml.features.feature_store import EXTREME, KEPT, FeatureStore
from mistudio.ml.features.harvest import HarvestSettings, harvest
from mistudio.ml.sae.base import SparseAutoencoder
from tests.ml_features.conftest import LATENTS, LAYER, Workbench


def made(workbench: Workbench, **metadata: float) -> SparseAutoencoder:
    sae = workbench.sae
    width = sae.d_in
    return replace(
        sae,
        threshold_F=torch.full((LATENTS,), 0.3),
        apply_b_dec_to_input=False,
        encoder="skip_transcoder",
        W_skip_OD=torch.eye(width),
        metadata=metadata,
    )


def harvested(workbench: Workbench, sae: SparseAutoencoder, folder: Path) -> FeatureStore:
    harvest(
        workbench.loaded, sae, LAYER, "mlp_in", workbench.tokens, workbench.text,
        HarvestSettings(context=16, rows=60, top_k=4), folder, RecordingReporter(), JobControl(),
        "mlp_out",
    )  # fmt: skip
    return FeatureStore(folder)


def both_sides(workbench: Workbench, store: FeatureStore) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and output of the MLP [rows, length, D] by a hook of the test's own."""
    seen: list[list[torch.Tensor]] = []
    mlp = workbench.loaded.model.model.layers[LAYER].mlp
    handle = mlp.register_forward_hook(lambda _m, x, y: seen.append([x[0][0], y[0]]))
    length = store.row_length
    pairs = []
    for row, start in np.load(store.folder / "rows.npy"):
        ids = torch.from_numpy(workbench.tokens.ids[row, start : start + length].astype("int64"))
        with torch.inference_mode():
            workbench.loaded.model(ids[None])
        pad = (0, 0, 0, length - len(ids))
        pairs.append([torch.nn.functional.pad(t, pad) for t in seen.pop()])
    handle.remove()
    x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
    return x, y


def test_activations_are_those_of_the_input(workbench: Workbench, tmp_path: Path) -> None:
    sae = made(workbench)
    store = harvested(workbench, sae, tmp_path / "fs")
    x_RSD, _ = both_sides(workbench, store)
    mask = np.load(store.folder / "mask.npy").reshape(x_RSD.shape[:2])
    f = sae.encode(x_RSD.flatten(0, 1)).numpy()
    f[(mask != KEPT).reshape(-1)] = 0
    assert (f > 0).mean() > 0.01
    found = np.zeros_like(f)
    for feature in range(LATENTS):
        tokens, values = store.entries(feature)
        found[tokens, feature] = values
    differ = (found > 0) != (f > 0)
    assert differ.sum() <= 2  # a value within rounding of its threshold
    np.testing.assert_allclose(found[~differ], f[~differ], rtol=2e-3)


def test_a_token_that_is_extreme_behind_the_mlp_does_not_count(
    workbench: Workbench, tmp_path: Path
) -> None:
    plain = harvested(workbench, made(workbench), tmp_path / "plain")
    x_RSD, y_RSD = both_sides(workbench, plain)
    kept = torch.from_numpy(np.load(plain.folder / "mask.npy").reshape(x_RSD.shape[:2]) == KEPT)
    norm_RS = y_RSD.norm(dim=2)
    limit = float(norm_RS[kept].quantile(0.7))
    sae = made(workbench, median_norm=1e6, median_norm_out=limit / 10)
    store = harvested(workbench, sae, tmp_path / "cut")
    mask = torch.from_numpy(np.load(store.folder / "mask.npy").reshape(x_RSD.shape[:2]))
    assert torch.equal(mask == EXTREME, kept & (norm_RS > limit))
    assert store.kept_tokens == int((kept & (norm_RS <= limit)).sum())
