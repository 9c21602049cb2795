"""A made-up harvest in which it is known what each feature fires on."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from mistudio.ml.features.feature_store import KEPT, SPECIAL

VOCABULARY = [
    *("<s>", " the", " The", " cat", " dog", " 7", " 42", ".", ",", "\n", "s", " ship", " sea"),
    *(" harbour", " sail", " x", " yes", " no", " LOUD", " мир"),
]
ROWS, LENGTH = 400, 32
(BOS, THE, CAPITAL_THE, CAT, DOG, SEVEN, FORTY_TWO, DOT) = range(8)
FEATURES = (
    *("the", "before_cat", "digits", "after_dot", "dead", "rare", "graded"),
    *("early", "everywhere"),
)


class Harvest(NamedTuple):
    """Arrays as a feature store has them, and the folder that holds them."""

    folder: Path
    ids_RS: np.ndarray
    mask_RS: np.ndarray
    splits_F: np.ndarray
    tokens_E: np.ndarray
    values_E: np.ndarray

    @property
    def kept(self) -> int:
        return int((self.mask_RS == KEPT).sum())

    def active(self, name: str) -> np.ndarray:
        """The token numbers on which a feature is active."""
        index = FEATURES.index(name)
        return self.tokens_E[self.splits_F[index] : self.splits_F[index + 1]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Harvest:
    folder = tmp_path_factory.mktemp("labels")
    generator = np.random.default_rng(5)
    ids_RS = generator.integers(1, len(VOCABULARY), (ROWS, LENGTH)).astype(np.int32)
    ids_RS[:, 0] = BOS
    mask_RS = np.full((ROWS, LENGTH), KEPT, np.uint8)
    mask_RS[:, 0] = SPECIAL
    kept_RS = mask_RS == KEPT
    following = np.roll(ids_RS, -1, 1)
    previous = np.roll(ids_RS, 1, 1)
    last = np.arange(LENGTH) == LENGTH - 1
    chance = generator.random((ROWS, LENGTH))
    places = {
        "the": np.isin(ids_RS, (THE, CAPITAL_THE)),
        "before_cat": (following == CAT) & ~last,
        "digits": np.isin(ids_RS, (SEVEN, FORTY_TWO)) & (chance < 0.9),
        "after_dot": (previous == DOT) & (np.arange(LENGTH) > 0),
        "dead": np.zeros((ROWS, LENGTH), bool),
        "rare": (ids_RS == DOG) & (np.arange(ROWS)[:, None] < 6),
        # a mixture of many strings, at different rates
        "graded": chance < np.linspace(0.0, 0.9, len(VOCABULARY))[ids_RS],
        "early": (np.arange(LENGTH) < 3) & (chance < 0.8),
        "everywhere": chance < 0.7,
    }
    splits, tokens, values = [0], [], []
    for name in FEATURES:
        numbers = np.flatnonzero((places[name] & kept_RS).reshape(-1))
        tokens.append(numbers)
        values.append(generator.uniform(0.5, 4.0, numbers.size))
        splits.append(splits[-1] + numbers.size)
    found = Harvest(
        folder,
        ids_RS,
        mask_RS,
        np.array(splits, np.int64),
        np.concatenate(tokens).astype(np.uint32),
        np.concatenate(values).astype(np.float16),
    )
    for name, array in (
        ("ids", ids_RS.reshape(-1)),
        ("mask", mask_RS.reshape(-1)),
        ("csc_splits", found.splits_F),
        ("csc_tokens", found.tokens_E),
        ("csc_values", found.values_E),
    ):
        np.save(folder / f"{name}.npy", array)
    return found
