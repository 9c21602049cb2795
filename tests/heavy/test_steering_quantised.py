"""What must not change does not, in 4-bit weights of every family: the identities on NF4."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistudio.ml.loading import load_model
from tests.helpers.tiny import tiny_tokenizer
from tests.ml_steering import conftest as families
from tests.ml_steering.conftest import random_sae
from tests.ml_steering.test_identities import check_identities

pytestmark = pytest.mark.heavy

FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma2", "gemma3", "neox")


@pytest.mark.parametrize("form", ["nf4", "fp32"])
@pytest.mark.parametrize("family", FAMILIES)
def test_identities_hold_in_every_family(
    family: str, form: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    folder = tmp_path / family
    families.build(family).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    loaded = load_model(folder, torch.device("cpu"), form)
    assert loaded.format == form
    quantised = sum("4bit" in type(module).__name__ for module in loaded.model.modules())
    record_property("4-bit layers", quantised)
    assert (quantised > 0) == (form == "nf4")
    check_identities(loaded, random_sae("standard"))
