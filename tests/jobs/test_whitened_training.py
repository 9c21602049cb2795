"""Whitened trainings as jobs: in a sweep, alone, continued, their files and their SAEs."""

from __future__ import annotations

from pathlib import Path

from mistudio.core.config import from_dict, to_dict
from mistudio.core.sweep_configs import SweepConfig
from mistudio.jobs.runner import Studio
from mistudio.store import trainings
from mistudio.store.tables import SAES, TRAININGS
from tests.helpers.studio import run, tiny_studio, tiny_training


def test_a_whitened_member_of_a_sweep_is_the_one_trained_alone_and_goes_on(tmp_path: Path) -> None:
    studio = tiny_studio(tmp_path)
    base = tiny_training(tokens=64 * 60)
    sweep = from_dict(
        SweepConfig, {**to_dict(base), "layers": "1", "vary": ["input_norm=constant,whitening"]}
    )
    result = run(studio, "sweep", sweep)
    rows = trainings.of_group(studio.db(), result["sweep"])
    by_norm = {row.config["input_norm"]: row for row in rows}
    assert set(by_norm) == {"constant", "whitening"}
    assert not (studio.paths.run(by_norm["constant"].id) / "statistics.safetensors").exists()
    row = by_norm["whitening"]
    folder = studio.paths.run(row.id)
    assert (folder / "statistics.safetensors").exists()
    sae = SAES.get(studio.db(), row.sae_id or "")
    assert (sae.evaluation or {})["ev"] > 0.2  # of plain activations, held out
    config = next(m for m in sweep.members(2) if m.input_norm == "whitening")
    alone = run(studio, "train", config)
    assert alone["weights_hash"] == sae.weights_hash

    longer = from_dict(
        type(config), {**to_dict(config), "tokens": 64 * 90, "continue_from": row.id, "name": "on"}
    )
    more = run(studio, "train", longer)
    assert more["steps"] == 90
    inherited = studio.paths.run(TRAININGS.get(studio.db(), more["training"]).id)
    for name in ("statistics.json", "statistics.safetensors"):
        assert (inherited / name).read_bytes() == (folder / name).read_bytes()
    studio.close()


def test_a_transcoder_whitens_what_it_reads(tmp_path: Path) -> None:
    studio: Studio = tiny_studio(tmp_path)
    values = {**to_dict(tiny_training(tokens=64 * 40)), "encoder": "skip_transcoder"}
    config = from_dict(type(tiny_training()), {**values, "input_norm": "whitening"})
    done = run(studio, "train", config)
    folder = studio.paths.run(done["training"])
    assert (folder / "statistics.safetensors").exists()
    assert not (folder / "statistics-out.safetensors").exists()
    assert done["explained_variance"] > 0.1  # after 40 steps; folded wrongly it is negative
    studio.close()
