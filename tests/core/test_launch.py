"""What a launcher says in the environment."""

from __future__ import annotations

import pytest

from mistudio.core.launch import Launch, launch_of


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, Launch()),
        ({"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, Launch()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Launch(5, 8, 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Launch(1, 2, 1)),
        ({"RANK": "x", "WORLD_SIZE": "2"}, Launch()),
        ({"RANK": "2", "WORLD_SIZE": "2"}, Launch()),
    ],
)
def test_launch(environment: dict[str, str], found: Launch) -> None:
    assert launch_of(environment) == found
    assert launch_of(environment).is_shared == (found.size > 1)
