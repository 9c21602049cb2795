"""Steering end to end: what it raises, measures and leaves alone."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, NamedTuple

import pytest
import torch

from mistudio.core.configs import SteerConfig
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.steering_settings import variants_of
from mistudio.core.steering_spec import Spec
from mistudio.ml.hooks import hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering import hook as hooking
from mistudio.ml.steering.compare import identity_check, steer
from mistudio.ml.steering.delta import Change
from mistudio.ml.steering.hook import SteeringHook
from mistudio.ml.steering.sources import Library
from tests.ml_steering.conftest import LAYER, library

PROMPT = "Once upon a time there was a"


def _config(*edits: str, **values: Any) -> SteerConfig:
    settings: dict[str, Any] = {"prompt": PROMPT, "unit": "raw", "max_tokens": 20, **values}
    return SteerConfig(feature=edits, **settings)


class Pair(NamedTuple):
    """Baseline and the one steered variant."""

    prompt_ids: list[int]
    baseline_ids: list[int]
    steered_ids: list[int]
    baseline_text: str
    steered_text: str
    greedy_baseline_text: str
    greedy_steered_text: str
    metrics: dict[str, Any]


def _steer(
    loaded: LoadedModel, sae: SparseAutoencoder, config: SteerConfig, **options: Any
) -> Pair:
    report = options.pop("report", RecordingReporter())
    control = options.pop("control", JobControl())
    layer, hook = options.pop("at", (LAYER, "resid_post"))
    found = steer(
        loaded, variants_of(config), library(sae, layer, hook, **options), config, report, control
    )
    base, steered = (found.comparison.samples(name)[0] for name in ("baseline", "steered"))
    twins = [found.comparison.greedy(name).text for name in ("baseline", "steered")]
    prompt = list(found.comparison.prompts[0].ids)
    metrics = found.metrics["steered"]
    return Pair(prompt, base.ids, steered.ids, base.text, steered.text, twins[0], twins[1], metrics)


def test_strength_zero_is_the_baseline(loaded: LoadedModel, sae: SparseAutoencoder) -> None:
    config = _config("3=0")
    found = _steer(loaded, sae, config)
    assert found.steered_ids == found.baseline_ids
    assert found.steered_text == found.baseline_text
    assert found.metrics["identical"] is True
    assert found.metrics["kl"] == pytest.approx(0, abs=1e-6)
    assert found.metrics["perplexity_delta"] == pytest.approx(0, abs=1e-5)
    assert found.metrics["word_overlap"] == 1.0
    assert found.metrics["acted"] == 0
    same = identity_check(loaded, sae, LAYER, "resid_post", [3, 8], config, JobControl())
    assert same.identical
    assert same.largest_logit_difference == 0.0
    assert same.tokens == len(found.baseline_ids)


def test_identity_check_notices_a_difference(
    llama: LoadedModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nudged(_self: SteeringHook, x: torch.Tensor) -> torch.Tensor:
        return x * 1.001

    monkeypatch.setattr(SteeringHook, "_edited", nudged)
    same = identity_check(llama, sae, LAYER, "resid_post", [3], _config("3=0"), JobControl())
    assert not same.identical
    assert same.largest_logit_difference > 0


@pytest.mark.parametrize("hook", ["resid_post", "mlp_out", "attn_out"])
def test_a_planted_direction_raises_its_token(
    loaded: LoadedModel, sae: SparseAutoencoder, hook: str
) -> None:
    blocks = loaded.blocks
    token = 290
    unembedding: Any = blocks.unembedding
    row_D = unembedding.weight[token].detach().clone()
    W_dec_FO = sae.W_dec_FO.clone()
    W_dec_FO[6] = row_D / row_D.norm()
    planted = dataclasses.replace(sae, W_dec_FO=W_dec_FO)
    last = (len(blocks) - 1, hook)
    found = _steer(loaded, planted, _config("6=200", max_tokens=8), at=last)
    assert found.steered_ids.count(token) > found.baseline_ids.count(token)
    assert found.steered_ids.count(token) >= 4


def test_metrics_are_those_of_the_texts(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    found = _steer(llama, sae, _config("3=3", "9=2:clamp", seed=4))
    ids = [*found.prompt_ids, *found.steered_ids]
    with torch.inference_mode():
        plain = llama.model(torch.tensor([ids])).logits[0].log_softmax(1)

        def edit(_module: Any, _inputs: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            own = sae.encode(x)[..., 9:10]
            changed = x + 3 * sae.W_dec_FO[3] + (2 - own) * sae.W_dec_FO[9]
            return (changed, *output[1:]) if isinstance(output, tuple) else changed

        handle = hook_place(llama, LAYER, "resid_post").module.register_forward_hook(edit)
        steered = llama.model(torch.tensor([ids])).logits[0].log_softmax(1)
        handle.remove()
    part = slice(len(found.prompt_ids) - 1, len(ids) - 1)
    kl = (steered.exp() * (steered - plain)).sum(1)[part]
    reverse = (plain.exp() * (plain - steered)).sum(1)[part]
    surprise = -plain[part].gather(1, torch.tensor(found.steered_ids)[:, None])
    metrics = found.metrics
    assert metrics["kl"] == pytest.approx(float(kl.mean()), rel=1e-3)
    assert metrics["kl_max"] == pytest.approx(float(kl.max()), rel=1e-3)
    assert metrics["kl_first"] == pytest.approx(float(kl[0]), rel=1e-3)
    assert metrics["kl_reverse"] == pytest.approx(float(reverse.mean()), rel=1e-3)
    assert metrics["perplexity_steered"] == pytest.approx(float(surprise.mean().exp()), rel=1e-4)
    assert metrics["perplexity_delta"] == pytest.approx(
        metrics["perplexity_steered"] - metrics["perplexity_baseline"]
    )
    assert metrics["kl"] > 0.01
    assert metrics["acted"] == metrics["positions"] == len(ids) - 1
    json.dumps(metrics, allow_nan=False)


def test_chunked_reading_changes_no_metric(
    llama: LoadedModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _steer(llama, sae, _config("3=3")).metrics
    monkeypatch.setattr("mistudio.ml.steering.teacher_forcing.FORCED", 4)
    parts = _steer(llama, sae, _config("3=3")).metrics
    assert parts["kl"] == pytest.approx(whole["kl"], rel=1e-4)
    assert parts["perplexity_steered"] == pytest.approx(whole["perplexity_steered"], rel=1e-4)


def test_same_seed_same_text_and_a_greedy_twin(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    first = _steer(llama, sae, _config("3=4", seed=1))
    again = _steer(llama, sae, _config("3=4", seed=1))
    other = _steer(llama, sae, _config("3=4", seed=2))
    assert first.steered_ids == again.steered_ids
    assert first.baseline_ids != other.baseline_ids
    assert first.greedy_baseline_text == other.greedy_baseline_text
    greedy = _steer(llama, sae, _config("3=4", temperature=0.0))
    assert greedy.baseline_text == first.greedy_baseline_text
    assert greedy.steered_text == greedy.greedy_steered_text == first.greedy_steered_text


def test_the_unit_max_multiplies_by_the_largest_activation(
    llama: LoadedModel, sae: SparseAutoencoder
) -> None:
    config = _config("3=2", unit="max")
    found = _steer(llama, sae, config, largest={3: 1.5})
    assert found.metrics["values"] == [3.0]
    assert found.steered_ids == _steer(llama, sae, _config("3=3")).steered_ids
    with pytest.raises(InvalidInput, match="raw unit"):
        _steer(llama, sae, config)


def test_over_steering_is_told(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    assert not _steer(llama, sae, _config("3=0.01", max_tokens=5)).metrics["over_steered"]
    strong = _steer(llama, sae, _config("3=300", max_tokens=5)).metrics
    assert strong["over_steered"]
    assert strong["delta_ratio"] > 0.5


def test_high_norm_tokens_are_not_steered(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    found = _steer(llama, sae, _config("3=4"), median_norm=1e-6)
    assert found.metrics["acted"] == 0
    assert found.metrics["positions"] > 0
    assert found.steered_ids == found.baseline_ids


def test_texts_are_streamed(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    report = RecordingReporter()
    found = _steer(llama, sae, _config("3=4"), report=report)
    told = {
        name: [e.values["value"] for e in report.events if e.values.get("name") == name]
        for name in ("baseline", "steered")
    }
    assert told["baseline"][-1] == found.baseline_text
    assert told["steered"][-1] == found.steered_text
    tokenizer = llama.tokenizer
    assert found.baseline_text == tokenizer.decode(found.baseline_ids, skip_special_tokens=True)


def test_a_stop_keeps_text_without_forced_metrics(
    llama: LoadedModel, sae: SparseAutoencoder
) -> None:
    control = JobControl()

    class Stopper(RecordingReporter):
        def partial(self, name: str, value: object) -> None:
            control.stop()

    found = _steer(llama, sae, _config("3=4"), report=Stopper(), control=control)
    assert found.metrics["stopped_early"] == "stopped"
    assert len(found.baseline_ids) == 1
    assert found.metrics["kl"] is None
    limited = _steer(llama, sae, _config("3=4", time_limit=1e-9))
    assert limited.metrics["stopped_early"] == "time"
    assert limited.baseline_ids == []


def test_prompts_that_do_not_fit(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    with pytest.raises(InvalidInput, match="at most 512"):
        _steer(llama, sae, _config("3=4", prompt="fox " * 600))
    report = RecordingReporter()
    long = _steer(llama, sae, _config("3=4", prompt="x" * 505, max_tokens=20), report=report)
    assert len(long.baseline_ids) <= 7
    assert any("room for 7" in str(e.values.get("sentence")) for e in report.events)


def test_numbers_that_overflow_end_it_with_a_sentence(
    llama: LoadedModel, sae: SparseAutoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflow(_site: Any, x_TD: torch.Tensor, *_others: Any) -> Change:
        return Change(torch.full_like(x_TD, math.inf), {})

    monkeypatch.setattr(hooking, "change", overflow)
    with pytest.raises(StudioError, match="smaller strength"):
        _steer(llama, sae, _config("3=4"))
    assert not hook_place(llama, LAYER, "resid_post").module._forward_hooks


def test_compare_and_sweep_are_the_single_runs(llama: LoadedModel, sae: SparseAutoencoder) -> None:
    edits = ("3=4", "8=5:clamp")
    alone = {text: _steer(llama, sae, _config(text, seed=2)) for text in edits}
    config = _config(*edits, seed=2, mode="compare")
    silent = (RecordingReporter(), JobControl())
    found = steer(llama, variants_of(config), library(sae), config, *silent)
    assert list(found.metrics) == ["3=4.0:add", "8=5.0:clamp"]
    for name, one in zip(found.metrics, alone.values(), strict=True):
        assert found.comparison.samples(name)[0].ids == one.steered_ids
        assert found.metrics[name]["kl"] == pytest.approx(one.metrics["kl"], rel=1e-3)
        assert found.metrics[name]["acted"] == one.metrics["acted"]
    config = _config("3=4", seed=2, mode="sweep", strengths="-1,0.5,1")
    swept = steer(llama, variants_of(config), library(sae), config, *silent)
    assert list(swept.metrics) == ["×-1", "×0.5", "×1"]
    assert [figures["values"] for figures in swept.metrics.values()] == [[-4.0], [2.0], [4.0]]
    assert swept.comparison.samples("×1")[0].ids == alone["3=4"].steered_ids
    config = _config(*edits, seed=2, mode="operators", alternative=("3=5:clamp", "3:ablate"))
    beside = steer(llama, variants_of(config), library(sae), config, *silent)
    assert list(beside.metrics) == ["3=4.0raw:add", "3=5.0raw:clamp", "3=0.0:ablate"]
    for name, first in zip(beside.metrics, ("3=4", "3=5:clamp", "3:ablate"), strict=True):
        single = _steer(llama, sae, _config(first, edits[1], seed=2))
        assert beside.comparison.samples(name)[0].ids == single.steered_ids
        assert beside.metrics[name]["kl"] == pytest.approx(single.metrics["kl"], rel=1e-3)


def test_an_empty_specification_installs_no_hook(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SteeringHook, "__enter__", lambda _self: pytest.fail("a hook"))
    config = _config()
    found = steer(llama, {"steered": Spec()}, Library(), config, RecordingReporter(), JobControl())
    texts = [found.comparison.samples(name)[0].ids for name in ("baseline", "steered")]
    assert texts[0] == texts[1]
    assert found.metrics["steered"]["kl"] == pytest.approx(0, abs=1e-6)
