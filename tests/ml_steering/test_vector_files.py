"""Vectors of other programs' files, and control vectors as the gguf package reads them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mistudio.core.errors import Damaged, InvalidInput, Mismatch, NotFound, StudioError, Unsupported
from mistudio.ml.steering.control_vector import (
    block_of,
    read_control_vector,
    refuse_non_additive,
    write_control_vector,
)
from mistudio.ml.steering.import_files import layer_in, read_file
from mistudio.ml.steering.vector_file import read_vector, write_vector

V = np.random.default_rng(1).normal(size=(3, 8)).astype(np.float32)


def write_gguf(path: Path, tensors: dict[str, Any], architecture: str = "controlvector") -> Path:
    """As llama.cpp's generator and repeng write."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "mistral")
    writer.add_uint32("controlvector.layer_count", len(tensors))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_control_vector_reads_back_with_the_gguf_package(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    write_control_vector(path, [(3, V[0]), (1, V[1]), (3, V[2] * 2)], "llama")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "llama"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    found = {tensor.name: tensor for tensor in reader.tensors}
    assert list(found) == ["direction.1", "direction.3"]
    for tensor in reader.tensors:
        assert tensor.tensor_type == gguf.GGMLQuantizationType.F32
        assert list(tensor.shape) == [8]
    np.testing.assert_array_equal(found["direction.1"].data, V[1])
    np.testing.assert_allclose(found["direction.3"].data, V[0] + V[2] * 2, rtol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == ["v.gguf"]


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(0, V[0]), (2, V[1])], "no place for a control vector at layer 0"),
        ([(1, V[0]), (2, V[1][:4])], "widths 4, 8"),
        ([(1, V[0]), (1, V[1][:4])], "widths 8 and 4"),
        ([(1, V[0]), (1, -V[0])], "nothing to write"),
        ([(1, V[0].astype(np.float64) * 1e38 * 10)], "too large for float32"),
    ],
)
def test_what_llama_cpp_would_refuse_is_not_written(
    tmp_path: Path, pairs: list[Any], said: str
) -> None:
    with pytest.raises(StudioError, match=said):
        write_control_vector(tmp_path / "v.gguf", pairs, "llama")
    assert not list(tmp_path.iterdir())


def test_only_addition_behind_a_block_can_be_exported() -> None:
    assert block_of(5, "resid_post") == 5
    with pytest.raises(Unsupported, match="attn_out of layer 5"):
        block_of(5, "attn_out")
    refuse_non_additive(["add", "add"])
    with pytest.raises(Unsupported, match="only adds: ablate, clamp depends"):
        refuse_non_additive(["add", "clamp", "ablate"])


def test_a_file_of_repeng_is_one_vector_per_layer(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "r.gguf", {"direction.11": V[0], "direction.2": V[1]})
    found = read_file(path)
    assert [(one.layer, one.hook, one.model_hint) for one in found] == [
        (2, "resid_post", "mistral"),
        (11, "resid_post", "mistral"),
    ]
    np.testing.assert_array_equal(found[1].v_D, V[0])


@pytest.mark.parametrize(
    ("tensors", "architecture", "said"),
    [
        ({"direction.1": V[0]}, "llama", "holds llama, not a control vector"),
        ({"direction.0": V[0]}, "controlvector", "layers begin at 1"),
        ({"bias.1": V[0]}, "controlvector", "holds bias.1"),
        ({"direction.1": V[0].astype(np.float16)}, "controlvector", "F16 with 1 axes"),
        ({"direction.1": V}, "controlvector", "2 axes"),
        ({"direction.1": V[0], "direction.2": V[0][:4]}, "controlvector", "different widths"),
        ({"direction.1": V[0] * np.nan}, "controlvector", "not finite"),
    ],
)
def test_foreign_ggufs_are_refused_with_a_sentence(
    tmp_path: Path, tensors: dict[str, Any], architecture: str, said: str
) -> None:
    path = write_gguf(tmp_path / "x.gguf", tensors, architecture)
    with pytest.raises(StudioError, match=said):
        read_file(path)


def test_a_cut_gguf_is_damaged(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "x.gguf", {"direction.1": V[0]})
    for size in (0, 3, 30, 90, path.stat().st_size - 8):
        cut = tmp_path / f"{size}.gguf"
        cut.write_bytes(path.read_bytes()[:size])
        with pytest.raises(Damaged, match="no readable GGUF"):
            read_control_vector(cut)


def test_npy_rows_are_layers_and_zeros_are_left_out(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", V[0].astype(np.float16))
    (one,) = read_file(tmp_path / "one.npy")
    assert (one.layer, one.name) == (None, "one")
    np.testing.assert_array_equal(one.v_D, V[0].astype(np.float16).astype(np.float32))
    np.save(tmp_path / "many.npy", np.stack([np.zeros(8, np.float32), V[0], V[1]]))
    assert [found.layer for found in read_file(tmp_path / "many.npy")] == [1, 2]


def test_safetensors_names_and_metadata_tell_the_layer(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    tensors = {f"model.layers.{n}": torch.from_numpy(V[n]).bfloat16() for n in (2, 1)}
    save_file(tensors, path)
    assert [(f.layer, f.name) for f in read_file(path)] == [
        (1, "model.layers.1"),
        (2, "model.layers.2"),
    ]
    write_vector(path, V[0], {"layer": 7, "hook": "mlp_out", "name": "warm", "seed": None})
    (own,) = read_file(path)
    assert (own.layer, own.hook, own.name) == (7, "mlp_out", "warm")
    np.testing.assert_array_equal(own.v_D, V[0])
    np.testing.assert_array_equal(read_vector(path), V[0])
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Damaged):
        read_vector(path)
    path.unlink()
    with pytest.raises(NotFound):
        read_vector(path)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("direction.8", 8),
        ("layer_12", 12),
        ("L3", 3),
        ("7", 7),
        ("blocks.4.hook_resid_post", 4),
        ("vector", None),
        ("v2", None),
        ("h.3.mlp.1", None),
    ],
)
def test_layers_in_names(name: str, layer: int | None) -> None:
    assert layer_in(name) == layer


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.arange(8), "int64 where floating-point"),
        (V[:, :1].T[:, :1], "one axis"),
        (V[None], "one axis"),
        (np.array([1.0, np.inf]), "not finite"),
        (np.array([1e300, 1.0]), "beyond the range of float32"),
        (np.zeros(4), "zero everywhere"),
    ],
)
def test_numbers_that_are_no_vector(tmp_path: Path, array: Any, said: str) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InvalidInput, match=said):
        read_file(tmp_path / "x.npy")


def test_neuronpedia_rows(tmp_path: Path) -> None:
    values = V[0].tolist()
    row = {"modelId": "gpt2-small", "layer": "8-res-jb", "index": "14", "vector": values}
    path = tmp_path / "f.json"
    path.write_text(json.dumps({**row, "hookName": "blocks.8.hook_resid_pre"}))
    (found,) = read_file(path)
    assert (found.layer, found.hook) == (7, "resid_post"), "what enters block 8 leaves block 7"
    assert (found.name, found.model_hint) == ("8-res-jb:14", "gpt2-small")
    np.testing.assert_array_equal(found.v_D, V[0])
    path.write_text(json.dumps({**row, "hookName": "blocks.0.hook_resid_pre"}))
    (found,) = read_file(path)
    assert (found.layer, found.hook) == (0, "resid_pre")
    path.write_text(json.dumps({"vector": {**row, "vectorLabel": "cats"}}))
    (found,) = read_file(path)
    assert (found.layer, found.hook, found.name) == (8, None, "cats")
    lines = "\n".join(json.dumps({**row, "hookName": f"blocks.{n}.hook_mlp_out"}) for n in (4, 2))
    packed = tmp_path / "batch-0.jsonl.gz"
    packed.write_bytes(gzip.compress(lines.encode()))
    assert [(f.layer, f.hook) for f in read_file(packed)] == [(2, "mlp_out"), (4, "mlp_out")]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"layer": "8-res-jb", "vector": []}, "no “vector” with numbers"),
        ({"vector": [1.0, "x"]}, "no list of numbers"),
        ({"vector": [1.0, 2.0], "hookName": "blocks.0.attn.hook_q"}, "hook_q, which is not known"),
        ([3], "does not describe"),
    ],
)
def test_json_that_is_no_vector(tmp_path: Path, held: Any, said: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps(held))
    with pytest.raises(StudioError, match=said):
        read_file(path)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"x")
    (tmp_path / "x.json").write_bytes(b"{")
    (tmp_path / "x.npy").write_bytes(b"x")
    for name, kind in (("x.pt", Unsupported), ("x.json", Damaged), ("x.npy", Damaged)):
        with pytest.raises(kind):
            read_file(tmp_path / name)
    with pytest.raises(NotFound):
        read_file(tmp_path / "y.npy")


def test_widths_of_layers_must_agree() -> None:
    with pytest.raises(Mismatch):
        write_control_vector(Path("never"), [(1, V[0]), (1, V[0][:2])], "x")
