"""A matching pursuit against one by hand, in every way an SAE is read, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from mistudio.core.errors import InvalidInput, Mismatch, StudioError, Unsupported
from mistudio.ml.features.own_values import own_values
from mistudio.ml.sae import base
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.fold import (
    fold_coordinates,
    fold_decoder_norms,
    fold_input_scale,
    fold_unit_scale,
)
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.sources import PlacedSae
from mistudio.ml.whitening import Coordinates
from tests.ml_formats.foreign_files import D, M, inputs, kept_by_pursuit, parts, rows_to_pursue


def made(pursuit: Pursuit | None = None, *, unit: bool = True, **changes: Any) -> SparseAutoencoder:
    W_dec_FO = rows_to_pursue(unit=unit)
    values: dict[str, Any] = {
        "W_enc_DF": W_dec_FO.T,
        "b_enc_F": torch.zeros(M),
        "W_dec_FO": W_dec_FO,
        "b_dec_O": parts()["b_dec"],
        "architecture": "matching_pursuit",
        "pursuit": pursuit or Pursuit(),
    }
    return SparseAutoencoder(**{**values, **changes})


def by_hand(pursuit: Pursuit, *, unit: bool = True) -> torch.Tensor:
    return kept_by_pursuit(
        inputs().double() - parts()["b_dec"].double(),
        rows_to_pursue(unit=unit),
        pursuit.residual_threshold,
        pursuit.max_iterations,
        once=pursuit.stop_on_duplicate_support,
    )


PURSUITS = [
    Pursuit(),
    Pursuit(3.0),
    Pursuit(0.0, 4),
    Pursuit(2.0, None, stop_on_duplicate_support=False),
    Pursuit(-1.0, 40, stop_on_duplicate_support=False),
]


@pytest.mark.parametrize("pursuit", PURSUITS)
@pytest.mark.parametrize("few", [False, True])
def test_every_token_is_pursued_on_its_own(
    monkeypatch: pytest.MonkeyPatch, pursuit: Pursuit, few: bool
) -> None:
    if few:  # three chunks of 16 tokens, and two tokens
        monkeypatch.setattr(base, "CHUNK_ENTRIES", 1)
    sae, x, f = made(pursuit), inputs(), by_hand(pursuit)
    ours = sae.encode(x)
    assert torch.allclose(ours.double(), f, atol=1e-5)
    assert torch.equal(ours > 1e-4, f > 1e-4)
    assert 1 < float((ours > 0).sum(1).float().mean()) <= pursuit.steps(D)
    codes = sae.encode_sparse(x)
    dense = torch.zeros(len(x), M)
    dense[codes.rows, codes.ids] = codes.values
    assert torch.equal(dense, ours)
    assert all(bool((ids.diff() > 0).all()) for ids in codes.ids.split(codes.l0.tolist()))
    assert torch.equal(sae.encode(x.view(5, 10, D)), ours.view(5, 10, M))
    y = f @ parts()["W_dec"].double() + parts()["b_dec"].double()
    assert torch.allclose(sae.reconstruct(x).double(), y, atol=1e-5)
    assert sae.encode(x[:0]).shape == (0, M)


def test_what_stops_it_makes_a_difference() -> None:
    found = [by_hand(pursuit) for pursuit in PURSUITS]
    assert all(
        not torch.equal(one, other) for i, one in enumerate(found) for other in found[i + 1 :]
    )


def test_rows_of_any_length_choose_by_their_length() -> None:
    pursuit = Pursuit(1.0, 5)
    f = by_hand(pursuit, unit=False)
    x = inputs()
    assert torch.equal(made(pursuit, unit=False).encode(x) > 0, f > 0)
    assert not torch.equal(f > 0, by_hand(pursuit) > 0)
    assert torch.allclose(made(pursuit, unit=False).encode(x).double(), f, atol=1e-5)


def test_few_features_are_read_by_way_of_all() -> None:
    sae, features = made(), torch.tensor([3, 40])
    ours = sae.encode(inputs())[:, features]
    assert bool((ours > 0).any(0).all())
    reader = Reader.of(PlacedSae(sae, 0, "resid_post"), [3, 40], torch.device("cpu"))
    assert torch.equal(reader(inputs()), ours)
    own = own_values(sae, inputs()[None].expand(2, -1, -1), features)
    assert torch.equal(own.T, ours)
    assert sae.compares


def test_how_many_latents_a_token_can_have() -> None:
    assert made().most_active == D
    assert made(Pursuit(max_iterations=3)).most_active == 3
    assert made(Pursuit(max_iterations=1000)).most_active == M
    standard = replace(made(), architecture="standard", pursuit=None)
    assert standard.most_active is None
    assert not standard.compares
    assert replace(standard, architecture="topk", k=7).most_active == 7


def test_a_token_of_nothing_has_no_latents() -> None:
    b_dec = parts()["b_dec"]
    sae = made(Pursuit(0.0, None, stop_on_duplicate_support=False))
    assert sae.encode_sparse(b_dec[None].expand(3, -1)).ids.numel() == 0
    assert torch.equal(sae.reconstruct(b_dec[None]), b_dec[None])


def test_it_reads_by_the_storage_that_it_writes() -> None:
    sae = made(W_enc_DF=parts()["W_dec"].T.contiguous())
    for one in (sae, sae.to("cpu"), sae.with_metadata(a=1)):
        assert one.W_enc_DF.data_ptr() == one.W_dec_FO.data_ptr()
        assert torch.equal(one.W_enc_DF, parts()["W_dec"].T)


@pytest.mark.parametrize("scale", [0.25, 3.0])
@pytest.mark.parametrize("unit", [True, False])
def test_the_scale_of_a_training_goes_into_what_is_left_over(scale: float, unit: bool) -> None:
    sae = made(Pursuit(2.0, 9, stop_on_duplicate_support=False), unit=unit)
    folded = fold_unit_scale(sae, scale)
    assert folded.pursuit == Pursuit(2.0 / scale, 9, stop_on_duplicate_support=False)
    x = inputs()
    of_scaled = sae.encode(x * scale)
    assert torch.allclose(folded.encode(x), of_scaled / scale, atol=1e-5)
    assert torch.equal(folded.encode(x) > 0, of_scaled > 0)
    assert not torch.equal(replace(folded, pursuit=sae.pursuit).encode(x) > 0, of_scaled > 0)


def test_what_would_untie_it_is_refused() -> None:
    assert fold_decoder_norms(made()) is not None
    with pytest.raises(Unsupported, match="decide which latents"):
        fold_decoder_norms(made(unit=False))
    eye = torch.eye(D, dtype=torch.float64)
    with pytest.raises(Unsupported, match="whitening"):
        fold_coordinates(made(), Coordinates(eye[0], eye, eye))
    with pytest.raises(Mismatch, match="W_dec transposed"):
        fold_input_scale(made(), 2.0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"W_enc_DF": parts()["W_enc"]}, Mismatch, "W_dec transposed"),
        ({"b_enc_F": torch.ones(M)}, InvalidInput, "no b_enc"),
        ({"apply_b_dec_to_input": False}, InvalidInput, "does not subtract b_dec"),
        ({"pursuit": None}, InvalidInput, "when it is done"),
        ({"architecture": "standard"}, InvalidInput, "when it is done"),
        (
            {"encoder": "transcoder", "apply_b_dec_to_input": False, "b_dec_O": torch.zeros(D)},
            InvalidInput,
            "No transcoder",
        ),
    ],
)
def test_what_is_no_pursuit(changes: dict[str, Any], error: type[StudioError], words: str) -> None:
    with pytest.raises(error, match=words):
        replace(made(), **changes) if "pursuit" in changes else made(**changes)


@pytest.mark.parametrize("values", [(math.nan,), (math.inf,), (0.1, 0), (0.1, -3)])
def test_what_is_no_end(values: tuple[Any, ...]) -> None:
    with pytest.raises(InvalidInput, match="matching pursuit"):
        Pursuit(*values)
