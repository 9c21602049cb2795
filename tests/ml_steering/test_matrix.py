"""Every operator under every position rule: cache, padding, chunks and batch change no token."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.steering_operators import OPERATORS, Value
from mistudio.core.steering_positions import parse_positions
from mistudio.core.steering_spec import Edit, Feature, Spec
from mistudio.ml.steering import generate as generation
from mistudio.ml.steering.generate import Continuation, Generated, Row, generate
from mistudio.ml.steering.prompts import Prompt, read_prompt
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.steered_model import SteeredModel
from tests.ml_steering.conftest import (
    FAMILIES,
    MORE_FAMILIES,
    library,
    loaded_model,
    random_sae,
)

RULES = (
    "all",
    "prompt",
    "generated",
    "last",
    "first:3",
    "2-4,9-11",
    "text:a time",
    "regex:[a-z]+ there",
    "role:user",
)
TEXTS = ("<|bos|>Once upon a time there was", "<|bos|>So once upon a time there lived a crow who")
TOKENS = 7


def edit_of(operator: str) -> Edit:
    """An edit strong enough to change what is written."""
    rule = OPERATORS[operator]
    value = 0.0 if rule.value is Value.NONE else 4.0
    high = 9.0 if rule.value is Value.RANGE else None
    return Edit(Feature(3), value, operator, "raw", high, Feature(8) if rule.has_target else None)


def variants() -> dict[str, Spec]:
    """Operators by position rules, norm rules and conditions; named by what they are."""
    found = {
        f"{operator} {rule}": Spec((edit_of(operator),), parse_positions(rule))
        for operator in OPERATORS
        for rule in RULES
    }
    found["keep"] = Spec((edit_of("add"),), norm="keep")
    found["cap"] = Spec((edit_of("clamp"), Edit(Feature(5), 9.0, unit="raw")), norm="cap", cap=0.3)
    found["replace"] = Spec((edit_of("add"),), replace=("",))
    found["several"] = Spec(
        (
            edit_of("dir-scale"),
            Edit(Feature(4), 2.0, "add", "raw"),
            Edit(Feature(9), 3.0, "dir-ablate", "raw"),
            Edit(Feature(11), 0.0, "clamp", "raw"),
        )
    )
    return found


@functools.cache
def prompts() -> tuple[Prompt, ...]:
    """Two of unlike length, as a user's turn."""
    tokenizer = loaded_model("llama").tokenizer
    found = [read_prompt(tokenizer, text) for text in TEXTS]
    return tuple(Prompt(p.ids, p.text, p.spans, (("user", 8, 24),)) for p in found)


def run(
    family: str, specs: dict[str, Spec], which: tuple[int, ...], **options: Any
) -> tuple[Generated, torch.Tensor]:
    """Greedy texts of all variants for some of the prompts, and the logits of their first steps."""
    rows = tuple(Row(p, name, 0, True) for p in range(len(which)) for name in specs)
    chosen = tuple(prompts()[p] for p in which)
    sampling = SamplingSettings(temperature=0)
    request = Continuation(chosen, rows, TOKENS, sampling, **options)
    with SteeredModel(loaded_model(family), specs, library(random_sae())) as model:
        steps: list[torch.Tensor] = []
        found = generate(model, request, JobControl(), on_logits=steps.append)
    return found, torch.stack(steps[:TOKENS], 1)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_cache_padding_and_chunks_change_no_token(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = variants()
    plain = [run(family, specs, (p,), cached=False) for p in (0, 1)]
    monkeypatch.setattr(generation, "prompt_pass", lambda _loaded, _rows: 5)
    together, logits_RSV = run(family, specs, (0, 1))
    names = list(specs)
    for index, name in enumerate(names * 2):
        alone, expected_RSV = plain[index // len(names)]
        at = index % len(names)
        assert together.ids[index] == alone.ids[at], (name, index // len(names))
        assert together.traces[index].acted_T.equal(alone.traces[at].acted_T), name
        told = len(together.ids[index])
        torch.testing.assert_close(
            logits_RSV[index, :told], expected_RSV[at, :told], rtol=1e-3, atol=1e-3
        )
    changed = {name for name, trace in zip(names, together.traces, strict=False) if trace.acted}
    assert len(changed) > 0.8 * len(names)
    # the variants are told apart by what they predict: the above compares no constant
    different = {tuple(row_V.round(decimals=2).tolist()) for row_V in logits_RSV[:, -1]}
    assert len(different) > 40


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_a_batch_equals_one_by_one(family: str) -> None:
    specs = dict(list(variants().items())[::9])
    together, _ = run(family, specs, (0,))
    for index, (name, spec) in enumerate(specs.items()):
        alone, _ = run(family, {name: spec}, (0,))
        assert alone.ids[0] == together.ids[index], name
        trace, other = alone.traces[0], together.traces[index]
        assert trace.acted_T.equal(other.acted_T)
        for place, ratio_T in trace.ratios.items():
            torch.testing.assert_close(ratio_T, other.ratios[place], rtol=1e-4, atol=1e-5)
