"""The SAEs of a repository, told by the names of its files."""

from __future__ import annotations

import pytest

from mistudio.core.errors import InvalidInput, NotFound, Unsupported
from mistudio.ml.formats.listing import one_of, saes_of
from mistudio.ml.formats.registry import FORMATS

GEMMA = [
    ".gitattributes",
    "README.md",
    *(f"layer_{i}/width_16k/average_l0_{10 + i}/params.npz" for i in (10, 9, 2)),
    "layer_2/width_16k/average_l0_80/params.npz",
]
SETS = ["config.yaml", "layer_0.safetensors", "layer_10.safetensors", "layer_2.safetensors"]
RUN = ["config.json", "layers.3/cfg.json", "layers.3/sae.safetensors", "layers.3/optimizer.pt"]
LLAMA = [
    "L0R-8x/hyperparams.json",
    "L0R-8x/checkpoints/final.safetensors",
    "L0R-8x/checkpoints/pruned.safetensors",
]


def test_layers_stand_in_the_order_of_their_numbers() -> None:
    places = [one.place for one in saes_of(GEMMA)]
    assert [place.split("/")[0] for place in places] == [
        "layer_2",
        "layer_2",
        "layer_9",
        "layer_10",
    ]
    assert {one.format.name for one in saes_of(GEMMA)} == {"gemma_scope"}


def test_a_folder_stands_for_the_only_sae_below_it() -> None:
    chosen = one_of(saes_of(GEMMA), GEMMA, "/layer_9/", "google/scope")
    assert chosen.files == ("layer_9/width_16k/average_l0_19/params.npz",)
    assert one_of(saes_of(GEMMA), GEMMA, chosen.files[0], "google/scope") == chosen


@pytest.mark.parametrize(
    ("names", "wanted", "files"),
    [
        (SETS, "layer_2.safetensors", {"layer_2.safetensors", "config.yaml"}),
        (RUN, "", {"layers.3/sae.safetensors", "layers.3/cfg.json", "config.json"}),
        (LLAMA, "L0R-8x", set(LLAMA[:2])),
        (["a/ae.pt", "a/config.json", "a/log.txt"], "a", {"a/ae.pt", "a/config.json"}),
        (
            ["cfg.json", "sae_weights.safetensors", "sparsity.safetensors"],
            "",
            {"cfg.json", "sae_weights.safetensors"},
        ),
    ],
)
def test_all_that_a_reader_uses_is_taken_and_nothing_else(
    names: list[str], wanted: str, files: set[str]
) -> None:
    chosen = one_of(saes_of(names), names, wanted, "a/b")
    assert set(chosen.files) == files


def test_several_saes_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"'layer_2' of 'g/s' holds 2 SAEs.*l0_12, .*l0_80\."):
        one_of(saes_of(GEMMA), GEMMA, "layer_2", "g/s")
    with pytest.raises(InvalidInput, match=r"'a/b' holds 3 SAEs.*layer_0\.safetensors, layer_2"):
        one_of(saes_of(SETS), SETS, "", "a/b")


def test_files_of_two_formats_need_a_choice() -> None:
    names = ["x/ae.pt", "x/sae_weights.safetensors"]
    with pytest.raises(InvalidInput, match=r"x/ae\.pt"):
        one_of(saes_of(names), names, "x", "a/b")
    assert one_of(saes_of(names), names, "x/ae.pt", "a/b").format.name == "dictionary_learning"


def test_what_is_no_sae_is_a_sentence() -> None:
    with pytest.raises(NotFound, match="no file or folder 'layer_7'"):
        one_of(saes_of(GEMMA), GEMMA, "layer_7", "g/s")
    with pytest.raises(Unsupported, match="holds no SAE"):
        one_of([], ["model.safetensors"], "", "g/s")


def test_every_format_is_found_by_its_weights() -> None:
    for known in FORMATS:
        mark = known.marks[-1].replace("*", "7")
        beside = [f"deep/down/{name}" for name in known.beside if known.is_told]
        found = saes_of([f"deep/down/{mark}", *beside])
        assert [one.format.name for one in found] == [known.name]
