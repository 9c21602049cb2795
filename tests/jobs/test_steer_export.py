"""Steering as code, as control vectors, and with vectors where there is no SAE at all."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from mistudio.cli import main
from mistudio.core.config import to_dict, violations
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, StudioError, Unsupported
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.steering_export_configs import TEXT, ExportSteeringConfig
from mistudio.core.steering_spec import Direction
from mistudio.core.steering_study_configs import DoseConfig, PreviewConfig
from mistudio.jobs import feature_pages, lookup, sae_library, steer_export, steering_presets
from mistudio.jobs import vector_library as vectors
from mistudio.jobs.runner import Studio
from mistudio.jobs.steering_cards import STREAM_NORM, read_cards
from mistudio.store.features import FeatureFilter
from mistudio.store.tables import SAES, STEERING_RUNS, STEERING_VECTORS
from tests.helpers.studio import run
from tests.helpers.tiny import save_tiny_llama

PROMPT = "Once upon a time"


@pytest.fixture
def bare(studio: Studio, tmp_path: Path) -> Studio:
    """A studio with a model and a vector, and no SAE."""
    folder = save_tiny_llama(tmp_path / "model")
    run(studio, "import_model", ImportModelConfig(path=str(folder), name="tiny"))
    add_vector(studio)
    return studio


def add_vector(studio: Studio) -> str:
    v_D = np.random.default_rng(0).normal(size=32).astype(np.float32)
    new = vectors.NewVector(v_D, "formal", 1, "resid_post", {})
    return vectors.add(studio, lookup.model(studio, "tiny"), [new], "import")[0].id


def strongest(studio: Studio) -> int:
    sae = lookup.sae(studio, "last")
    return feature_pages.find(studio, sae, FeatureFilter(), sort="max")[0].index


def ids_of(script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(sys, "argv", [str(script), "--ids"])
    capsys.readouterr()
    runpy.run_path(str(script), run_name="__main__")
    return json.loads(capsys.readouterr().out)


def test_vectors_alone_steer_a_model_without_an_sae(bare: Studio) -> None:
    assert not SAES.select(bare.db())
    config = SteerConfig(sae="", edit=("@formal=5%",), prompt=PROMPT, max_tokens=8)
    assert not violations(config)
    assert [v.field for v in violations(SteerConfig(sae="", feature=("1=1",), prompt="x"))] == [
        "sae"
    ]
    first, second = RecordingReporter(), RecordingReporter()
    found = run(bare, "steer", config, first)
    kept = STEERING_RUNS.get(bare.db(), found["run"])
    assert (kept.sae_id, kept.config["sae"]) == (None, "")
    assert kept.model_id == lookup.model(bare, "tiny").id
    assert found["delta_ratio"] == pytest.approx(0.05, rel=0.5)
    (row,) = STEERING_VECTORS.select(bare.db())
    norm = (row.report or {})[STREAM_NORM]
    assert found["values"][0] == pytest.approx(0.05 * norm / row.norm)
    run(bare, "steer", config, second)
    notes = [sum("median norm" in str(e) for e in one.events) for one in (first, second)]
    assert notes == [1, 0], "the norm of the stream is measured once"
    (card,) = read_cards(bare, [Direction("formal")])
    assert card.push == pytest.approx(row.norm / norm)
    assert (
        run(bare, "steer_preview", PreviewConfig(edit=("@formal=9raw",), prompt=PROMPT))["kl"] > 0
    )
    aim = DoseConfig(sae="", edit=("@formal=1raw",), prompt=PROMPT, text_tokens=16, target_kl=0.05)
    assert run(bare, "steer_dose", aim)["within"]
    with pytest.raises(StudioError, match="There is no vector"):
        run(bare, "steer", SteerConfig(edit=("@other=1raw",), prompt=PROMPT))
    preset = steering_presets.save(bare, config)
    assert preset.name.startswith("steering_1features_layer1_")
    (shown,) = steering_presets.presets(bare)
    assert (shown.is_available, shown.layers, shown.saes) == (True, (1,), ())
    vectors.delete(bare, row.id)
    (shown,) = steering_presets.presets(bare)
    assert (shown.is_available, shown.missing) == (False, ("@formal",))


def test_the_script_of_a_run_writes_its_greedy_text(
    trained: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_vector(trained)
    config = SteerConfig(
        feature=(f"{strongest(trained)}=4", "3=2raw:clamp"),
        edit=("@formal=1raw",),
        prompt=PROMPT,
        mode="sweep",
        strengths="0.5,2",
        max_tokens=12,
        repetition_penalty=1.1,
        positions="first:9",
    )
    found = run(trained, "steer", config)
    export = ExportSteeringConfig(run=found["run"], out=str(tmp_path / "steer"))
    with pytest.raises(InvalidInput, match=r"2 variants; name one of ×0\.5, ×2"):
        run(trained, "steer_export", export)
    outputs = STEERING_RUNS.get(trained.db(), found["run"]).outputs or {}
    texts = []
    for name in ("×0.5", "×2"):
        export = ExportSteeringConfig(run="last", variant=name, out=str(tmp_path / name))
        told = run(trained, "steer_export", export)
        assert told["path"] == str(tmp_path / f"{name}.py")
        texts.append(ids_of(Path(told["path"]), monkeypatch, capsys))
        assert texts[-1] == outputs["variants"][name]["greedy"]["token_ids"]
    assert texts[0] != texts[1]
    as_text = run(
        trained, "steer_export",
        ExportSteeringConfig(settings=json.dumps(to_dict(config)), variant="×2", out=TEXT),
    )  # fmt: skip
    assert as_text["script"] == (tmp_path / "×2.py").read_text(encoding="utf-8")


def test_what_is_added_becomes_vectors(trained: Studio, tmp_path: Path) -> None:
    add_vector(trained)
    number = strongest(trained)
    sae = lookup.sae(trained, "last")
    row = feature_pages.find(trained, sae, FeatureFilter(), sort="max")[0]
    settings = {"feature": [f"{number}=2"], "edit": ["@formal=-3raw"], "prompt": PROMPT}
    made = ExportSteeringConfig(
        settings=json.dumps(settings), format="gguf", out=str(tmp_path / "a")
    )
    told = run(trained, "steer_export", made)
    d_D = sae_library.read_sae(trained, sae).W_dec_FO[number].numpy()
    v_D = vectors.read(trained, vectors.find_one(trained, "formal"))
    expected = 2 * row.max * d_D - 3 * v_D
    (tensor,) = gguf.GGUFReader(told["path"]).tensors
    assert tensor.name == "direction.1"
    np.testing.assert_allclose(tensor.data, expected, rtol=1e-4, atol=1e-5)
    assert "special tokens" in told["notes"][0]
    plain = ExportSteeringConfig(
        settings=json.dumps(settings), format="safetensors", out=str(tmp_path / "b")
    )
    told = run(trained, "steer_export", plain)
    np.testing.assert_allclose(
        load_file(told["path"])["direction.1"], expected, rtol=1e-4, atol=1e-5
    )
    for change, part in (
        ({"feature": [f"{number}=2:clamp"]}, "clamp"),
        ({"positions": "generated"}, "positions 'generated'"),
        ({"norm": "keep"}, "norm rule"),
        ({"feature": [f"{number}=2?3>1"]}, "condition"),
    ):
        wrong = ExportSteeringConfig(
            settings=json.dumps({**settings, **change}), format="gguf", out=str(tmp_path / "c")
        )
        with pytest.raises(Unsupported, match=part):
            run(trained, "steer_export", wrong)
    assert sorted(p.name for p in tmp_path.glob("?.*")) == ["a.gguf", "b.safetensors"]


def test_the_command_writes_code_and_vectors(
    bare: Studio, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = str(bare.paths.home)
    words = ["steer", "--edit", "@formal=3raw", "--prompt", PROMPT, "--max-tokens", "4"]
    assert main([*words, "--home", home]) == 0
    capsys.readouterr()
    assert (
        main(["steer", "export", "last", "--format", "python", "--out", "-", "--home", home]) == 0
    )
    shown = capsys.readouterr().out
    assert f"PROMPT = {PROMPT!r}" in shown
    compile(shown, "steer.py", "exec")
    assert main(["steer", "export", "--out", str(tmp_path / "v.gguf"), "--home", home]) == 0
    assert (tmp_path / "v.gguf").is_file()
    assert main(["steer", "export", "all", "--format", "python", "--home", home]) != 0
    assert "Name one run" in capsys.readouterr().err
    assert steer_export.file_stem("A b, c") == "steering_A_b_c"
