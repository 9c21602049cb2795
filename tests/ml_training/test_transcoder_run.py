"""A run that trains a transcoder: its start, its checkpoints, its folded result, its settings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mistudio.core.config import to_dict, validate, violations
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.training_configs import TrainConfig
from mistudio.ml.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mistudio.ml.training.continue_run import run_from_sae
from mistudio.ml.training.metrics import loss_of
from mistudio.ml.training.plan_formulas import parameters, window_bytes
from mistudio.ml.training.run_state import RunState, TargetStatistics, restore_run

D, OUT, BATCH = 12, 7, 64
CPU = torch.device("cpu")
MIXING_DO = torch.randn(D, OUT, generator=torch.Generator().manual_seed(9))


class InputMeasured(NamedTuple):
    """What calibration found of the inputs."""

    mean_D: torch.Tensor
    scale: float
    variance: float


def config(**changes: object) -> TrainConfig:
    plain = TrainConfig(
        model="m", dataset="d", encoder="skip_transcoder", width=48, k=4, batch=BATCH,
        tokens=4000, learning_rate=3e-3, dead_window=256,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unscaled activations of two hooks of very different size."""
    x = 20 * torch.randn(BATCH, D, generator=torch.Generator().manual_seed(number)) + 5
    return x, 0.01 * torch.relu(x @ MIXING_DO) - 0.3


def fresh(settings: TrainConfig) -> RunState:
    x, y = (torch.cat(part) for part in zip(*map(batch, range(100, 116)), strict=True))
    s_in, s_out = ((w / t.square().sum(1).mean()).sqrt().item() for t, w in ((x, D), (y, OUT)))
    target = None
    if settings.encoder != "sae":
        target = TargetStatistics(y.mean(0), s_out, s_out**2 * float(y.var(0).sum()))
    return RunState(settings, x.mean(0), s_in, s_in**2 * float(x.var(0).sum()), CPU, target=target)


def go(run: RunState, steps: int) -> list[float]:
    """What the training loop does with each batch."""
    losses = []
    for _ in range(steps):
        x, y = batch(run.step)
        target = None if run.target is None else y * run.scale_out
        result = run.sae.gradients(x * run.scale, run.variance, run.extra(), target)
        losses.append(float(loss_of(result, run.schedule.aux_weight)))
        run.optimizer.step(run.schedule.rate_at(run.step))
        run.sae.normalise_decoder()
        run.take_in(result, losses[-1], BATCH)
        run.step += 1
    return losses


def test_it_starts_at_the_means_and_learns() -> None:
    run = fresh(config())
    assert run.target is not None
    assert torch.allclose(
        run.sae.parameters["b_dec_O"], (run.target.mean_O * run.scale_out).float()
    )
    assert run.variance == run.target.variance
    losses = go(run, 60)
    assert losses[0] < 1.1  # the mean of the target leaves its variance
    assert losses[-1] < 0.6 * losses[0]


def test_a_target_that_is_the_input_can_be_saved(tmp_path: Path) -> None:
    mean_D = torch.zeros(D, dtype=torch.float64)
    target = TargetStatistics(mean_D, 1.0, 1.0)
    run = RunState(config(), mean_D, 1.0, 1.0, CPU, target=target)
    again = load_checkpoint(save_checkpoint(tmp_path, run.checkpoint({}, {}, {})))
    assert torch.equal(again.state["target_mean"], again.state["input_mean"])


def test_auxiliary_k_follows_the_width_that_is_learnt() -> None:
    wide = TargetStatistics(torch.zeros(64), 1.0, 1.0)
    assert RunState(config(), torch.zeros(D), 1.0, 1.0, CPU, target=wide).schedule.aux_k == 32


@pytest.mark.parametrize("architecture", ["batch_topk", "jumprelu"])
@pytest.mark.parametrize("encoder", ["sae", "transcoder", "skip_transcoder"])
def test_a_run_that_is_taken_up_again_goes_on_alike(
    tmp_path: Path, encoder: str, architecture: str
) -> None:
    settings = config(encoder=encoder, architecture=architecture)
    whole, broken = fresh(settings), fresh(settings)
    expected = go(whole, 40)
    before = go(broken, 25)
    path = save_checkpoint(tmp_path, broken.checkpoint({}, {}, {}))
    again = restore_run(load_checkpoint(path), CPU, settings)
    assert before + go(again, 15) == expected
    for name, parameter in whole.sae.parameters.items():
        assert torch.equal(parameter, again.sae.parameters[name]), name
    for a, b in ((whole, again),):
        x, _ = batch(0)
        assert torch.equal(a.folded().reconstruct(x), b.folded().reconstruct(x))


def test_checkpoints_from_before_transcoders_can_be_gone_on_from() -> None:
    run = fresh(config(encoder="sae"))
    go(run, 3)
    saved = run.checkpoint({}, {}, {})
    values = {name: value for name, value in saved.values.items() if name != "scale_out"}
    values["config"] = {
        name: value
        for name, value in values["config"].items()
        if name not in ("encoder", "hook_in", "hook_out")
    }
    old = Checkpoint(saved.step, saved.model, saved.optimizer, saved.state, values)
    again = restore_run(old, CPU, config(encoder="sae"))
    assert go(again, 2) == go(run, 2)


def test_a_checkpoint_of_a_transcoder_is_none_of_an_sae() -> None:
    saved = fresh(config()).checkpoint({}, {}, {})
    with pytest.raises(Mismatch, match="settings differ"):
        restore_run(saved, CPU, config(encoder="transcoder"))
    values = {**saved.values, "config": to_dict(config(encoder="transcoder"))}
    parameters = {n: t for n, t in saved.model.items() if n != "b_dec_O"}
    with pytest.raises(Mismatch, match="b_dec_O"):
        restore_run(dataclasses.replace(saved, values=values, model=parameters), CPU)


@pytest.mark.parametrize("encoder", ["transcoder", "skip_transcoder"])
def test_the_folded_transcoder_reads_and_gives_unscaled_activations(encoder: str) -> None:
    run = fresh(config(encoder=encoder, architecture="standard", target_l0=0.0))
    go(run, 60)
    x, y = batch(7)
    result = run.sae.gradients(x * run.scale, run.variance, None, y * run.scale_out)
    folded = run.folded()
    assert folded.encoder == encoder
    error = (folded.reconstruct(x) - y).square().sum() * run.scale_out**2
    assert error.item() == pytest.approx(float(result.squared_error), rel=1e-3)


@pytest.mark.parametrize("subtracts", [False, True])
@pytest.mark.parametrize("architecture", ["batch_topk", "topk", "standard", "jumprelu"])
@pytest.mark.parametrize("encoder", ["transcoder", "skip_transcoder"])
def test_a_run_can_begin_at_a_transcoder(encoder: str, architecture: str, subtracts: bool) -> None:
    """At step 0 it computes what the transcoder does, whatever the two scales are."""
    settings = config(encoder=encoder, architecture=architecture, target_l0=0.0)
    first = fresh(settings)
    go(first, 30)
    trained, (x, y) = first.folded(), batch(3)
    if subtracts:  # as another program may have trained it
        if trained.d_in != trained.d_out:
            y = torch.nn.functional.pad(y, (0, D - OUT), value=0.1)
            trained = dataclasses.replace(
                trained,
                W_dec_FO=torch.nn.functional.pad(trained.W_dec_FO, (0, D - OUT)),
                b_dec_O=torch.nn.functional.pad(trained.b_dec_O, (0, D - OUT), value=0.1),
                W_skip_OD=None
                if trained.W_skip_OD is None
                else torch.nn.functional.pad(trained.W_skip_OD, (0, 0, 0, D - OUT)),
            )
        trained = dataclasses.replace(trained, apply_b_dec_to_input=True)
    measured = InputMeasured(x.mean(0), 0.07, 9.0)
    target = TargetStatistics(y.mean(0), 3.1, 5.0)
    run = run_from_sae(trained, settings, measured, CPU, target)
    assert torch.allclose(run.folded().reconstruct(x), trained.reconstruct(x), atol=2e-4)
    assert (run.scale, run.scale_out, run.variance) == (0.07, 3.1, 5.0)
    if not subtracts:
        assert all(0 < loss < float("inf") for loss in go(run, 5))


def test_a_run_begins_only_at_what_it_trains() -> None:
    trained = fresh(config(encoder="transcoder")).folded()
    measured = InputMeasured(torch.zeros(D), 1.0, 1.0)
    target = TargetStatistics(torch.zeros(OUT), 1.0, 1.0)
    for other in ("sae", "skip_transcoder"):
        with pytest.raises(InvalidInput, match=f"type {other}, and this is of type transcoder"):
            run_from_sae(trained, config(encoder=other), measured, CPU, target)
    narrow = TargetStatistics(torch.zeros(OUT - 1), 1.0, 1.0)
    with pytest.raises(Mismatch, match="gives width 7, its target has 6"):
        run_from_sae(trained, config(encoder="transcoder"), measured, CPU, narrow)


def test_a_plan_counts_the_skip_and_both_sides() -> None:
    plain, skip = config(encoder="sae"), config()
    assert parameters(skip, 64) - parameters(plain, 64) == 64 * 64
    assert window_bytes(skip, 64) == 2 * window_bytes(plain, 64)


def test_statistics_of_a_target_belong_to_transcoders_alone() -> None:
    target = TargetStatistics(torch.zeros(OUT), 1.0, 1.0)
    with pytest.raises(InvalidInput, match="statistics of a target"):
        RunState(config(), torch.zeros(D), 1.0, 1.0, CPU)
    with pytest.raises(InvalidInput, match="statistics of a target"):
        RunState(config(encoder="sae"), torch.zeros(D), 1.0, 1.0, CPU, target=target)


def test_settings_of_a_transcoder() -> None:
    plain = config(tokens=1000 * BATCH)
    validate(plain)
    assert (plain.hook_read, plain.hook_written) == ("mlp_in", "mlp_out")
    assert plain.place == "mlp_in → mlp_out"
    assert plain.warnings() == []
    sae = dataclasses.replace(plain, encoder="sae", hook="attn_out", hook_in="resid_post")
    validate(sae)  # hooks of a transcoder do not count
    assert (sae.hook_read, sae.hook_written, sae.place) == ("attn_out",) * 3
    assert sae.warnings() == []


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"architecture": "gated"}, "architecture", "no gated transcoder"),
        ({"hook_in": "resid_post"}, "hook_out", "mlp_out is computed before resid_post"),
        ({"hook_in": "mlp_out", "hook_out": "attn_out"}, "hook_out", "computed before"),
        ({"hook_out": "mlp_in"}, "hook_out", "must be one of"),
        ({"encoder": "crosscoder"}, "encoder", "must be one of"),
    ],
)
def test_what_a_transcoder_cannot_be(changes: dict[str, str], field: str, words: str) -> None:
    found = violations(config(**changes))
    assert [v.field for v in found] == [field]
    assert words in found[0].sentence


def test_equal_hooks_are_allowed_with_a_warning() -> None:
    same = config(hook_in="resid_post", hook_out="resid_post")
    validate(same)
    assert "skip connection alone can copy" in same.warnings()[0]
    without = dataclasses.replace(same, encoder="transcoder")
    validate(without)
    assert "does not subtract" in without.warnings()[0]
