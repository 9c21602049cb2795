"""Steering with a transcoder: it acts where it writes and is read where it reads."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mistudio.core.configs import SteerConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.steering_settings import variants_of
from mistudio.core.steering_spec import Edit, Feature, Spec
from mistudio.ml.hooks import hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.compare import steer
from mistudio.ml.steering.hook import Pass, SteeringHook
from mistudio.ml.steering.operators import prepare
from tests.ml_steering.conftest import LAYER, library

FEATURE = 3


@pytest.fixture
def transcoder(sae: SparseAutoencoder) -> SparseAutoencoder:
    """One whose feature fires on some tokens of what the MLP reads."""
    return replace(
        sae,
        architecture="standard",
        k=None,
        threshold_F=None,
        apply_b_dec_to_input=False,
        encoder="transcoder",
    )


def mlp_sides(
    loaded: LoadedModel, ids: torch.Tensor, edit: SteeringHook | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the MLP reads, and what leaves it behind every hook."""
    place, module = hook_place(loaded, LAYER, "mlp_in"), hook_place(loaded, LAYER, "mlp_out").module
    seen: dict[str, torch.Tensor] = {}
    handles = [
        place.module.register_forward_pre_hook(lambda _m, x: seen.update(x=x[0].clone())),
        module.register_forward_hook(lambda _m, _x, y: seen.update(y=y.clone())),
    ]
    with torch.inference_mode():
        if edit is not None:
            rows = torch.zeros(len(ids)).long()
            edit.expect(Pass(torch.ones(ids.shape, dtype=torch.bool), rows, rows.bool()))
        loaded.model(input_ids=ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen["x"].view(*ids.shape, -1), seen["y"].view(*ids.shape, -1)


@pytest.mark.parametrize(("operator", "value"), [("clamp", 2.5), ("clamp", 0.0), ("add", 1.5)])
def test_the_output_of_the_mlp_is_moved_by_what_its_input_says(
    loaded: LoadedModel, transcoder: SparseAutoencoder, operator: str, value: float
) -> None:
    ids = torch.tensor([[3, 9, 27, 81, 243, 17], [5, 25, 125, 7, 49, 343]])
    x, y = mlp_sides(loaded, ids, None)
    own = transcoder.encode(x)[..., FEATURE]
    assert int((own > 0).sum()) > 0
    given = library(transcoder, LAYER, "mlp_out", hook_in="mlp_in")
    spec = Spec((Edit(Feature(FEATURE), value, operator, "raw"),))
    site = prepare({"only": spec}, given, loaded.hidden_dim, loaded.device).sites[0]
    read, written = hook_place(loaded, LAYER, "mlp_in"), hook_place(loaded, LAYER, "mlp_out")
    with SteeringHook(written, site, read) as edit:
        x_steered, y_steered = mlp_sides(loaded, ids, edit)
    assert torch.equal(x_steered, x)
    strength = value - own if operator == "clamp" else torch.full_like(own, value)
    expected = y + strength[..., None] * transcoder.W_dec_FO[FEATURE]
    assert torch.allclose(y_steered, expected, atol=1e-5)
    assert not torch.allclose(y_steered, y, atol=1e-2)
    assert not read.module._forward_pre_hooks  # both hooks are gone
    assert not written.module._forward_hooks


def test_texts_are_steered_where_the_transcoder_writes(
    llama: LoadedModel, transcoder: SparseAutoencoder
) -> None:
    config = SteerConfig(
        prompt="Once upon a time", feature=(f"{FEATURE}=40:clamp",), unit="raw", max_tokens=12
    )

    given = library(transcoder, LAYER, "mlp_out", hook_in="mlp_in")
    silent = (RecordingReporter(), JobControl())
    found = steer(llama, variants_of(config), given, config, *silent)
    texts = [found.comparison.samples(name)[0].ids for name in ("baseline", "steered")]
    assert texts[0] != texts[1]
    assert found.metrics["steered"]["acted"] > 0


def test_what_was_not_read_is_an_error(llama: LoadedModel, transcoder: SparseAutoencoder) -> None:
    given = library(transcoder, LAYER, "mlp_out", hook_in="mlp_in")
    spec = Spec((Edit(Feature(FEATURE), 1.0, "clamp", "raw"),))
    site = prepare({"only": spec}, given, llama.hidden_dim, llama.device).sites[0]
    later = hook_place(llama, LAYER + 1, "mlp_in")
    written = hook_place(llama, LAYER, "mlp_out")
    ids = torch.tensor([[3, 9, 27]])
    with (
        SteeringHook(written, site, later) as edit,
        pytest.raises(StudioError, match="was not read in the pass"),
    ):
        mlp_sides(llama, ids, edit)
