"""A run may begin at another run's checkpoint or at an SAE, and loses nothing on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mistudio.core.atomic import sha256_file
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.events import RecordingReporter
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_rules import ARCHITECTURES
from mistudio.ml.formats.dictionary_learning import write_dictionary_learning
from mistudio.ml.formats.registry import read_any
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.training.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from mistudio.ml.training.continue_run import extend_run, run_from_sae
from mistudio.ml.training.finished import folded
from mistudio.ml.training.keeping import (
    Keeping,
    list_checkpoints,
    read_values,
    step_of,
    write_keeping,
)
from mistudio.ml.training.loop import TrainResult, train
from tests.helpers.activations import FakeStream, batch_at, statistics_of

D, BATCH = 32, 256
CPU = torch.device("cpu")
CONFIG = TrainConfig(
    model="m",
    dataset="d",
    architecture="topk",
    width=128,
    k=6,
    target_l0=6.0,
    batch=BATCH,
    tokens=BATCH * 60,
    warmup_steps=5,
    dead_window=3000,
    aux_k=4,
    decay_share=0.0,
    checkpoint_every=30,
)
EVERY_ARCHITECTURE = pytest.mark.parametrize("architecture", ARCHITECTURES)


def run(folder: Path, config: TrainConfig, **options: Any) -> TrainResult:
    stream = FakeStream(config.batch, D)
    reporter = RecordingReporter()
    return train(config, stream, statistics_of(D), folder, reporter, JobControl(), **options)


def extended(folder: Path, source: Path, config: TrainConfig) -> Path:
    """The first checkpoint of a run that continues the one of `source`."""
    saved = load_checkpoint(source)
    state = extend_run(saved, config, CPU)
    return save_checkpoint(folder, state.checkpoint(saved.values["data"], {}, {}))


def held_out() -> torch.Tensor:
    return torch.cat([batch_at(-50 - i, batch=200, d=D) for i in range(2)])


def test_an_interval_that_was_decided_later_counts(tmp_path: Path) -> None:
    write_keeping(tmp_path, Keeping(every=25, pinned=(25,)))
    run(tmp_path, replace(CONFIG, checkpoint_every=0))
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [25, 50, 60]
    assert read_values(checkpoint_path(tmp_path, 60))["l0"] == pytest.approx(6.0)


def test_a_longer_run_is_the_one_that_was_long_from_the_start(tmp_path: Path) -> None:
    longer = replace(CONFIG, tokens=BATCH * 120, decay_share=0.25)
    whole = run(tmp_path / "whole", longer)
    run(tmp_path / "short", CONFIG)
    begin = extended(tmp_path / "more", checkpoint_path(tmp_path / "short", 60), longer)
    more = run(tmp_path / "more", longer, resume_from=begin)
    assert (more.outcome, more.step, more.tokens) == ("completed", 120, BATCH * 120)
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(more.checkpoint / name) == sha256_file(whole.checkpoint / name)


@EVERY_ARCHITECTURE
def test_every_architecture_goes_on_with_other_settings(tmp_path: Path, architecture: str) -> None:
    config = replace(CONFIG, architecture=architecture)
    run(tmp_path / "a", config)
    saved = load_checkpoint(checkpoint_path(tmp_path / "a", 30))
    changed = replace(config, tokens=BATCH * 70, learning_rate=2e-3, k=5, target_l0=5.0)
    state = extend_run(saved, changed, CPU)
    assert state.step == 30
    for name, parameter in state.sae.parameters.items():
        assert torch.equal(parameter, saved.model[name]), name
    for name, moment in state.optimizer.state().items():
        assert torch.equal(moment, saved.optimizer[name]), name
    begin = extended(tmp_path / "b", checkpoint_path(tmp_path / "a", 30), changed)
    more = run(tmp_path / "b", changed, resume_from=begin)
    assert (more.outcome, more.step) == ("completed", 70)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 256}, "Latents cannot change"),
        ({"layer": 2}, "Layer cannot change"),
        ({"batch": 128}, "Batch cannot change"),
        ({"architecture": "batch_topk"}, "Architecture cannot change"),
    ],
)
def test_what_a_continued_run_shares(tmp_path: Path, change: dict[str, Any], sentence: str) -> None:
    run(tmp_path, replace(CONFIG, tokens=BATCH * 30))
    saved = load_checkpoint(checkpoint_path(tmp_path, 30))
    with pytest.raises(Mismatch, match=sentence):
        extend_run(saved, replace(CONFIG, **change), CPU)
    with pytest.raises(InvalidInput, match="7,680 tokens already"):
        extend_run(saved, replace(CONFIG, tokens=BATCH * 30), CPU)
    with pytest.raises(Mismatch, match="tokenization differs"):
        extend_run(saved, CONFIG, CPU, {"tokenization": "another"})


def made(architecture: str, **changes: Any) -> SparseAutoencoder:
    """An SAE of random weights in units of the activations, some thresholds above zero."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    W_dec_FO = torch.nn.functional.normalize(normal(128, D), dim=1)
    values: dict[str, Any] = {
        "W_enc_DF": W_dec_FO.T + 0.1 * normal(D, 128),
        "b_enc_F": 0.5 * normal(128),
        "W_dec_FO": W_dec_FO,
        "b_dec_O": 2.5 + 0.1 * normal(D),
        "k": {"topk": 6, "groupmax": 8}.get(architecture),
        "threshold_F": normal(128).abs() if architecture == "jumprelu" else None,
    }
    return SparseAutoencoder(architecture=architecture, **{**values, **changes})


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("standard", "standard"),
        ("standard", "gated"),
        ("standard", "jumprelu"),
        ("jumprelu", "jumprelu"),
        ("jumprelu", "gated"),
        ("topk", "topk"),
    ],
)
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("norm", ["constant", "none"])
def test_at_step_0_it_computes_what_the_sae_does(
    source: str, target: str, subtracts: bool, norm: str
) -> None:
    sae = made(source, apply_b_dec_to_input=subtracts)
    config = replace(CONFIG, architecture=target, input_norm=norm)
    state = run_from_sae(sae, config, statistics_of(D), CPU)
    again = state.sae.folded(state.scale, state.threshold.value)
    x_BD = held_out()
    torch.testing.assert_close(again.encode(x_BD), sae.encode(x_BD), rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(again.reconstruct(x_BD), sae.reconstruct(x_BD), rtol=1e-3, atol=1e-3)
    assert state.step == 0


def test_rows_of_other_lengths_are_made_unit_first() -> None:
    unit = made("standard")
    lengths_F = 0.5 + torch.rand(128, generator=torch.Generator().manual_seed(5))
    sae = replace(unit, W_dec_FO=unit.W_dec_FO * lengths_F[:, None])
    state = run_from_sae(sae, replace(CONFIG, architecture="standard"), statistics_of(D), CPU)
    x_BD = held_out()
    again = state.sae.folded(state.scale)
    torch.testing.assert_close(again.reconstruct(x_BD), sae.reconstruct(x_BD), rtol=1e-3, atol=1e-3)


def of_other_lengths(**changes: Any) -> SparseAutoencoder:
    """A TopK whose rows differ in length, which decides nothing about what it keeps."""
    unit = made("topk", **changes)
    lengths_F = 0.5 + torch.rand(128, generator=torch.Generator().manual_seed(5))
    lengths_F[7] = 0.0
    return replace(unit, W_dec_FO=unit.W_dec_FO * lengths_F[:, None])


@pytest.mark.parametrize("subtracts", [True, False])
def test_a_topk_keeps_the_lengths_of_its_rows(tmp_path: Path, subtracts: bool) -> None:
    sae, x_BD = of_other_lengths(apply_b_dec_to_input=subtracts), held_out()
    unscaled = replace(CONFIG, input_norm="none")
    again = folded(run_from_sae(sae, unscaled, statistics_of(D), CPU))
    assert torch.equal(again.encode(x_BD) > 0, sae.encode(x_BD) > 0)
    y_BO = sae.reconstruct(x_BD)
    assert (again.reconstruct(x_BD) - y_BO).abs().max() <= 1e-6 * y_BO.abs().max()
    state = run_from_sae(sae, CONFIG, statistics_of(D), CPU)
    begin = save_checkpoint(tmp_path / "whole", state.checkpoint({"position": 0}, {}, {}))
    whole = run(tmp_path / "whole", CONFIG, resume_from=begin)
    assert whole.sae is not None
    assert whole.checkpoint is not None
    lengths_F, before_F = (one.W_dec_FO.norm(dim=1) for one in (whole.sae, sae))
    before_F[7] = 0.0 if lengths_F[7] == 0 else 1.0  # a row of zeros is unit once it has learnt
    torch.testing.assert_close(lengths_F, before_F, rtol=1e-5, atol=1e-6)
    turned = torch.nn.functional.cosine_similarity(whole.sae.W_dec_FO, sae.W_dec_FO)
    assert turned[8:].min() < 0.999, "the rows have learnt"
    # a run that is continued in its middle ends at the very same bytes
    halfway = checkpoint_path(tmp_path / "whole", 30)
    more = run(tmp_path / "more", CONFIG, resume_from=halfway)
    assert more.checkpoint is not None
    for name in ("model.safetensors", "optimizer.safetensors", "state.safetensors"):
        assert sha256_file(more.checkpoint / name) == sha256_file(whole.checkpoint / name)
    longer = extend_run(load_checkpoint(halfway), replace(CONFIG, tokens=BATCH * 99), CPU)
    assert longer.sae.row_lengths_F is not None
    # what it has become is written and read as it is
    for number, write in enumerate((write_saelens, write_dictionary_learning, write_sparsify)):
        write(tmp_path / str(number), whole.sae, {"hook_name": "blocks.1.hook_resid_post"})
        back = read_any(tmp_path / str(number))[1]
        assert torch.equal(back.encode(x_BD) > 0, whole.sae.encode(x_BD) > 0)
        told = whole.sae.reconstruct(x_BD)
        assert (back.reconstruct(x_BD) - told).abs().max() <= 1e-6 * told.abs().max()


def test_a_batch_topk_from_such_a_topk_ends_with_unit_rows(tmp_path: Path) -> None:
    config = replace(CONFIG, architecture="batch_topk")
    state = run_from_sae(of_other_lengths(), config, statistics_of(D), CPU)
    begin = save_checkpoint(tmp_path, state.checkpoint({"position": 0}, {}, {}))
    result = run(tmp_path, config, resume_from=begin, calibration=lambda: iter([held_out()]))
    assert result.sae is not None
    assert result.sae.threshold_F is not None
    lengths_F, x_BD = result.sae.W_dec_FO.norm(dim=1), held_out()
    assert (lengths_F - 1).abs()[8:].max() <= 1e-5
    assert result.sae.threshold_F.std() > 0.1 * result.sae.threshold_F.mean()
    assert result.threshold == pytest.approx(float(result.sae.threshold_F.mean()))
    assert (result.sae.encode(x_BD) > 0).sum(1).double().mean() == pytest.approx(6, abs=0.1)


def test_a_batch_topk_begins_with_its_threshold(tmp_path: Path) -> None:
    config = replace(CONFIG, architecture="batch_topk")
    trained = run(tmp_path, config).sae
    assert trained is not None
    statistics = statistics_of(D)
    state = run_from_sae(trained, config, statistics, CPU)
    again = state.sae.folded(state.scale, state.threshold.value)
    x_BD = held_out()
    torch.testing.assert_close(again.encode(x_BD), trained.encode(x_BD), rtol=1e-4, atol=1e-4)
    path = save_checkpoint(tmp_path / "b", state.checkpoint({"position": 0}, {}, {}))
    assert run(tmp_path / "b", config, resume_from=path).outcome == "completed"


@pytest.mark.parametrize(
    ("source", "change", "sentence"),
    [
        ("topk", {"architecture": "jumprelu"}, "cannot be trained on as jumprelu; it can as topk"),
        ("groupmax", {}, "no training here that a groupmax SAE fits"),
        ("topk", {"width": 64}, "has 128 latents"),
        ("jumprelu", {"architecture": "batch_topk"}, "a threshold for each latent"),
    ],
)
def test_what_cannot_be_trained_on(source: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises((InvalidInput, Mismatch), match=sentence):
        run_from_sae(made(source), replace(CONFIG, **change), statistics_of(D), CPU)
    wider = statistics_of(2 * D)
    with pytest.raises(Mismatch, match="expects width 32, the activations have 64"):
        run_from_sae(made("topk"), CONFIG, wider, CPU)
    flat = made("jumprelu", threshold_F=torch.ones(128))
    nested = replace(CONFIG, architecture="matryoshka_batch_topk")
    with pytest.raises(InvalidInput, match="not nested"):
        run_from_sae(flat, nested, statistics_of(D), CPU)
