"""Texts that are easily spoilt on their way to a page, and a feature store read from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mistudio.core.control import JobControl
from mistudio.core.events import SilentReporter
from tests.helpers.tiny import tiny_loaded, write_tokens

if TYPE_CHECKING:
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.features.examples import Example
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.sae.base import SparseAutoencoder

ODD_TEXTS = [
    "<script>alert('1')</script> <b>bold</b> & &amp; \"quoted\" 'single' </article><!-- ",
    "function f() {\n\treturn a < b && c > d;\n\t\t// tabs\r\n}\n\n\nend",
    "زمان یک قصه بود. שלום עולם and back to English (נכון)؟",
    "naïve café — 🦊👩‍👩‍👧‍👦🇩🇪👍🏽 e\u0301 ends",
    "日本語のテキスト、句読点。中文没有空格的句子也要完整",
    "x" * 400 + " " + "long" * 90,
    "nul \0 bell \x07 next\x85line separator\u2028 bom \ufeff zero\u200bwidth nbsp\u00a0here",
    "javascript:alert(1) http://example.com/a.png <img src=http://example.com onerror=x>",
]


def odd_store(folder: Path, latents: int = 8) -> tuple[FeatureStore, TextStore, SparseAutoencoder]:
    """Features of a random SAE over the texts above, where about a third of all fire."""
    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.data.text import TextStore
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.features.harvest import HarvestSettings, harvest
    from mistudio.ml.sae.base import SparseAutoencoder

    loaded = tiny_loaded(folder / "model")
    tokens = write_tokens(folder / "data", ODD_TEXTS, loaded.tokenizer, 48, start_token="on")
    texts = TextStore(folder / "data")
    generator = torch.Generator().manual_seed(5)
    W_dec_FO = torch.nn.functional.normalize(
        torch.randn(latents, loaded.hidden_dim, generator=generator), dim=1
    )
    x_TD = Capture(loaded, 1, "resid_post")(torch.from_numpy(tokens.ids[:].astype("int64")))
    x_TD = x_TD.flatten(0, 1)
    middle_O = x_TD.mean(0).clone()
    h_TF = (x_TD - middle_O) @ W_dec_FO.T
    threshold_F = torch.quantile(h_TF, 0.7, dim=0).clamp_min(0).clone()
    threshold_F[4] = 1e9  # a dead latent
    sae = SparseAutoencoder(
        W_dec_FO.T.contiguous(),
        torch.zeros(latents),
        W_dec_FO,
        middle_O,
        "jumprelu",
        threshold_F=threshold_F,
    )
    settings = HarvestSettings(context=48, rows=200, top_k=20)
    harvest(
        loaded,
        sae,
        1,
        "resid_post",
        tokens,
        texts,
        settings,
        folder / "store",
        SilentReporter(),
        JobControl(),
    )
    return FeatureStore(folder / "store"), texts, sae


def documents_of(store: FeatureStore, example: Example) -> dict[int, str]:
    """What an example shows of each document that its window touches."""
    docs = store._text.tokens.docs[example.token_row]
    shown: dict[int, str] = {}
    for piece in example.pieces:
        if piece.text:
            document = int(docs[piece.lo])
            shown[document] = shown.get(document, "") + piece.text
    return shown
