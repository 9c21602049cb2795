"""Generation with a cache equals a plain loop without one, for each operator, rule and family."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import Cancelled
from mistudio.core.steering_positions import parse_positions
from mistudio.core.steering_spec import Condition, Edit, Feature, Spec
from mistudio.ml.hooks import hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import generate as generation
from mistudio.ml.steering.cache_check import has_sound_cache
from mistudio.ml.steering.forward import FedRow, Stepper
from mistudio.ml.steering.generate import Continuation, Row, generate
from mistudio.ml.steering.prompts import Prompt
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.steered_model import SteeredModel
from tests.ml_steering.conftest import LAYER, library, loaded_model

EDITS = {
    "add": [Edit(Feature(3), 4.0, "add")],
    "clamp": [Edit(Feature(3), 5.0, "clamp"), Edit(Feature(7), 0.0, "clamp")],
    "both": [Edit(Feature(2), -3.0, "add"), Edit(Feature(9), 6.0, "clamp")],
}
PROMPT = (0, 17, 260, 301, 44, 290, 275)  # starts with BOS
TOKENS = 24


def _request(**values: Any) -> Continuation:
    settings: dict[str, Any] = {
        "prompts": (Prompt(PROMPT),),
        "rows": (Row(0, "baseline", 0, True), Row(0, "steered", 0, True)),
        "max_tokens": TOKENS,
        "sampling": SamplingSettings(temperature=0),
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

    handle = hook_place(loaded, LAYER, "resid_post").module.register_forward_hook(edit)
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


def _steered(
    loaded: LoadedModel, sae: SparseAutoencoder, edits: list[Edit], rule: str = "all"
) -> SteeredModel:
    spec = Spec(tuple(edits), parse_positions(rule), unit="raw")
    return SteeredModel(loaded, {"steered": spec}, library(sae))


def _generate(
    loaded: LoadedModel,
    sae: SparseAutoencoder,
    edits: list[Edit],
    request: Continuation,
    rule: str = "all",
) -> generation.Generated:
    with _steered(loaded, sae, edits, rule) as model:
        return generate(model, request, JobControl())


@pytest.mark.parametrize("rule", ["all", "prompt", "generated"])
@pytest.mark.parametrize("operator", list(EDITS))
def test_cached_equals_uncached(
    loaded: LoadedModel, sae: SparseAutoencoder, operator: str, rule: str
) -> None:
    found = _generate(loaded, sae, EDITS[operator], _request(), rule)
    assert found.ids[0] == _plain(loaded, sae, [], rule, PROMPT)
    assert found.ids[1] == _plain(loaded, sae, EDITS[operator], rule, PROMPT)
    fed = len(found.ids[1]) - (found.reasons[1] == "length")
    content = {"all": len(PROMPT) - 1 + fed, "prompt": len(PROMPT) - 1, "generated": fed}[rule]
    specials = sum(token in (0, 1) for token in found.ids[1][:fed]) if rule != "prompt" else 0
    trace = found.traces[1]
    assert trace.positions == len(PROMPT) + fed
    assert trace.acted == content - specials
    assert found.traces[0].acted == 0
    assert [int((r != 0).sum()) for r in trace.ratios.values()] == [trace.acted]


def test_prefill_in_chunks_changes_nothing(
    llama: LoadedModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _generate(llama, sae, EDITS["both"], _request())
    monkeypatch.setattr(generation, "prompt_pass", lambda _loaded, _rows: 3)
    assert _generate(llama, sae, EDITS["both"], _request()).ids == whole.ids


def test_four_rows_equal_two_pairs(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    sampling = SamplingSettings(temperature=0.8, seed=5)
    names = ("baseline", "steered")
    rows = tuple(Row(0, name, 0, greedy) for greedy in (False, True) for name in names)
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
    heard: list[int] = []

    def on_token(row: int, token: int, text: str) -> None:
        if row == 0:
            heard.append(token)
        if len(heard) == 5:
            control.stop()

    with _steered(llama, sae, EDITS["add"]) as model:
        found = generate(model, _request(), control, on_token=on_token)
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
    module = hook_place(llama, LAYER, "resid_post").module
    with pytest.raises(Cancelled), _steered(llama, sae, EDITS["add"]) as model:
        generate(model, _request(), control)
    assert not module._forward_hooks


def test_samples_share_a_prompt_and_differ(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    sampling = SamplingSettings(temperature=1.2, seed=3)
    rows = generation.rows_of(("baseline", "steered"), 1, 3, 1.2)
    assert len(rows) == 8
    found = _generate(llama, sae, EDITS["add"], _request(rows=rows, sampling=sampling))
    alone = [
        _generate(llama, sae, EDITS["add"], _request(rows=(row,), sampling=sampling)).ids[0]
        for row in rows
    ]
    assert found.ids == alone
    assert len({tuple(ids) for ids in found.ids}) == 8


def test_a_stop_string_ends_its_row(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    free = _generate(llama, sae, EDITS["add"], _request())
    wanted = free.texts[1][3:6]
    found = _generate(llama, sae, EDITS["add"], _request(stop=(wanted, "never to be seen")))
    assert found.reasons[1] == "stop_string"
    assert found.texts[1] == free.texts[1][: free.texts[1].index(wanted)]
    assert found.ids[1] == free.ids[1][: len(found.ids[1])]
    assert 0 < len(found.ids[1]) < len(free.ids[1])


def test_an_abort_condition_ends_its_row(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    edits, rule = (Edit(Feature(7), 1.0, unit="raw"),), parse_positions("generated")
    free = Spec(edits, rule)
    with SteeredModel(llama, {"steered": free}, library(sae)) as model:
        expected = generate(model, _request(), JobControl()).ids
    read: list[float] = []
    module = hook_place(llama, LAYER, "resid_post").module
    with SteeredModel(llama, {"steered": free}, library(sae)) as model:
        handle = module.register_forward_hook(  # before the one that steers
            lambda _m, _x, y: read.extend(sae.encode(y)[0, :, 3].tolist()), prepend=True
        )
        stepper = Stepper(model, [FedRow(Prompt(PROMPT), "steered")])
        stepper.prompt()
        read.clear()
        stepper(torch.tensor([expected[1]]))
        handle.remove()
    level = sorted(read)[-3]
    first = next(place for place, value in enumerate(read) if value > level)
    aborting = Spec(edits, rule, abort=Condition(Feature(3), level))
    with SteeredModel(llama, {"steered": aborting}, library(sae)) as model:
        found = generate(model, _request(), JobControl())
    assert found.ids[0] == expected[0]
    assert found.reasons[1] == "aborted"
    assert found.ids[1] == expected[1][: first + 1]


class _Forgetful:
    """A model that gives no key-value cache."""

    def __init__(self, model: Any) -> None:
        self._model, self.passes = model, 0
        self.forward, self.parameters = model.forward, model.parameters
        self.generation_config = model.generation_config

    def __call__(self, **named: Any) -> Any:
        self.passes += 1
        named["use_cache"] = False
        return self._model(**named)


def test_a_model_without_a_cache_is_read_again(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    expected = _generate(llama, sae, EDITS["both"], _request())
    forgetful = _Forgetful(llama.model)
    loaded = dataclasses.replace(llama, model=forgetful)
    assert has_sound_cache(loaded)  # it is read again, which gives the same
    forgetful.passes = 0
    found = _generate(loaded, sae, EDITS["both"], _request())
    assert found.ids == expected.ids
    assert [t.acted for t in found.traces] == [t.acted for t in expected.traces]
    assert forgetful.passes == TOKENS


def test_a_state_space_model_is_steered_as_without_a_cache(sae: SparseAutoencoder) -> None:
    loaded = loaded_model("mamba")
    short, long = (0, 5, 9, 33), (0, 8, 7, 6, 5, 4, 3)
    rows = tuple(Row(p, name, 0, True) for p in (0, 1) for name in ("baseline", "steered"))
    with _steered(loaded, sae, EDITS["both"]) as model:
        # whether its cache is sound is measured: that differs between versions of transformers
        request = _request(prompts=(Prompt(short), Prompt(long)), rows=rows, max_tokens=6)
        found = generate(model, request, JobControl())
    for place, prompt in enumerate((short, long)):
        assert found.ids[2 * place] == _plain(loaded, sae, [], "all", prompt)[:6]
        assert found.ids[2 * place + 1] == _plain(loaded, sae, EDITS["both"], "all", prompt)[:6]
