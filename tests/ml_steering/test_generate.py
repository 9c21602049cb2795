"""Generation with a cache equals a plain loop without one, for each operator, rule and family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled
from mistudio.core.steering_spec import Edit
from mistudio.ml.hooks import hook_module
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import generate as generation
from mistudio.ml.steering.generate import Continuation, Row, generate
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.operators import prepare
from mistudio.ml.steering.sampling import SamplingSettings
from tests.ml_steering.conftest import LAYER, WIDTH

EDITS = {
    "add": [Edit(3, 4.0, "add")],
    "clamp": [Edit(3, 5.0, "clamp"), Edit(7, 0.0, "clamp")],
    "both": [Edit(2, -3.0, "add"), Edit(9, 6.0, "clamp")],
}
PROMPT = (0, 17, 260, 301, 44, 290, 275)  # starts with BOS
TOKENS = 24


def _request(rule: str = "all", **values: Any) -> Continuation:
    settings: dict[str, Any] = {
        "prompt_ids": PROMPT,
        "rows": (Row(False, True), Row(True, True)),
        "max_tokens": TOKENS,
        "sampling": SamplingSettings(temperature=0),
        "rule": rule,
    }
    return Continuation(**{**settings, **values})


def _plain(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    edits: list[Edit],
    rule: str,
    prompt: tuple[int, ...],
) -> list[int]:
    """Greedy tokens of the steered model, each from a whole forward pass without a cache."""
    ids = list(prompt)

    def edit(_module: Any, _inputs: Any, output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        f = sae.encode(x)
        changed = x.clone()
        for place, token in enumerate(ids):
            of_prompt = place < len(prompt)
            if token in (0, 1) or (rule != "all" and of_prompt != (rule == "prompt")):
                continue
            for one in edits:
                amount = one.value
                if one.operator == "clamp":
                    amount = one.value - float(f[0, place, one.feature])
                changed[0, place] += amount * sae.W_dec_FO[one.feature]
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = hook_module(loaded, LAYER, "resid_post").register_forward_hook(edit)
    try:
        for _ in range(TOKENS):
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([ids]), use_cache=False).logits
            token = int(logits[0, -1].argmax())
            if token == 1:
                break
            ids.append(token)
    finally:
        handle.remove()
    return ids[len(prompt) :]


def _generate(
    loaded: LoadedModel, sae: SparseAutoencoder, edits: list[Edit], request: Continuation
) -> generation.Generated:
    steering = prepare(edits, sae, "raw", {}, WIDTH, loaded.device)
    module = hook_module(loaded, LAYER, "resid_post")
    with SteeringHook(module, steering, float("inf")) as hook:
        return generate(loaded, request, hook, JobControl())


@pytest.mark.parametrize("rule", ["all", "prompt", "generated"])
@pytest.mark.parametrize("operator", list(EDITS))
def test_cached_equals_uncached(
    loaded: LoadedModel, sae: SparseAutoencoder, operator: str, rule: str
) -> None:
    found = _generate(loaded, sae, EDITS[operator], _request(rule))
    assert found.ids[0] == _plain(loaded, sae, [], rule, PROMPT)
    assert found.ids[1] == _plain(loaded, sae, EDITS[operator], rule, PROMPT)
    fed = len(found.ids[1]) - (found.reasons[1] == "length")
    content = {"all": len(PROMPT) - 1 + fed, "prompt": len(PROMPT) - 1, "generated": fed}[rule]
    specials = sum(token in (0, 1) for token in found.ids[1][:fed]) if rule != "prompt" else 0
    assert found.positions == len(PROMPT) + fed
    assert found.acted == content - specials
    assert len(found.ratios) == found.acted


def test_prefill_in_chunks_changes_nothing(
    llama: LoadedModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _generate(llama, sae, EDITS["both"], _request())
    monkeypatch.setattr(generation, "PREFILL", 3)
    assert _generate(llama, sae, EDITS["both"], _request()).ids == whole.ids


def test_four_rows_equal_two_pairs(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    sampling = SamplingSettings(temperature=0.8, seed=5)
    rows = (Row(False, False), Row(True, False), Row(False, True), Row(True, True))
    four = _generate(llama, sae, EDITS["add"], _request(rows=rows, sampling=sampling))
    greedy = _generate(llama, sae, EDITS["add"], _request())
    assert four.ids[2:] == greedy.ids
    pair = _generate(llama, sae, EDITS["add"], _request(rows=rows[:2], sampling=sampling))
    assert four.ids[:2] == pair.ids
    assert four.ids[0] != four.ids[2]


def test_an_end_token_ends_its_row_only(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    free = _generate(llama, sae, EDITS["add"], _request())
    end = free.ids[1][4]
    model = llama.model
    before = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = [1, end]
    try:
        found = _generate(llama, sae, EDITS["add"], _request())
    finally:
        model.generation_config.eos_token_id = before
    assert found.ids[1] == free.ids[1][: free.ids[1].index(end)]
    assert found.reasons[1] == "end"
    cut = free.ids[0].index(end) if end in free.ids[0] else None
    assert found.ids[0] == free.ids[0][:cut]


def test_stop_and_time_limit_keep_the_text(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    control = JobControl()
    steering = prepare(EDITS["add"], sae, "raw", {}, WIDTH, llama.device)
    heard: list[int] = []

    def on_token(row: int, token: int) -> None:
        if row == 0:
            heard.append(token)
        if len(heard) == 5:
            control.stop()

    module = hook_module(llama, LAYER, "resid_post")
    with SteeringHook(module, steering, float("inf")) as hook:
        found = generate(llama, _request(), hook, control, on_token=on_token)
    assert found.ids[0] == heard
    assert len(heard) == 5
    assert found.reasons == ["stopped", "stopped"]
    assert found.ids[0] == _generate(llama, sae, EDITS["add"], _request()).ids[0][:5]
    late = _generate(llama, sae, EDITS["add"], _request(time_limit=-1.0))
    assert late.reasons == ["time", "time"]
    assert late.ids == [[], []]


def test_cancel_ends_it_and_removes_the_hook(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    control = JobControl()
    control.cancel()
    steering = prepare(EDITS["add"], sae, "raw", {}, WIDTH, llama.device)
    module = hook_module(llama, LAYER, "resid_post")
    with pytest.raises(Cancelled), SteeringHook(module, steering, float("inf")) as hook:
        generate(llama, _request(), hook, control)
    assert not module._forward_hooks
