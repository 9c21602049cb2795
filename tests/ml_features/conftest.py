"""A tiny model, an SAE on its second block, and text tokenised for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.events import RecordingReporter
from mistudio.ml.activations.capture import Capture
from mistudio.ml.data.text import TextStore
from mistudio.ml.data.token_store import TokenStore
from mistudio.ml.features.harvest import HarvestSettings, harvest
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from tests.helpers.tiny import STORIES, tiny_loaded, write_tokens

LAYER, HOOK, LATENTS = 1, "resid_post", 48


class Workbench(NamedTuple):
    """All that a harvest needs."""

    loaded: LoadedModel
    sae: SparseAutoencoder
    tokens: TokenStore
    text: TextStore

    def harvest(self, folder: Path, **settings: Any) -> Any:
        """Harvest into `folder`; settings may name a control as `control`."""
        control = settings.pop("control", None) or JobControl()
        report = settings.pop("report", None) or RecordingReporter()
        return harvest(
            self.loaded,
            self.sae,
            LAYER,
            HOOK,
            self.tokens,
            self.text,
            HarvestSettings(**{"context": 16, "rows": 150, "top_k": 4, **settings}),
            folder,
            report,
            control,
        )


def random_sae(loaded: LoadedModel, tokens: TokenStore) -> SparseAutoencoder:
    """An SAE with random directions whose thresholds let about a tenth through."""
    generator = torch.Generator().manual_seed(3)
    W_dec_FO = torch.randn(LATENTS, loaded.hidden_dim, generator=generator)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    x_BSD = Capture(loaded, LAYER, HOOK)(torch.from_numpy(tokens.ids[:8].astype("int64")))
    b_dec_O = x_BSD.flatten(0, 1).mean(0).clone()
    h_TF = (x_BSD.flatten(0, 1) - b_dec_O) @ W_dec_FO.T
    threshold_F = torch.quantile(h_TF, 0.9, dim=0).clamp_min(0).clone()
    threshold_F[5] = 1e9  # a dead latent
    return SparseAutoencoder(
        W_dec_FO.T.contiguous(),
        torch.zeros(LATENTS),
        W_dec_FO,
        b_dec_O,
        "jumprelu",
        threshold_F=threshold_F,
    )


@pytest.fixture(scope="session")
def workbench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    folder = tmp_path_factory.mktemp("features")
    loaded = tiny_loaded(folder / "model")
    texts = [*STORIES, "naïve café 🦊🦊 ends here, said the crow." * 3]
    tokens = write_tokens(folder / "data", texts, loaded.tokenizer, 40, start_token="on")
    return Workbench(loaded, random_sae(loaded, tokens), tokens, TextStore(folder / "data"))
