"""Loading models: facts, weights, tokenizer, and a sentence for every kind of wrong folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BertConfig, BertForMaskedLM, T5Config

from mistudio.core.errors import (
    Damaged,
    InvalidInput,
    NotFound,
    OutOfMemory,
    StudioError,
    Unsupported,
)
from mistudio.ml.device import choose_device, default_dtype, peak_memory
from mistudio.ml.loading import inspect_model, load_model, load_tokenizer, tokenizer_fingerprint
from mistudio.ml.model_check import check_model
from tests.helpers.tiny import save_tiny_llama, tiny_llama, tiny_tokenizer

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny_llama(tmp_path / "tiny")


def test_facts_agree_with_the_model(folder: Path) -> None:
    facts = inspect_model(folder)
    model = tiny_llama()
    assert facts.params_count == model.num_parameters()
    assert (facts.name, facts.origin, facts.architecture) == ("tiny", "folder", "LlamaForCausalLM")
    assert (facts.num_layers, facts.hidden_dim, facts.num_heads) == (4, 32, 4)
    assert (facts.num_kv_heads, facts.head_dim, facts.intermediate) == (2, 8, 64)
    assert (facts.vocab_size, facts.max_positions, facts.tie) == (400, 512, True)
    assert (facts.bos_id, facts.eos_id, facts.activation) == (0, 1, "silu")
    assert json.loads(json.dumps(facts.to_dict()))["rope"]["rope_theta"] == 10000.0


def test_loaded_weights_and_logits_are_those_saved(folder: Path) -> None:
    loaded = load_model(folder, CPU)
    ids = torch.arange(20).view(2, 10)
    assert torch.equal(loaded.model(ids).logits, tiny_llama()(ids).logits)
    assert loaded.dtype == torch.float32
    assert not loaded.model.training
    assert not any(p.requires_grad for p in loaded.model.parameters())
    assert loaded.num_layers == 4


def test_fingerprints_follow_the_content(folder: Path, tmp_path: Path) -> None:
    same = save_tiny_llama(tmp_path / "same")
    other = save_tiny_llama(tmp_path / "other", seed=1)
    assert inspect_model(folder).fingerprint == inspect_model(same).fingerprint
    assert inspect_model(folder).fingerprint != inspect_model(other).fingerprint
    plain = tokenizer_fingerprint(load_tokenizer(folder))
    assert plain == tokenizer_fingerprint(load_tokenizer(same))
    assert plain != tokenizer_fingerprint(tiny_tokenizer(add_bos=True))


def test_missing_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no folder or file"):
        inspect_model(tmp_path / "nowhere")
    with pytest.raises(InvalidInput, match=r"no config\.json"):
        inspect_model(tmp_path)


def test_encoder_only_model_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=50,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    with pytest.raises(Unsupported) as caught:
        load_model(tmp_path, CPU)
    assert caught.value.sentence == "BERT reads both ways; a left-to-right model is needed."


def test_encoder_decoder_is_refused(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    with pytest.raises(Unsupported, match="T5 has an encoder and a decoder"):
        inspect_model(tmp_path)


@pytest.mark.parametrize("cut", [0, 5, 100, -1])
def test_truncated_safetensors(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(Damaged, match=r"model\.safetensors is damaged or incomplete"):
        inspect_model(folder)


def test_missing_shard_is_named(folder: Path) -> None:
    tiny_llama().save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    shards = sorted(folder.glob("model-*.safetensors"))
    assert load_model(folder, CPU).facts.params_count == tiny_llama().num_parameters()
    shards[1].unlink()
    with pytest.raises(Damaged, match=f"File 2 of {len(shards)} is missing"):
        inspect_model(folder)


def test_missing_tensor_is_not_made_up(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(Damaged, match="incomplete: 1 tensors are missing"):
        load_model(folder, CPU)


def test_wrong_shape_is_damage(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(Damaged, match="do not fit its configuration"):
        load_model(folder, CPU)


def test_pickle_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(Unsupported) as caught:
        inspect_model(folder)
    assert caught.value.sentence == "Only safetensors and GGUF are opened; this has pickle files."


def test_repository_code_is_not_run(folder: Path) -> None:
    config = {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text("raise SystemExit")
    with pytest.raises(Unsupported, match="repository's code"):
        inspect_model(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": 3}', '{"model_type": "x"}'])
def test_odd_configurations(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(StudioError):
        inspect_model(folder)


def test_folder_without_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InvalidInput, match="has no tokenizer"):
        load_model(folder, CPU)


def test_damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(Damaged, match="tokenizer of 'tiny' cannot be read"):
        load_tokenizer(folder)


@pytest.mark.parametrize("content", [b"", b"text", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 60])
def test_files_that_are_no_gguf(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(StudioError, match=r"model\.gguf"):
        inspect_model(file)


def test_a_weights_file_points_to_its_folder(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="choose its folder"):
        inspect_model(folder / "model.safetensors")


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert default_dtype(CPU) == torch.float32
    assert peak_memory() > 10_000_000
    with pytest.raises(InvalidInput, match="no device"):
        choose_device("tpu")


def test_an_empty_list_of_end_tokens(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": []}))
    assert inspect_model(folder).eos_id is None


def test_an_index_names_only_files_of_its_folder(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder.parent / "elsewhere.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../elsewhere.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Damaged, match="names files outside this folder"):
        inspect_model(folder)


def test_weights_that_are_no_numbers_are_damage(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"] *= float("nan")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(Damaged, match="its weights are damaged"):
        check_model(load_model(folder, CPU, "fp32"))
    with pytest.raises(Unsupported, match="choose FP32"):
        check_model(load_model(folder, CPU, "bf16"))


def test_memory_that_ends_while_loading_is_no_damage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crowded(*_: object, **__: object) -> object:
        return torch.empty(1 << 60)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", crowded)
    with pytest.raises(OutOfMemory, match=r"FP32 and does not fit\. Load it in BF16"):
        load_model(folder, CPU, "fp32")


def gguf_file(path: Path, kind: int) -> Path:
    """A GGUF file of one tensor, packed as `kind`."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType.Q8_K][1]
    packing = gguf.GGMLQuantizationType.Q8_K
    writer.add_tensor("token_embd.weight", np.zeros((4, block), np.uint8), raw_dtype=packing)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    name, place = b"token_embd.weight", len(b"token_embd.weight") + 4 + 2 * 8
    content = bytearray(path.read_bytes())
    at = content.index(name) + place
    content[at : at + 4] = kind.to_bytes(4, "little")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("kind", "words"), [(15, "packed as Q8_K"), (9999, "of a newer kind")])
def test_gguf_weights_that_nothing_unpacks(tmp_path: Path, kind: int, words: str) -> None:
    with pytest.raises(Unsupported, match=f"{words}, which are not read here"):
        inspect_model(gguf_file(tmp_path / "model.gguf", kind))
