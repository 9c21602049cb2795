"""The two sizes of a training, each in two units: latents or expansion, tokens or steps."""

from __future__ import annotations

from mistudio.core.config import settings_of
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.widgets.editors import automatic_number
from mistudio.gui.widgets.two_units import TwoUnitsEditor

EXPANSIONS = (4, 8, 16, 32)
MOST_EXPANSION = 64
MOST_STEPS = 1_000_000
_OPTIONS = {setting.name: setting.option for setting in settings_of(TrainConfig)}


def expansion_editor() -> TwoUnitsEditor:
    """Latents, or how many of them there are for each dimension of the model."""
    return TwoUnitsEditor(
        "Expansion",
        "× width",
        most=MOST_EXPANSION,
        tip="Latents as a multiple of the model's width: any whole number from 1 to "
        f"{MOST_EXPANSION}. Choose a model first.",
        offered=EXPANSIONS,
        minimum=_OPTIONS["width"].minimum,
        maximum=_OPTIONS["width"].maximum,
    )


def steps_editor() -> TwoUnitsEditor:
    """Tokens to train on, or the steps in which batches of them are taken."""
    return TwoUnitsEditor(
        "Steps",
        "steps",
        most=MOST_STEPS,
        tip=f"Length in steps of one batch each, 1 to {MOST_STEPS:,}; tokens that do not fill the "
        "last batch count as one step more.",
        rounds_up=True,
        minimum=_OPTIONS["tokens"].minimum,
        maximum=_OPTIONS["tokens"].maximum,
        automatic=automatic_number(_OPTIONS["tokens"].help),
    )
