"""Optimisers, moments in 8 bits, shapes of the schedule, precision: each does what it says."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.config import settings_of, violations
from mistudio.core.control import Request
from mistudio.core.errors import Mismatch, Unsupported
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES
from mistudio.ml import device
from mistudio.ml.sae.registry import new_trainable
from mistudio.ml.training.eight_bit import EightBitAdam
from mistudio.ml.training.loop import TrainResult
from mistudio.ml.training.optimizer import BETAS, EPS, ClippedOptimizer, optimizer_of
from mistudio.ml.training.run_state import RunState
from mistudio.ml.training.schedule import resolve
from tests.helpers.activations import batch_at
from tests.ml_training.test_loop import BATCH, CONFIG, AskAt, D, explained, run

CPU = torch.device("cpu")
EVERYTHING = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine"},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05, "schedule": "exponential"},
    "eight_bit": {"eight_bit_moments": True, "weight_decay": 0.1, "input_norm": "none"},
    "bf16": {"precision": "bf16", "schedule": "constant"},
}


def weights(result: TrainResult) -> torch.Tensor:
    assert result.sae is not None
    return result.sae.W_enc_DF


@pytest.mark.parametrize("options", EVERYTHING)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_resume_is_exact_with_every_option(tmp_path: Path, architecture: str, options: str) -> None:
    config = replace(
        CONFIG, architecture=architecture, tokens=BATCH * 24, dead_window=1500, aux_k=4,
        **EVERYTHING[options],
    )  # fmt: skip
    if architecture == "standard":
        config = replace(config, unit_decoder=False)
    if architecture == "matryoshka_batch_topk":
        config = replace(config, group_sizes="8, 50, 128")
    assert violations(config) == []
    whole = run(tmp_path / "a", config)
    paused = run(tmp_path / "b", config, control=AskAt(13, Request.PAUSE))
    assert paused.step == 13
    resumed = run(tmp_path / "b", config, resume_from=paused.checkpoint)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert sha256_file(whole.checkpoint / name) == sha256_file(resumed.checkpoint / name)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ({}, {"optimizer": "sgd"}),
        ({"weight_decay": 0.5}, {"optimizer": "adamw"}),
        ({}, {"weight_decay": 0.5}),
        ({"optimizer": "sgd"}, {"weight_decay": 0.5}),
        ({}, {"eight_bit_moments": True}),
        ({"eight_bit_moments": True}, {"weight_decay": 0.5}),
        ({"eight_bit_moments": True, "weight_decay": 0.5}, {"optimizer": "adamw"}),
        ({}, {"schedule": "constant"}),
        ({}, {"schedule": "cosine"}),
        ({}, {"schedule": "exponential"}),
        ({}, {"precision": "bf16"}),
        ({}, {"input_norm": "none"}),
        ({"architecture": "standard"}, {"precision": "bf16"}),
        ({"architecture": "standard"}, {"unit_decoder": False}),
        ({"architecture": "standard"}, {"sparsity_warmup": 15}),
        ({"architecture": "jumprelu", "target_l0": 0.0}, {"sparsity_warmup": 15}),
        ({"architecture": "matryoshka_batch_topk"}, {"group_sizes": "20,128"}),
    ],
)
def test_every_option_changes_the_result(
    tmp_path: Path, base: dict[str, Any], change: dict[str, Any]
) -> None:
    first = replace(CONFIG, tokens=BATCH * 20, **base)
    found = [
        weights(run(tmp_path / name, config))
        for name, config in (("a", first), ("b", replace(first, **change)))
    ]
    assert torch.isfinite(found[1]).all()
    assert not torch.equal(found[0], found[1])


def test_options_are_hidden_where_they_do_nothing() -> None:
    applies = {s.name: s.option.applies for s in settings_of(TrainConfig)}

    def shown(name: str, **values: Any) -> bool:
        rule = applies[name]
        return rule is None or rule(TrainConfig(**values))

    for architecture in ARCHITECTURES:
        values = {"architecture": architecture}
        dense = architecture in ("standard", "gated", "jumprelu")
        assert shown("sparsity_warmup", **values) == dense
        assert shown("unit_decoder", **values) == (architecture == "standard")
        assert shown("group_sizes", **values) == (architecture == "matryoshka_batch_topk")
        assert shown("weight_decay", **values)
        assert shown("precision", **values)
        assert shown("input_norm", **values)
    assert not shown("decay_share", schedule="constant")
    assert not shown("eight_bit_moments", optimizer="sgd")
    assert shown("eight_bit_moments", optimizer="adamw")


def test_the_shapes_of_the_fall() -> None:
    base = TrainConfig(model="m", dataset="d", tokens=204_800, learning_rate=0.1, warmup_steps=0)
    rates = {
        shape: [resolve(replace(base, schedule=shape), 64).rate_at(s) for s in (0, 79, 85, 90, 100)]
        for shape in ("constant", "linear", "cosine", "exponential")
    }
    assert rates["constant"] == pytest.approx([0.1] * 5)
    assert rates["linear"] == pytest.approx([0.1, 0.1, 0.075, 0.05, 0.0])
    quarter = 0.05 * (1 - math.cos(0.75 * math.pi))
    assert rates["cosine"] == pytest.approx([0.1, 0.1, quarter, 0.05, 0.0], abs=1e-12)
    assert rates["exponential"] == pytest.approx([0.1, 0.1, 0.1 * 10**-0.75, 0.1 * 10**-1.5, 1e-4])


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_is_that_of_torch_on_the_named_parameters_only(decoupled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(30, 8, generator=generator)
    cls = torch.optim.AdamW if decoupled else torch.optim.Adam
    theirs = [start.clone().requires_grad_() for _ in range(2)]
    reference = [
        cls([p], lr=0.01, betas=BETAS, eps=EPS, weight_decay=decay)
        for p, decay in zip(theirs, (0.3, 0.0), strict=True)
    ]
    ours = {"pulled": start.clone(), "free": start.clone()}
    mine = ClippedOptimizer(
        ours, 1e9, kind="adamw" if decoupled else "adam", weight_decay=0.3, decayed=["pulled"]
    )
    for _ in range(5):
        grad = torch.randn(30, 8, generator=generator)
        for parameter in (*theirs, *ours.values()):
            parameter.grad = grad.clone()
        mine.step(0.01)
        for optimizer in reference:
            optimizer.step()
    for parameter, expected in zip(ours.values(), theirs, strict=True):
        torch.testing.assert_close(parameter, expected.detach(), rtol=1e-5, atol=1e-6)


def test_rows_held_at_unit_length_feel_no_weight_decay() -> None:
    config = replace(CONFIG, optimizer="adamw", weight_decay=0.5, architecture="standard")
    for held in (True, False):
        sae = new_trainable("standard", 8, 16, 2, seed=0)
        sae.configure(replace(config, unit_decoder=held, width=16))
        before = {name: p.clone() for name, p in sae.parameters.items()}
        for parameter in sae.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        optimizer_of(replace(config, unit_decoder=held), sae.parameters, 1.0).step(0.1)
        changed = {name for name, p in sae.parameters.items() if not torch.equal(p, before[name])}
        assert changed == {"W_enc_FD"} | (set() if held else {"W_dec_FO"})


def test_moments_in_8_bits_follow_those_in_32() -> None:
    """The same gradients, some rows never, some seldom, of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    scale_R1 = 10.0 ** torch.randint(-6, 2, (200, 1), generator=generator).float()
    start = torch.randn(200, 32, generator=generator)
    exact, small = start.clone().requires_grad_(), start.clone()
    adam = torch.optim.Adam([exact], lr=1e-2, betas=BETAS, eps=EPS)
    mine = EightBitAdam({"w": small}, BETAS, EPS, {"w": 0.0})
    often_R1 = torch.rand(200, 1, generator=generator) ** 2
    often_R1[:10] = 0
    drift_RD = torch.randn(200, 32, generator=generator)
    for _ in range(400):
        noise = torch.randn(200, 32, generator=generator) + drift_RD
        grad = noise * scale_R1 * (torch.rand(200, 1, generator=generator) < often_R1)
        exact.grad, small.grad = grad, grad.clone()
        adam.step()
        mine.step(1e-2, torch.tensor(1.0))
    assert torch.equal(small[:10], start[:10])  # without a gradient nothing moves
    moved, difference = exact.detach() - start, small - exact.detach()
    assert float(moved[10:].norm() / 190**0.5) > 1
    assert float(difference.norm() / moved.norm()) < 0.05
    assert float(difference.abs().max()) < 0.1 * float(moved.abs().max())
    kept = sum(t.numel() * t.element_size() for t in mine.state().values())
    assert kept < 2 * small.numel() * 1.15 + 16


def test_training_with_moments_in_8_bits_is_as_good(tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=3e-3, tokens=BATCH * 300)
    exact = explained(run(tmp_path / "a", config))
    small = explained(run(tmp_path / "b", replace(config, eight_bit_moments=True)))
    assert small == pytest.approx(exact, abs=0.01)


def test_a_skipped_step_leaves_8_bit_moments_alone() -> None:
    w, b = torch.randn(6, 4), torch.randn(6)
    optimizer = ClippedOptimizer({"w": w, "b": b}, 1.0, eight_bit=True)
    for p in (w, b):
        p.grad = torch.ones_like(p)
    optimizer.step(0.1)
    before = {k: v.clone() for k, v in optimizer.state().items()}
    kept = w.clone()
    assert {"w.mean_8bit", "b.exp_avg", "step_8bit"} <= before.keys()
    w.grad = torch.full_like(w, float("inf"))
    optimizer.step(0.1)
    assert torch.equal(w, kept)
    assert all(torch.equal(v, before[k]) for k, v in optimizer.state().items())
    other = ClippedOptimizer({"w": torch.randn(6, 5), "b": b}, 1.0, eight_bit=True)
    with pytest.raises(Mismatch, match="another shape"):
        other.restore(before)


def test_momentum_begins_at_zero_even_after_a_skipped_first_step() -> None:
    w = torch.zeros(64)
    optimizer = ClippedOptimizer({"w": w}, 1e9, kind="sgd")
    w.grad = torch.full_like(w, float("nan"))
    optimizer.step(0.1)
    w.grad = torch.ones_like(w)
    optimizer.step(0.1)
    assert torch.equal(w, torch.full((64,), -0.1))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bf16_rounds_what_enters_the_encoder_product_and_nothing_else(architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture, precision="bf16")
    results = []
    for precision in ("fp32", "bf16"):
        sae = new_trainable(architecture, D, 128, 6, seed=0)
        sae.configure(replace(config, precision=precision))
        sae.parameters["W_enc_FD"].copy_(sae.parameters["W_enc_FD"].bfloat16().float())
        results.append(sae.gradients(batch_at(0, batch=BATCH, d=D).bfloat16().float(), 3.0))
        assert all(p.dtype is torch.float32 for p in sae.parameters.values())
    # factors that bf16 holds exactly: b_dec is 0, so the input stays as it is
    assert torch.equal(results[0].reconstruction, results[1].reconstruction)
    sae = new_trainable(architecture, D, 128, 6, seed=0)
    sae.configure(config)
    first = sae.gradients(batch_at(0, batch=BATCH, d=D), 3.0)
    sae.parameters["W_enc_FD"].mul_(0.5)  # a stale rounded copy would not see it
    second = sae.gradients(batch_at(0, batch=BATCH, d=D), 3.0)
    assert not torch.equal(first.squared_error, second.squared_error)


def test_bf16_is_refused_where_the_gpu_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda which: "An old GPU")
    device.check_bf16(CPU)
    with pytest.raises(Unsupported, match="An old GPU does not compute in bf16"):
        device.check_bf16(torch.device("cuda"))
    sae = new_trainable("topk", 8, 16, 2, seed=0)
    sae.configure(replace(CONFIG, precision="bf16"))
    with pytest.raises(Unsupported):
        sae.to(torch.device("cuda"))


def test_without_input_normalisation_the_scale_is_1() -> None:
    for scale in (0.02, 7.0):
        config = replace(CONFIG, input_norm="none")
        run_state = RunState(config, torch.zeros(D), scale, scale**2 * 30.0, CPU)
        assert run_state.scale == 1
        assert run_state.variance == pytest.approx(30.0)


def test_free_rows_grow_apart_and_are_folded_at_the_end(tmp_path: Path) -> None:
    config = replace(CONFIG, architecture="standard", unit_decoder=False, learning_rate=3e-3)
    result = run(tmp_path, replace(config, tokens=BATCH * 300))
    assert result.sae is not None
    norms = torch.linalg.vector_norm(result.sae.W_dec_FO, dim=1)
    assert (norms - 1).abs().max() < 1e-5
    assert explained(result) > 0.45


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("8,50,127", "must rise and end with the number of latents, 128"),
        ("8,8,128", "must rise"),
        ("-4,128", "must rise"),
        ("8;128", "as whole numbers"),
    ],
)
def test_group_sizes_that_cannot_be(text: str, sentence: str) -> None:
    config = replace(CONFIG, architecture="matryoshka_batch_topk", group_sizes=text)
    found = violations(config)
    assert [v.field for v in found] == ["group_sizes"]
    assert sentence in found[0].sentence
    assert violations(replace(config, architecture="topk")) == []
