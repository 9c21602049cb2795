"""A transcoder comes into the library, is measured, read, steered with, compared and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

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


NORMS = {"gemma2": "pre_feedforward_layernorm", "llama": "post_attention_layernorm"}


def model_in(studio: Studio, folder: Path, family: str) -> LoadedModel:
    """A random model of a family, whose norms have a gain, imported by the family's name."""
    loaded = family_model(family)
    model: Any = loaded.model
    with torch.no_grad():
        for block in model.model.layers:
            norm = getattr(block, NORMS[family])
            norm.weight.copy_(torch.linspace(-0.6, 1.5, len(norm.weight)))
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    run(studio, "import_model", ImportModelConfig(path=str(folder), name=family))
    return loaded


def before_and_behind_gain(loaded: LoadedModel, family: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the norm before the MLP of block 1 gives of some tokens without its gain, and with."""
    seen: list[torch.Tensor] = []
    norm: Any = getattr(loaded.blocks.modules[1], NORMS[family])
    handle = norm.register_forward_pre_hook(lambda _module, x: seen.append(x[0]))
    x, _ = PairCapture(loaded, 1, "mlp_in", "mlp_out")(torch.tensor([[3, 5, 7, 9, 11]]))
    handle.remove()
    stream = seen[-1].flatten(0, 1)
    eps = norm.eps if family == "gemma2" else norm.variance_epsilon
    normalised = stream / (stream.square().mean(1, keepdim=True) + eps).sqrt()
    assert not torch.allclose(normalised, x.flatten(0, 1), atol=0.1)
    return normalised, x.flatten(0, 1)


@pytest.mark.parametrize("family", NORMS)
def test_a_transcoder_that_reads_before_the_norms_gain(
    trained: Studio, tmp_path: Path, family: str
) -> None:
    """As Gemma Scope's do; x̂ is what TransformerLens calls ln2.hook_normalized."""
    loaded = model_in(trained, tmp_path / family, family)
    sae = made(loaded.hidden_dim)
    told = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    write_saelens(tmp_path / "in", sae, told)
    config = ImportSaeConfig(path=str(tmp_path / "in"), model=family)
    found = run(trained, "import_sae", config)
    assert (found["layer"], found["hook"], found["hook_out"]) == (1, "mlp_in", "mlp_out")
    again = read_sae(trained, SAES.get(trained.db(), str(found["sae"])))
    normalised, x = before_and_behind_gain(loaded, family)
    assert torch.allclose(again.reconstruct(x), sae.reconstruct(normalised), rtol=1e-3, atol=1e-3)


def test_a_transcoder_of_llama_scope(trained: Studio, tmp_path: Path) -> None:
    loaded = model_in(trained, tmp_path / "llama", "llama")
    width, folder = loaded.hidden_dim, tmp_path / "in"
    (folder / "checkpoints").mkdir(parents=True)
    norms, sae = {"in": 0.9 * width**0.5, "out": 0.05 * width**0.5}, made(width)
    config = {
        "d_model": width,
        "d_sae": LATENTS,
        "hook_point_in": "blocks.1.ln2.hook_normalized",
        "hook_point_out": "blocks.1.hook_mlp_out",
        "act_fn": "jumprelu",
        "jump_relu_threshold": 0.02,
        "norm_activation": "dataset-wise",
        "dataset_average_activation_norm": norms,
        "sparsity_include_decoder_norm": True,
    }
    (folder / "hyperparams.json").write_text(json.dumps(config))
    state = {"encoder.weight": sae.W_enc_DF.T.contiguous(), "encoder.bias": sae.b_enc_F}
    state |= {
        "decoder.weight": (2 * sae.W_dec_FO.T).contiguous(),
        "decoder.bias": torch.ones(width),
    }
    save_file(state, folder / "checkpoints" / "final.safetensors")
    path = str(folder)
    with pytest.raises(StudioError, match="Import its model first"):
        run(trained, "import_sae", ImportSaeConfig(path=path))
    found = run(trained, "import_sae", ImportSaeConfig(path=path, model="llama"))
    assert (found["layer"], found["hook"], found["hook_out"]) == (1, "mlp_in", "mlp_out")
    again = read_sae(trained, SAES.get(trained.db(), str(found["sae"])))
    normalised, x = before_and_behind_gain(loaded, "llama")
    f = torch.relu(normalised / 0.9 @ sae.W_enc_DF)
    f = f * (2 * 0.05 * f > 0.02)
    y = 0.05 * (f @ (2 * sae.W_dec_FO) + 1)
    assert 0.1 < (f > 0).float().mean() < 0.9
    assert torch.equal(again.encode(x) > 0, f > 0)
    assert torch.allclose(again.reconstruct(x), y, rtol=1e-3, atol=1e-4)


def with_model(studio: Studio, folder: Path, family: str) -> tuple[Any, ImportSaeConfig]:
    """A model of a family in the library, and the import of a transcoder on its norm."""
    told = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    write_saelens(folder / "in", made(32), told)
    model: Any = family_model(family).model
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "norm" in name or "ln_" in name:
                tensor += torch.linspace(0.1, 0.6, len(tensor))
    model.save_pretrained(folder / family)
    tiny_tokenizer().save_pretrained(folder / family)
    run(studio, "import_model", ImportModelConfig(path=str(folder / family), name=family))
    return model, ImportSaeConfig(path=str(folder / "in"), model=family)


@pytest.mark.parametrize(
    ("family", "norm"),
    [
        ("gpt_neox", "gpt_neox.layers.1.post_attention_layernorm"),
        ("gpt2", "transformer.h.1.ln_2"),
        ("opt", "model.decoder.layers.1.final_layer_norm"),
    ],
)
def test_a_norm_with_a_bias_moves_into_the_encoder(
    trained: Studio, tmp_path: Path, family: str, norm: str
) -> None:
    model, config = with_model(trained, tmp_path, family)
    row = SAES.get(trained.db(), str(run(trained, "import_sae", config)["sae"]))
    assert (row.layer, row.hook_in, row.hook_out) == (1, "mlp_in", "mlp_out")
    x = torch.randn(20, 32, generator=torch.Generator().manual_seed(0))
    read = model.get_submodule(norm)(x).detach()
    plain = torch.nn.functional.layer_norm(x, (32,), eps=model.get_submodule(norm).eps)
    found, wanted = read_sae(trained, row).reconstruct(read), made(32).reconstruct(plain)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_norm_that_the_model_has_none_of(trained: Studio, tmp_path: Path) -> None:
    _, config = with_model(trained, tmp_path, "smollm3")
    with pytest.raises(StudioError, match="no such norm was found"):
        run(trained, "import_sae", config)


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
