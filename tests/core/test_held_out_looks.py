"""What is found on held-out text while an SAE is trained: there and back, and in words."""

from __future__ import annotations

import re
from typing import Any

from mistudio.core.held_out_looks import figures_of, row_of, sentence, told_of
from mistudio.core.sae_figures import DENSITY_EDGES, measured

FOUND: dict[str, Any] = {
    "ev": 0.88412,
    "l0": 32.14,
    "dead": 0.0042,
    "n": 59_563,
    "documents": 412,
    "dead_bound": 3 / 59_563,
    "density_below_1e-6": 0.01,
    "density_below_1e-5": 0.02,
    "density_above_1e-2": 0.5,
    "density_above_1e-1": 0.0125,
    "density_histogram": [*range(28)],
    "intervals": {"ev": [0.8811, 0.88696], "l0": [31.8, 32.44]},
}


def test_a_row_tells_what_was_found() -> None:
    row = row_of(FOUND)
    assert all(re.fullmatch(r"heldout_[a-z0-9_]+", name) for name in row), "names of columns"
    assert (row["heldout_ev_low"], row["heldout_l0_high"]) == (0.8811, 32.44)
    assert row["heldout_density_above_1e_1"] == 0.0125
    assert figures_of(row) == {**FOUND, "density_histogram_edges": list(DENSITY_EDGES)}
    lines = {line.figure.key: (line.value, line.interval, line.n) for line in measured(FOUND)}
    assert lines["ev"] == ("0.8841", "0.8811 to 0.8870", "59,563")
    assert len(lines) == 8


def test_a_row_of_an_earlier_version_tells_less() -> None:
    old = {"heldout_ev": 0.5, "heldout_l0": 8.0, "heldout_dead": 0.25, "heldout_n": 300}
    new = {**dict.fromkeys(row_of(FOUND)), **old}
    for row in (old, new):
        assert figures_of(row) == {"ev": 0.5, "l0": 8.0, "dead": 0.25, "n": 300, "intervals": {}}
        assert told_of(figures_of(row)) == (
            "On 300 tokens held out: explained variance 0.5000, L0 8.0, 25.0 % of the latents "
            "silent."
        )
    assert told_of(figures_of({})) == ""


def test_in_words() -> None:
    assert sentence(3000, FOUND) == (
        "Step 3,000: held-out EV 0.8841 [0.8811, 0.8870], L0 32.1 [31.8, 32.4], 0.42 % of the "
        "latents never fired, 1.25 % fire on more than a tenth; n 59,563 tokens of 412 documents."
    )
    undefined = {**FOUND, "ev": None, "documents": 1, "intervals": {"ev": None, "l0": None}}
    assert "held-out EV —, L0 32.1, 0.42 %" in sentence(10, undefined)
    assert sentence(10, undefined).endswith("n 59,563 tokens of 1 document.")
    assert row_of(undefined)["heldout_ev_low"] is None
    assert told_of(FOUND).startswith("On 59,563 tokens of 412 documents held out: explained ")
    assert "0.8841 [0.8811, 0.8870], L0 32.1 [31.8, 32.4] (95 % intervals)" in told_of(FOUND)
