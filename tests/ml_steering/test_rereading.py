"""What the unsteered model's features say of a text, against encoding each token by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mistudio.ml.formats.saelens import read_saelens
from mistudio.ml.hooks import first_tensor
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.rereading import reread, reread_texts
from tests.ml_formats.foreign_files import temporal_by_hand, temporal_parts, written_temporal
from tests.ml_steering.conftest import LAYER, random_sae

PROMPT, IDS = [5, 6, 7], [20, 21, 22, 23]


@pytest.mark.parametrize("architecture", ["standard", "topk", "groupmax", "matching_pursuit"])
def test_means_over_generated_tokens_only(llama: LoadedModel, architecture: str) -> None:
    sae = random_sae(architecture)
    found = reread(llama, sae, LAYER, "resid_post", [3, 17, 30], PROMPT, IDS)
    block = llama.blocks.modules[LAYER]
    before = len(block._forward_hooks)
    seen = []
    handle = block.register_forward_hook(lambda *values: seen.append(values[2]))
    with torch.inference_mode():
        for end in range(len(PROMPT) + 1, len(PROMPT) + len(IDS) + 1):  # token by token
            llama.model(torch.tensor([[*PROMPT, *IDS][:end]]), use_cache=False)
    handle.remove()
    rows = [x[0] if isinstance(x, tuple) else x for x in seen]
    expected = torch.stack([sae.encode(x_1SD[0])[-1] for x_1SD in rows]).mean(0)[[3, 17, 30]]
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert any(found)
    assert len(block._forward_hooks) == before


def test_a_temporal_sae_reads_the_prompt_too(llama: LoadedModel, tmp_path: Path) -> None:
    parts = temporal_parts(width=32)
    sae, _ = read_saelens(written_temporal(tmp_path, parts, d_in=32, kval_topk=20))
    texts = [IDS, IDS[:2]]
    found = reread_texts(llama, sae, LAYER, "resid_post", [3, 17, 30], PROMPT, texts)
    block = llama.blocks.modules[LAYER]
    for ids, means in zip(texts, found, strict=True):
        seen: list[torch.Tensor] = []
        handle = block.register_forward_hook(lambda *v, seen=seen: seen.append(first_tensor(v[2])))
        with torch.inference_mode():
            llama.model(torch.tensor([[*PROMPT, *ids]]), use_cache=False)
        handle.remove()
        f, _ = temporal_by_hand(seen[0].double() - parts["b_dec"].double(), parts, k=20)
        expected = f[0, len(PROMPT) :].mean(0)[[3, 17, 30]]
        assert means == pytest.approx(expected.tolist(), abs=1e-5)
        assert any(means or [])


def test_nothing_generated_is_nothing_read(llama: LoadedModel) -> None:
    assert reread(llama, random_sae(), LAYER, "resid_post", [1], PROMPT, []) is None
