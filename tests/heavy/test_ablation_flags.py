"""How often a random feature is called selective, none being special: `pytest -m heavy`."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mistudio.core.analysis_configs import AblateConfig
from mistudio.ml.data.text import TextStore
from mistudio.ml.features import controls
from mistudio.ml.features.ablation import AblationSettings, Ablator
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens
from tests.ml_features.conftest import HOOK, LAYER, Workbench, random_sae

pytestmark = pytest.mark.heavy

LATENTS, DRAWS = 1200, 4


def many_directions(bench: Workbench) -> SparseAutoencoder:
    """As the workbench's SAE, with `LATENTS` random directions and a twentieth let through."""
    from mistudio.ml.activations.capture import Capture

    generator = torch.Generator().manual_seed(11)
    W_dec_FO = torch.randn(LATENTS, bench.loaded.hidden_dim, generator=generator)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    ids_BS = torch.from_numpy(bench.tokens.ids[:16].astype("int64"))
    x_TD = Capture(bench.loaded, LAYER, HOOK)(ids_BS).flatten(0, 1).clone()
    h_TF = (x_TD - bench.sae.b_dec_O) @ W_dec_FO.T
    return dataclasses.replace(
        bench.sae,
        W_enc_DF=W_dec_FO.T.contiguous(),
        b_enc_F=torch.zeros(LATENTS),
        W_dec_FO=W_dec_FO,
        threshold_F=torch.quantile(h_TF, 0.95, dim=0).clamp_min(0),
    )


def test_random_features_are_rarely_called_selective(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = tiny_loaded(tmp_path / "model")
    tokens = write_tokens(tmp_path / "data", STORIES, loaded.tokenizer, 40, start_token="on")
    bench = Workbench(loaded, random_sae(loaded, tokens), tokens, TextStore(tmp_path / "data"))
    bench = bench._replace(sae=many_directions(bench))
    bench.harvest(tmp_path / "store", context=32, rows=200, top_k=8)
    store = FeatureStore(tmp_path / "store")
    made = Ablator(
        Rerun(loaded, LAYER, HOOK), bench.sae, store, AblationSettings(windows=4, tokens=32)
    )
    live = np.flatnonzero(store.statistics["count"] > 0).tolist()
    effects = {e.feature: e.top["delta_ce"] for e in made.effects(live, random=False)}
    strengths_F, counts_F = made.strengths(), store.statistics["count"]
    judged = flagged = 0
    for feature, seed in itertools.product(live, range(DRAWS)):
        others = controls.matched(counts_F, strengths_F, feature, AblateConfig().controls, seed)
        place = controls.standing(effects[feature], [effects[o] for o in others])
        judged += place.controls >= controls.LEAST
        flagged += place.selective
    with capsys.disabled():
        share = f"{100 * flagged / judged:.1f} %"
        sys.stdout.write(
            f"\n{flagged} of {judged} verdicts on random features selective: {share}\n"
        )
    assert judged > 0.8 * DRAWS * len(live)
    assert flagged / judged <= controls.SELECTIVE  # 3.3 % by construction
