"""How figures read: names, formats, differences."""

from __future__ import annotations

import math

from mistudio.core.sae_figures import FIGURES, GROUPS, differences, measured, overlap_sentence


def test_figures_read_as_people_read_them() -> None:
    found = {
        "n": 10_000,
        "ce_n": 900,
        "ev": 0.81234,
        "dead": 0.0156,
        "dead_bound": 3e-4,
        "l0_p95": 1234,
        "kl_div": math.nan,
        "ce_gap": 0.5,
        "nmse": None,
        "intervals": {"ev": [0.8, 0.82], "ce_gap": None},
    }
    lines = {line.figure.key: line[1:] for line in measured(found)}
    assert lines == {
        "ev": ("0.8123", "0.8000 to 0.8200", "10,000"),
        "l0_p95": ("1,234", "—", "10,000"),
        "ce_gap": ("0.5000", "—", "900"),
        "dead": ("1.56 %", "—", "10,000"),
        "dead_bound": ("3.0e-04", "—", "10,000"),
    }


def test_a_difference_is_sure_if_its_interval_leaves_zero_out() -> None:
    lines = {
        "ev": {"a": 0.8, "b": 0.7, "difference": -0.1, "interval": [-0.12, -0.08]},
        "l0": {"a": 30.0, "b": 30.5, "difference": 0.5, "interval": [-0.1, 1.1]},
        "dead": {"a": 0.0, "b": 0.1, "difference": 0.1, "interval": None},
        "nmse": {"a": None, "b": 0.1, "difference": None, "interval": None},
    }
    found = {x.figure.key: x for x in differences({"metrics": lines})}
    assert found["ev"][1:] == ("0.8000", "0.7000", "-0.1000", "-0.1200 to -0.0800", True)
    assert (found["l0"].difference, found["l0"].sure) == ("+0.50", False)
    assert found["dead"][3:] == ("+10.00 %", "—", False)
    assert "nmse" not in found


def test_every_figure_is_explained_in_one_sentence() -> None:
    assert len({figure.key for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        assert figure.group in GROUPS
        assert figure.meaning.endswith(".")
        assert len(figure.meaning) > 15
    # no figure is called explained variance, or EV, without its variant
    names = [figure.name for figure in FIGURES if figure.key.startswith(("ev", "fve"))]
    assert len(set(names)) == 4


def test_overlap_in_words() -> None:
    overlap = {
        "threshold": 0.7,
        "latents_a": 2000,
        "latents_b": 1000,
        "shared_a": 0.25,
        "shared_b": 0.5,
        "pairs": 480,
        "mean_a": 0.51,
        "mean_b": 0.6,
    }
    said = overlap_sentence(overlap)
    assert said.startswith("25.0 % of A's 2,000 features that fired have one in B")
    assert "50.0 % of B's 1,000 have one in A; 480 pairs" in said
    assert "no feature" in overlap_sentence({**overlap, "mean_b": None})
