"""The written form of steering edits."""

from __future__ import annotations

import pytest

from mistudio.core.steering_spec import Edit, Feature, parse_edits


def test_edits_come_in_index_order_whatever_the_order_given() -> None:
    found = parse_edits(("9=2", "#3=-1.5:clamp"))
    assert found.edits == (Edit(Feature(3), -1.5, "clamp"), Edit(Feature(9), 2.0, "add"))
    assert found.problems == ()


def test_the_written_form_reads_back() -> None:
    edit = Edit(Feature(12), 0.1, "clamp")
    assert parse_edits((edit.written(),)).edits == (edit,)


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("x=1", "not of the form"),
        ("3=", "not of the form"),
        ("3=nan", "not of the form"),
        ("3=1:melt", "'melt' is no operator"),
    ],
)
def test_each_mistake_is_a_sentence(written: str, problem: str) -> None:
    found = parse_edits((written, "4=1"))
    assert problem in found.problems[0]
    assert [e.feature for e in found.edits] == [4]


def test_a_feature_has_one_edit() -> None:
    assert "named twice" in parse_edits(("4=1", "4=2")).problems[0]


def test_at_most_twenty() -> None:
    assert "At most 20" in parse_edits([f"{i}=1" for i in range(21)]).problems[0]
