"""The plan of a training: sums, verdicts, ways out, and what each setting changes."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from mistudio.core.errors import DiskFull, OutOfMemory
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES
from mistudio.ml.activations.masking import default_forward_batch
from mistudio.ml.evaluation.held_out import HELD_OUT_TOKENS
from mistudio.ml.evaluation.language_model_loss import LOGIT_ENTRIES
from mistudio.ml.sae import auxiliary, base, dense, sparse_gradient, trainable
from mistudio.ml.training import learner, plan_formulas, probe
from mistudio.ml.training.plan import Plan, Rates, check_fits, memory_items, plan
from mistudio.ml.training.plan_formulas import ModelNeeds, Room
from mistudio.ml.training.run_state import RunState

GB = 10**9
MODEL = ModelNeeds("small", 540_000_000, 135_000_000, 30, 576, 49_152, 1536)
CONFIG = TrainConfig(
    model="m",
    dataset="d",
    width=65_536,
    layer=9,
    tokens=20_000_000,
    batch=8192,
    checkpoint_every=100,
)


ROOM = Room("cpu", 20 * GB, 24 * GB, 100 * GB, cores=2)


def planned(*members: TrainConfig, free: float = 20 * GB, **values: Any) -> Plan:
    room = Room("cpu", int(free), 24 * GB, values.pop("disk_free", 100 * GB), cores=2)
    return plan(members or (CONFIG,), MODEL, room, context=256, **values)


def test_the_formulas_share_the_constants_of_the_code() -> None:
    assert plan_formulas.CHUNK_ENTRIES == trainable.CHUNK_ENTRIES
    assert plan_formulas.MIN_CHUNK_ROWS == trainable.MIN_CHUNK_ROWS
    assert plan_formulas.SLICE_BYTES == sparse_gradient.SLICE_BYTES
    assert plan_formulas.AUX_DENSE == auxiliary.DENSE_FACTOR
    assert plan_formulas.GPU_CHUNK_ENTRIES == trainable.GPU_CHUNK_ENTRIES
    assert plan_formulas.GPU_CHUNK_SHARE == trainable.GPU_CHUNK_SHARE
    assert plan_formulas._ACTIVE_SHARE["cpu"] == dense.SPARSE_BELOW["cpu"]
    assert plan_formulas._ACTIVE_SHARE["cuda"] == dense.SPARSE_BELOW_ELSEWHERE
    assert plan_formulas.LOGIT_ENTRIES == LOGIT_ENTRIES
    assert plan_formulas.CALIBRATION_TOKENS == learner.CALIBRATION_TOKENS
    assert plan_formulas.FOLLOWED_TOKENS == HELD_OUT_TOKENS
    assert plan_formulas.ENCODE_ENTRIES == base.CHUNK_ENTRIES
    assert default_forward_batch(256) * 256 == plan_formulas.FORWARD_TOKENS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("change", [{}, {"optimizer": "sgd"}, {"eight_bit_moments": True}])
def test_state_is_what_weights_gradients_and_moments_take(
    architecture: str, change: dict[str, Any]
) -> None:
    config = replace(CONFIG, architecture=architecture, width=2048, batch=64, **change)
    run = RunState(config, torch.zeros(96), 1.0, 96.0, torch.device("cpu"))
    for _ in range(2):
        run.sae.gradients(torch.randn(64, 96), 96.0, None)
        run.optimizer.step(1e-4)
    grads = [p.grad for p in run.sae.parameters.values() if p.grad is not None]
    tensors = [
        *run.sae.parameters.values(),
        *grads,
        *run.optimizer.state().values(),
        *run.tracker.state().values(),
        *run.rates.state().values(),
    ]
    held = sum(t.numel() * t.element_size() for t in tensors)
    assert plan_formulas.state_bytes(config, 96) == pytest.approx(held, rel=0.03)
    saved = held - sum(g.numel() * g.element_size() for g in grads)
    assert plan_formulas.saved_bytes(config, 96) == pytest.approx(saved, rel=0.05)


def test_items_add_up_and_every_part_is_there() -> None:
    found = planned()
    assert found.total == sum(item.bytes for item in found.items)
    assert [item.name for item in found.items] == ["Language model", "SAE", "One training step"]
    assert found.items[0].bytes == MODEL.weight_bytes
    assert found.items[1].bytes == pytest.approx(32 * 576 * 65_536, rel=0.01)
    assert (found.verdict, found.proposals, found.refusal) == ("fits", (), "")
    assert found.steps == 2442
    assert found.saes == 1
    for part in ("1 SAE", "20,000,000 tokens", "2,442 steps", "20.0 GB free", "very roughly"):
        assert part in found.summary


def test_a_gpu_forms_more_at_a_time() -> None:
    for total, expected in ((24 * GB, 187_500_000), (80 * GB, 1 << 28), (GB, 9 << 20)):
        room = Room("cuda", total, total, 100 * GB)
        assert plan_formulas.chunk_entries(room) == expected
    assert plan_formulas.step_bytes(CONFIG, 576, Room("cuda", 24 * GB, 24 * GB, GB)) > (
        2 * plan_formulas.step_bytes(CONFIG, 576, ROOM)
    )


def test_a_small_sae_is_fullest_when_it_is_evaluated() -> None:
    found = planned(replace(CONFIG, width=512))
    assert [item.name for item in found.items][1:] == ["Finished SAE", "Evaluation"]
    assert found.total == sum(item.bytes for item in found.items)


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({"width": 131_072}, 1),
        ({"batch": 16_384}, 1),
        ({"batch": 64}, -1),
        ({"eight_bit_moments": True}, -1),
        ({"optimizer": "sgd"}, -1),
        ({"precision": "bf16"}, 1),
        ({"k": 512}, 1),
        ({"aux_k": 0}, -1),
        ({"architecture": "jumprelu"}, 1),
        ({"architecture": "matryoshka_batch_topk"}, 1),
    ],
)
def test_every_setting_moves_the_memory(change: dict[str, Any], sign: int) -> None:
    assert sign * (planned(replace(CONFIG, **change)).total - planned().total) > 0


def test_tight_memory_warns_and_too_little_refuses_with_ways_that_work() -> None:
    total = planned().total
    warned = planned(free=total * 1.1)
    assert (warned.verdict, warned.refusal) == ("warn", "")
    check_fits(warned)
    little = 0.95 * (total - MODEL.weight_bytes)
    refused = planned(free=little, divisible=False)
    assert (refused.verdict, refused.alternates) == ("refuse", False)
    assert len(refused.proposals) >= 2
    for proposal in refused.proposals:
        assert proposal.changes
        changed = replace(CONFIG, **proposal.changes)
        again = planned(changed, free=little, disk_free=10**15, divisible=False)
        assert again.total == proposal.total
        assert again.verdict != "refuse"
    with pytest.raises(OutOfMemory, match=r"does not fit into memory.*It would with") as caught:
        check_fits(refused)
    assert caught.value.code == "does_not_fit"
    hopeless = planned(free=MODEL.weight_bytes // 2)
    assert hopeless.proposals == ()
    with pytest.raises(OutOfMemory, match="Use a smaller model or SAE"):
        check_fits(hopeless)


DENSE = replace(CONFIG, architecture="jumprelu")


def test_batches_that_do_not_fit_go_in_pieces() -> None:
    whole = planned(DENSE)
    assert (whole.pieces, whole.in_pieces) == (0, "")
    assert planned(DENSE, free=whole.total).pieces == 0  # tight, but it fits
    found = planned(DENSE, free=0.6 * whole.total)
    assert (found.verdict, found.refusal) == ("fits", "")
    assert (found.pieces, found.steps) == (1024, whole.steps)
    assert found.total == sum(item.bytes for item in found.items)
    assert found.total == planned(replace(DENSE, micro_batch=1024)).total
    assert found.total <= 0.75 * found.free
    larger = planned(replace(DENSE, micro_batch=2048)).total
    assert larger > 0.75 * found.free  # as large as leaves room
    assert found.whole == whole.total
    assert found.in_pieces in found.summary
    assert "pieces of 1,024 tokens" in found.in_pieces
    assert {"batch": 2048} in [proposal.changes for proposal in found.proposals]
    tight = planned(DENSE, free=planned(replace(DENSE, micro_batch=64)).total / 0.9)
    assert tight.verdict == "warn"
    assert tight.pieces >= 64
    check_fits(tight)


def test_what_pieces_do_not_help_is_refused() -> None:
    least = planned(replace(DENSE, micro_batch=64)).total - MODEL.weight_bytes
    found = planned(DENSE, free=0.99 * least)
    assert (found.verdict, found.pieces) == ("refuse", 0)
    assert planned(DENSE, free=0.6 * planned(DENSE).total, divisible=False).verdict == "refuse"


def test_where_they_do_not_fit_together_the_model_is_let_go_while_the_sae_is_trained() -> None:
    config = replace(CONFIG, batch=1024, tokens=10_000_000)
    together = planned(config)
    assert (together.loads, together.alternating) == (0, "")
    found = planned(config, free=0.99 * together.total, text_tokens=20_000_000)
    windows = math.ceil(10_000_000 / config.window)
    # pieces of a small batch save too little; beside windows there are three held-out readings
    assert (found.pieces, found.loads) == (0, windows + 3)
    assert found.whole == together.total
    assert found.alternating in found.summary
    assert found.seconds > planned(config, text_tokens=20_000_000).seconds
    state = plan_formulas.state_bytes(config, 576)
    step = plan_formulas.step_bytes(config, 576, ROOM) + plan_formulas.auxiliary_bytes(config, 576)
    finish = plan_formulas.finish_bytes(config, 576, ROOM)
    read = MODEL.weight_bytes + plan_formulas.forward_bytes(MODEL, 256)
    measure = MODEL.weight_bytes + plan_formulas.finished_bytes(config, 576)
    measure += plan_formulas.evaluation_bytes(config, 576, MODEL, 256, ROOM)
    assert found.total == max(state + max(step, finish, read), measure)
    assert found.total == sum(item.bytes for item in found.items)


def test_of_the_phases_of_a_model_that_is_let_go_the_largest_counts() -> None:
    config = replace(CONFIG, batch=1024, eval_tokens=512)
    large = replace(MODEL, weight_bytes=3 * GB)
    last = {}
    for width, model in ((1 << 17, large), (1 << 18, MODEL)):
        own = replace(config, width=width)
        together = memory_items([own], model, ROOM, 256, 576)
        apart = memory_items([own], model, ROOM, 256, 576, alternates=True)
        less = sum(item.bytes for item in together) - sum(item.bytes for item in apart)
        assert 0 < less <= model.weight_bytes
        names = [item.name for item in apart]
        last[width] = names[-1]
        assert ("Language model" in names) == (names[-1] == "One pass of the model")
    assert last == {1 << 17: "One pass of the model", 1 << 18: "Finishing"}


def test_a_few_pieces_come_before_letting_the_model_go() -> None:
    whole = planned(DENSE).total
    assert planned(DENSE, free=0.99 * whole).loads == 0
    assert planned(DENSE, free=0.99 * whole).pieces == 4096
    least = planned(replace(DENSE, micro_batch=64)).total
    found = planned(DENSE, free=0.99 * least)
    assert found.alternates
    assert found.pieces > 64
    assert f"pieces of {found.pieces:,} tokens" in found.summary
    assert found.alternating in found.summary


def test_a_text_that_is_one_window_is_read_once() -> None:
    config = replace(CONFIG, batch=1024, window=1 << 20)
    total = planned(config, text_tokens=1_500_000).total
    found = planned(config, text_tokens=1_500_000, free=0.99 * total)
    assert found.loads == 4
    stored = replace(config, activations="set")
    assert planned(stored, text_tokens=1_500_000, free=0.99 * total).loads == 4


def test_a_micro_batch_needs_room_for_the_sum_of_gradients() -> None:
    weights = 4 * plan_formulas.parameters(DENSE, 576)
    halves = replace(DENSE, micro_batch=DENSE.batch // 2)
    small = replace(DENSE, batch=DENSE.batch // 2)
    rows = 4 * 576 * DENSE.batch // 2  # of what is still there for the whole batch
    assert plan_formulas.step_bytes(halves, 576, ROOM) == pytest.approx(
        plan_formulas.step_bytes(small, 576, ROOM) + weights + 2 * rows
    )
    assert plan_formulas.rows_of(replace(DENSE, micro_batch=DENSE.batch * 2)) == DENSE.batch


def test_a_full_disk_refuses() -> None:
    need = planned().disk
    assert planned(disk_free=need).verdict == "fits"
    with pytest.raises(DiskFull, match="does not fit on the disk"):
        check_fits(planned(disk_free=need - 1))


def test_disk_is_checkpoints_that_stay_the_window_and_the_sae() -> None:
    one = 24 * 576 * 65_536
    found = planned(replace(CONFIG, checkpoint_every=0))
    window = 262_144 * 576 * 2
    held_out = 2 * 32_768 * 576 * 4
    assert found.disk == pytest.approx(one + one / 3 + window + held_out, rel=0.02)
    many = planned()
    assert many.disk - found.disk == pytest.approx(9 * one, rel=0.02)


def test_several_saes_share_the_model_and_the_largest_step() -> None:
    members = [replace(CONFIG, layer=layer) for layer in (3, 9, 12)]
    one, three = planned(), planned(*members)
    assert three.saes == 3
    assert three.items[1].name == "SAEs"
    assert three.items[1].bytes == 3 * one.items[1].bytes
    grown = three.items[2].bytes - one.items[2].bytes
    assert grown == 2 * plan_formulas.chunk_bytes(CONFIG, ROOM)  # each keeps its buffer
    tight = planned(*members, free=three.total * 0.8)
    assert any(proposal.layers == 1 for proposal in tight.proposals)
    assert "3 SAEs from one pass" in three.summary


def test_a_probe_replaces_the_guesses() -> None:
    rates = Rates(step_s=(0.1,), forward_tokens_per_s=10_000.0, forward_bytes=5 * GB)
    found = planned(rates=rates, text_tokens=10**9)
    assert found.measured
    assert "about" in found.summary
    assert found.items[-1].name == "One pass of the model"
    assert found.items[-1].bytes == 5 * GB
    passed = plan_formulas.forward_tokens(CONFIG, 10**9)
    assert passed > CONFIG.tokens
    assert found.seconds == pytest.approx(244.2 + passed / 10_000, rel=0.1)


def test_a_look_takes_as_long_as_the_probe_says() -> None:
    config = replace(CONFIG, checkpoint_every=500, eval_every=100)
    few = Rates((0.1,), 1e12, 0, (4000.0,))
    many = replace(few, measured_tokens_per_s=(2000.0,))
    one, two = (planned(config, rates=rates, text_tokens=10**9).seconds for rates in (few, many))
    tokens = plan_formulas.looks(config) * plan_formulas.FOLLOWED_TOKENS
    assert two - one == pytest.approx(
        (tokens + plan_formulas.finish_tokens(config, 10**9)) / 4000, rel=1e-3
    )
    assert two - one > 24 * 32_768 / 4000


def test_times_follow_from_what_a_core_does() -> None:
    def seconds(model: ModelNeeds, **room: Any) -> float:
        found = plan([CONFIG], model, replace(ROOM, **room), context=256, text_tokens=10**9)
        return found.seconds

    slow = seconds(MODEL, core_flops=3e10)
    assert seconds(MODEL, core_flops=6e10) == pytest.approx(slow / 2)
    assert seconds(MODEL, core_flops=3e10, cores=1) == pytest.approx(2 * slow)
    step = plan_formulas.step_flops(CONFIG, 576) / 6e10
    passed = plan_formulas.forward_tokens(CONFIG, 10**9)
    per_token = plan_formulas.forward_flops(MODEL, 9) / (0.6 * 6e10)
    assert slow == pytest.approx(2442 * step + passed * per_token, rel=0.1)
    assert seconds(replace(MODEL, value_bytes=2), core_flops=3e10) > 1.5 * slow  # 16 bit is slow


def test_a_short_text_takes_short_measuring() -> None:
    config = replace(CONFIG, architecture="batch_topk", tokens=8192, batch=64)
    assert plan_formulas.calibration_tokens(config, 0) == plan_formulas.CALIBRATION_TOKENS
    assert plan_formulas.calibration_tokens(config, 40_000) == 2000
    assert plan_formulas.calibration_tokens(replace(config, architecture="topk"), 0) == 0
    assert plan_formulas.held_out_tokens(config, 40_000) == 2000
    assert plan_formulas.held_out_tokens(replace(config, eval_tokens=1024), 40_000) == 1024
    assert plan_formulas.forward_tokens(config, 40_000) == 8192 + 40_000 + 4000 + 2000


@pytest.mark.parametrize(
    ("steps", "saves", "every"), [(60, 15, 24), (61, 15, 0), (7, 0, 0), (9, 3, 9)]
)
def test_every_look_at_held_out_text_is_counted(steps: int, saves: int, every: int) -> None:
    config = replace(CONFIG, tokens=64 * steps, batch=64, checkpoint_every=saves, eval_every=every)
    due = [s for s in range(1, steps + 1) if any(n and s % n == 0 for n in (saves, every))]
    assert plan_formulas.looks(config) == len({*due, steps})
    finish = plan_formulas.finish_tokens(config, 40_000)
    assert plan_formulas.measured_tokens(config, 40_000) == finish + 2000 * len({*due, steps})


def test_a_text_that_fits_into_the_window_passes_the_model_once() -> None:
    short = plan_formulas.forward_tokens(CONFIG, 200_000)
    assert short < 600_000
    assert plan_formulas.forward_tokens(CONFIG, 10**8) > 20_000_000


def test_stored_activations_take_one_pass_and_no_model() -> None:
    config = replace(CONFIG, activations="stored", tokens=0)
    found = planned(config, text_tokens=819_200)
    assert (found.tokens, found.steps) == (819_200, 100)
    live = planned(replace(CONFIG, tokens=819_200), text_tokens=819_200)
    assert found.seconds < live.seconds


def test_planning_loads_no_torch() -> None:
    code = "import sys, mistudio.ml.training.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_probe_measures_steps_and_keeps_nothing() -> None:
    from mistudio.core.control import JobControl

    for change in ({}, {"micro_batch": 16}, {"encoder": "transcoder"}):
        config = replace(CONFIG, width=512, batch=64, **change)
        seconds = probe.probe_steps(config, 32, torch.device("cpu"), JobControl(), steps=5)
        assert 0 < seconds < 5
        rate = probe.probe_measuring(config, 32, torch.device("cpu"), JobControl(), tokens=64)
        assert rate > 64 / 5
