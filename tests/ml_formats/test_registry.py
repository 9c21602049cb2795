"""Which format a file or folder is, told by its files; a sentence if it is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistudio.core.errors import InvalidInput, NotFound, StudioError, Unsupported
from mistudio.ml.formats import registry
from mistudio.ml.formats.registry import FORMATS, detect, writer

MARKS = [  # but for the one that shares its mark, and is told by what stands beside it
    (known.name, mark) for known in FORMATS for mark in known.marks if known.name != "lm_saes"
]


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(("name", "mark"), MARKS)
def test_a_folder_a_file_in_it_and_a_folder_above_are_recognised(
    tmp_path: Path, name: str, mark: str
) -> None:
    folder = tmp_path / "models" / "one"
    file = touch(folder / mark.replace("*", "7"))
    place = file if "*" in mark else folder
    for path in (folder, file, tmp_path):
        found = detect(path)
        assert (found.format.name, found.folder) == (name, place)
    described = touch(folder / "about.json")
    assert detect(described).folder == place


def test_no_two_formats_share_a_mark() -> None:
    marks = [mark for _, mark in MARKS]
    assert len(set(marks)) == len(marks)


def test_several_saes_are_named(tmp_path: Path) -> None:
    for i in range(8):
        touch(tmp_path / f"trainer_{i}" / "ae.pt")
    with pytest.raises(InvalidInput, match=r"8 SAEs; name one: trainer_0, .*trainer_4 and 3 more"):
        detect(tmp_path)


def test_files_of_two_formats_need_a_choice(tmp_path: Path) -> None:
    touch(tmp_path / "ae.pt")
    touch(tmp_path / "sae_weights.safetensors")
    with pytest.raises(InvalidInput, match="SAELens and of dictionary_learning"):
        detect(tmp_path)
    assert detect(tmp_path / "ae.pt").format.name == "dictionary_learning"


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("absent", NotFound, "no file or folder"),
        ("empty", Unsupported, "holds no SAE"),
        ("model/model.safetensors", Unsupported, "no file of an SAE"),
        ("model", Unsupported, "holds no SAE"),
        ("a/b/c/d/e/f", Unsupported, "holds no SAE"),
        ("a", Unsupported, "holds no SAE"),
    ],
)
def test_what_is_no_sae_is_a_sentence(
    tmp_path: Path, name: str, error: type[StudioError], words: str
) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "model" / "model.safetensors")
    touch(tmp_path / "model" / "config.json")
    touch(tmp_path / "a" / "b" / "c" / "d" / "e" / "f" / "deep" / "ae.txt")
    with pytest.raises(error, match=words):
        detect(tmp_path / name)


def test_the_formats_of_the_settings_can_be_written() -> None:
    from mistudio.core.configs import SAE_FORMATS

    written = [known.name for known in registry.FORMATS if known.write]
    assert list(SAE_FORMATS) == [*written, "circuit_tracer"]  # which is written as a set
    with pytest.raises(Unsupported, match="nonsense"):
        writer("nonsense")
