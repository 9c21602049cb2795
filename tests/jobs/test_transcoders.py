"""A transcoder comes into the library, is measured, read, steered with, compared and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mistudio.core.comparison_configs import CompareSaesConfig
from mistudio.core.configs import (
    EvaluateConfig,
    ExportSaeConfig,
    HarvestConfig,
    ImportSaeConfig,
    SteerConfig,
)
from mistudio.core.errors import StudioError
from mistudio.core.events import RecordingReporter
from mistudio.core.model_configs import ImportModelConfig
from mistudio.jobs.runner import Studio
from mistudio.jobs.sae_library import read_sae
from mistudio.ml.activations.pair_capture import PairCapture
from mistudio.ml.formats.circuit_tracer import write_circuit_tracer
from mistudio.ml.formats.saelens import write_saelens
from mistudio.ml.formats.sparsify import write_sparsify
from mistudio.ml.loading import LoadedModel
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.store.records import SaeRow
from mistudio.store.tables import FEATURE_SETS, MODELS, SAES
from tests.helpers.families import family_model
from tests.helpers.studio import run, tiny_training
from tests.helpers.tiny import tiny_tokenizer

LATENTS = 40


def made(width: int, architecture: str = "jumprelu", seed: int = 0) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(seed)
    W_dec = torch.nn.functional.normalize(torch.randn(LATENTS, width, generator=generator), dim=1)
    return SparseAutoencoder(
        torch.randn(width, LATENTS, generator=generator),
        torch.zeros(LATENTS),
        W_dec,
        torch.zeros(width),
        architecture,
        k=6 if architecture == "topk" else None,
        threshold_F=torch.full((LATENTS,), 0.5) if architecture == "jumprelu" else None,
        apply_b_dec_to_input=False,
        W_skip_OD=0.1 * torch.randn(width, width, generator=generator),
        encoder="skip_transcoder",
    )


def width_of(studio: Studio) -> int:
    return MODELS.select(studio.db())[0].hidden_dim or 0


def brought_in(studio: Studio, folder: Path, layer: int = 1, seed: int = 0) -> SaeRow:
    """A transcoder of the tiny model's layer, imported from a SAELens folder."""
    path = f"model.layers.{layer}.mlp"
    metadata = {"model_name": "tiny", "hook_name": f"{path}.input", "hook_name_out": path}
    write_saelens(folder, made(width_of(studio), seed=seed), metadata)
    found = run(studio, "import_sae", ImportSaeConfig(path=str(folder)))
    assert (found["layer"], found["hook"], found["hook_out"]) == (layer, "mlp_in", "mlp_out")
    return SAES.get(studio.db(), str(found["sae"]))


def test_it_goes_the_whole_way(trained: Studio, tmp_path: Path) -> None:
    row = brought_in(trained, tmp_path / "a")
    assert (row.encoder_type, row.hook_in, row.hook_out) == (
        "skip_transcoder", "mlp_in", "mlp_out",
    )  # fmt: skip
    assert row.model_name == "tiny"
    kept = read_sae(trained, row)
    x = torch.randn(9, kept.d_in)
    assert torch.equal(kept.reconstruct(x), made(kept.d_in).reconstruct(x))
    figures = run(trained, "evaluate", EvaluateConfig(sae=row.id, dataset="stories", tokens=1024))
    assert figures["n"] > 500
    assert figures["l0"] > 0
    assert figures["enc_dec_cos"] is None
    harvest = HarvestConfig(sae=row.id, dataset="stories", rows=32, context=32)
    found = run(trained, "harvest", harvest)
    assert (FEATURE_SETS.get(trained.db(), str(found["feature_set"])).n_live or 0) > 5
    steered = run(
        trained,
        "steer",
        SteerConfig(
            sae=row.id, feature=("2=30:clamp",), prompt="Once", unit="raw", max_tokens=8,
            temperature=0.0,
        ),
    )  # fmt: skip
    assert steered["acted"] > 0
    other = brought_in(trained, tmp_path / "b", seed=1)
    compared = run(
        trained,
        "compare_saes",
        CompareSaesConfig(sae=row.id, other=other.id, dataset="stories", tokens=1024),
    )
    assert compared["metrics"]["ev"]["a"] == pytest.approx(figures["ev"], abs=1e-4)


def test_only_transcoders_of_the_same_hooks_are_compared(trained: Studio, tmp_path: Path) -> None:
    row = brought_in(trained, tmp_path / "a")
    sae = next(s for s in SAES.select(trained.db()) if s.encoder_type == "sae")
    with pytest.raises(StudioError, match="reads layer 1 mlp_in → mlp_out"):
        run(trained, "compare_saes", CompareSaesConfig(sae=row.id, other=sae.id))


def test_a_topk_transcoder_stays_in_the_library_and_goes_to_sparsify(
    trained: Studio, tmp_path: Path
) -> None:
    sae = made(width_of(trained), "topk")
    metadata = {"model_name": "tiny", "hook_out": "mlp_out", "layer": 1}
    write_sparsify(tmp_path / "in", sae, metadata)
    found = run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / "in")))
    assert (found["layer"], found["hook"], found["hook_out"]) == (1, "mlp_in", "mlp_out")
    row = SAES.get(trained.db(), str(found["sae"]))
    x = torch.randn(9, sae.d_in)
    assert torch.equal(read_sae(trained, row).reconstruct(x), sae.reconstruct(x))
    with pytest.raises(StudioError, match="SAELens has no topk transcoders"):
        run(trained, "export_sae", ExportSaeConfig(sae=row.id, out=str(tmp_path / "x")))
    out = tmp_path / "again"
    run(trained, "export_sae", ExportSaeConfig(sae=row.id, format="sparsify", out=str(out)))
    assert (out / "layers.1.mlp" / "cfg.json").is_file()


def test_a_set_goes_to_circuit_tracer(trained: Studio, tmp_path: Path) -> None:
    rows = [brought_in(trained, tmp_path / f"in{i}", layer=i, seed=i) for i in range(2)]
    out = tmp_path / "set"

    def export(first: SaeRow, *others: SaeRow) -> None:
        config = ExportSaeConfig(
            sae=first.id, format="circuit_tracer", out=str(out),
            others=tuple(row.id for row in others),
        )  # fmt: skip
        run(trained, "export_sae", config)

    with pytest.raises(StudioError, match="one transcoder for every layer from 0 on"):
        export(rows[1])
    with pytest.raises(StudioError, match="two are of the same one"):
        export(rows[0], rows[0])
    export(rows[1], rows[0])
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert (config["model_name"], config["feature_input_hook"]) == ("tiny", "mlp.hook_in")
    found = run(trained, "import_sae", ImportSaeConfig(path=str(out / "layer_1.safetensors")))
    assert (found["layer"], found["hook"], found["hook_out"]) == (1, "mlp_in", "mlp_out")
    again = read_sae(trained, SAES.get(trained.db(), str(found["sae"])))
    x = torch.randn(9, again.d_in)
    assert torch.equal(again.reconstruct(x), made(again.d_in, seed=1).reconstruct(x))


def test_a_transcoder_that_does_not_say_where_it_reads(trained: Studio, tmp_path: Path) -> None:
    sae = made(width_of(trained))
    write_saelens(tmp_path / "a", sae, {"model_name": "tiny"})
    reporter = RecordingReporter()
    found = run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / "a")), reporter)
    assert any("naming all three" in str(event.values) for event in reporter.events)
    row = SAES.get(trained.db(), str(found["sae"]))
    for kind, config in (
        ("evaluate", EvaluateConfig(sae=row.id, dataset="stories")),
        ("harvest", HarvestConfig(sae=row.id, dataset="stories")),
    ):
        with pytest.raises(StudioError, match="which layer and hook"):
            run(trained, kind, config)
    named = ImportSaeConfig(path=str(tmp_path / "a"), layer=0, hook="mlp_in", hook_out="mlp_out")
    assert run(trained, "import_sae", named)["hook_out"] == "mlp_out"


def test_hooks_that_no_transcoder_here_can_have(trained: Studio, tmp_path: Path) -> None:
    sae = made(width_of(trained))
    layers = "model.layers"
    for name, (read, written, words) in {
        "norm": ("blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out", "Import its model first"),
        "lens": ("blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out", "the stream before the norm"),
        "apart": (f"{layers}.0.mlp.input", f"{layers}.1.mlp", "inside one block"),
        "given": (f"{layers}.1.mlp.input", "blocks.1.attn.hook_z", "gives 'attn_z'"),
    }.items():
        told = {"hook_name": read, "hook_name_out": written}
        write_saelens(tmp_path / name, sae, told)
        with pytest.raises(StudioError, match=words):
            run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / name)))
    plain = replace(sae, encoder="transcoder", W_skip_OD=None)
    write_circuit_tracer(tmp_path / "ct", {0: plain}, "resid_post", "mlp_out", "tiny")
    found = run(trained, "import_sae", ImportSaeConfig(path=str(tmp_path / "ct")))
    assert (found["hook"], found["hook_out"]) == ("resid_post", "mlp_out")


def gemma_in(studio: Studio, folder: Path) -> LoadedModel:
    """A random Gemma 2, whose norms have a gain, imported as "gemma"."""
    loaded = family_model("gemma2")
    model: Any = loaded.model
    with torch.no_grad():
        for block in model.model.layers:
            norm = block.pre_feedforward_layernorm
            norm.weight.copy_(torch.linspace(-0.6, 1.5, len(norm.weight)))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    run(studio, "import_model", ImportModelConfig(path=str(folder), name="gemma"))
    return loaded


def test_a_transcoder_that_reads_before_the_norms_gain(trained: Studio, tmp_path: Path) -> None:
    """As Gemma Scope's do; x̂ is what TransformerLens calls ln2.hook_normalized."""
    loaded = gemma_in(trained, tmp_path / "gemma")
    sae = made(loaded.hidden_dim)
    told = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    write_saelens(tmp_path / "in", sae, told)
    config = ImportSaeConfig(path=str(tmp_path / "in"), model="gemma")
    found = run(trained, "import_sae", config)
    assert (found["layer"], found["hook"], found["hook_out"]) == (1, "mlp_in", "mlp_out")
    again = read_sae(trained, SAES.get(trained.db(), str(found["sae"])))
    seen: list[torch.Tensor] = []
    norm: Any = loaded.blocks.modules[1].pre_feedforward_layernorm
    handle = norm.register_forward_pre_hook(lambda _module, x: seen.append(x[0]))
    ids = torch.tensor([[3, 5, 7, 9, 11]])
    x, _ = PairCapture(loaded, 1, "mlp_in", "mlp_out")(ids)
    handle.remove()
    stream = seen[-1].flatten(0, 1)
    normalised = stream / (stream.square().mean(1, keepdim=True) + norm.eps).sqrt()
    assert not torch.allclose(normalised, x.flatten(0, 1), atol=0.1)
    expected = sae.reconstruct(normalised)
    assert torch.allclose(again.reconstruct(x.flatten(0, 1)), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(StudioError, match="no such norm was found"):
        run(trained, "import_sae", replace(config, model="tiny"))


@pytest.mark.parametrize(
    ("encoder", "architecture"),
    [
        ("transcoder", "batch_topk"),
        ("skip_transcoder", "matryoshka_batch_topk"),
        ("skip_transcoder", "topk"),
        ("transcoder", "standard"),
        ("skip_transcoder", "jumprelu"),
    ],
)
def test_one_is_trained(trained: Studio, encoder: str, architecture: str) -> None:
    config = tiny_training(encoder=encoder, architecture=architecture, target_l0=4.0)
    result = run(trained, "train", config)
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.encoder_type, row.layer, row.hook_in, row.hook_out) == (
        encoder, 1, "mlp_in", "mlp_out",
    )  # fmt: skip
    sae = read_sae(trained, row)
    assert sae.encoder == encoder
    assert sae.metadata["hook_name"] == "model.layers.1.mlp.input"
    assert sae.metadata["hook_name_out"] == "model.layers.1.mlp"
    assert sae.metadata["median_norm_out"] != sae.metadata["median_norm"]
    figures = row.evaluation or {}
    assert figures["ev"] > 0.005  # better than the mean, after a hundred steps
    assert figures["ce_loss_score"] is not None
    again = run(trained, "evaluate", EvaluateConfig(sae=row.id, tokens=1024))
    assert again["ev"] == pytest.approx(figures["ev"], abs=1e-6)
    assert again["n"] == figures["n"]


def test_a_training_begins_at_a_transcoder_and_goes_on(trained: Studio) -> None:
    config = tiny_training(encoder="skip_transcoder")
    first = SAES.get(trained.db(), str(run(trained, "train", config)["sae"]))
    longer = tiny_training(encoder="skip_transcoder", init_from=first.id, learning_rate=1e-6)
    again = SAES.get(trained.db(), str(run(trained, "train", longer)["sae"]))
    old, new = read_sae(trained, first), read_sae(trained, again)
    x = torch.randn(20, old.d_in)
    same = replace(new, threshold_F=old.threshold_F)
    moved = same.reconstruct(x) - old.reconstruct(x)
    assert float(moved.norm() / old.reconstruct(x).norm()) < 0.02
    with pytest.raises(StudioError, match="of type skip_transcoder"):
        run(trained, "train", tiny_training(init_from=first.id))
    more = tiny_training(
        encoder="skip_transcoder", continue_from=first.training_id, tokens=9600, dataset="stories"
    )
    result = run(trained, "train", more)
    assert (result["outcome"], result["steps"]) == ("completed", 150)


def test_equal_hooks_are_noted_and_trained(trained: Studio) -> None:
    reporter = RecordingReporter()
    config = tiny_training(
        encoder="skip_transcoder", hook_in="resid_post", hook_out="resid_post", tokens=12_800
    )
    result = run(trained, "train", config, reporter)
    assert any("skip connection alone can copy" in str(event.values) for event in reporter.events)
    row = SAES.get(trained.db(), str(result["sae"]))
    assert (row.hook_in, row.hook_out) == ("resid_post", "resid_post")
