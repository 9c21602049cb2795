"""The tours: five sentences for each tab, each about a control that is really there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PySide6.QtWidgets import QWidget


class Step(NamedTuple):
    """A sentence and where it points: the first of the tab's widgets that can be seen."""

    sentence: str
    targets: Callable[[Any], Sequence[QWidget]]


def _list_of(tab: Any) -> Sequence[QWidget]:
    return tab.grid, tab.job_grid, tab.empty


TOURS: dict[str, tuple[Step, ...]] = {
    "Datasets": (
        Step(
            "Text comes in here: from the Hugging Face Hub, or from files of this machine.",
            lambda tab: (tab.sources,),
        ),
        Step(
            "Every dataset is a card, and a click on it opens its samples, its statistics and a "
            "search for words.",
            _list_of,
        ),
        Step(
            "A model reads tokens, not text: open a dataset and tokenise it there, or let a "
            "training do it by itself.",
            _list_of,
        ),
        Step(
            "Many datasets are narrowed by name, state and source; Ctrl+F leads here.",
            lambda tab: (tab.filters, tab.empty),
        ),
        Step(
            "If you have no text yet, Run the sample goes the whole way with a small text and a "
            "small model that come with the program, and needs no network.",
            lambda tab: (tab.empty.button, tab.sources),
        ),
    ),
    "Models": (
        Step(
            "Language models come in here: from the Hub, from a folder, or from a GGUF file.",
            lambda tab: (tab.sources,),
        ),
        Step(
            "A click on a model's card opens its architecture, layer by layer.",
            _list_of,
        ),
        Step(
            "The buttons of a card read a prompt through every layer, compare precisions, and "
            "store activations for later trainings.",
            _list_of,
        ),
        Step(
            "What was stored stands under Activation sets, where it is checked, exported and used.",
            lambda tab: (tab.sources,),
        ),
        Step(
            "A model stays in memory until another needs the room; the status bar at the bottom "
            "names it and unloads it.",
            lambda tab: (
                (tab.window().statusBar(), tab) if hasattr(tab.window(), "statusBar") else (tab,)
            ),
        ),
    ),
    "Training": (
        Step(
            "Choose a model, a text and a layer; the other settings have sensible values, and each "
            "says what it does when the mouse rests on it or F1 is pressed.",
            lambda tab: (tab.runs.form.form, tab.runs.form, tab.views.button(0)),
        ),
        Step(
            "Before anything runs, the plan says how much memory, time and disk the training takes "
            "on this machine.",
            lambda tab: (tab.runs.form.plan, tab.runs.form, tab.views.button(0)),
        ),
        Step(
            "Start training queues the run; it can be paused, stopped and resumed at any time, and "
            "what it has learnt is kept.",
            lambda tab: (tab.runs.form.start_button, tab.runs.form, tab.views.button(0)),
        ),
        Step(
            "Each run is a card here, with its curves, checkpoints, settings and log.",
            lambda tab: (tab.runs.list, tab.views.button(0)),
        ),
        Step(
            "Finished runs leave an SAE in the library, where others can be imported, compared, "
            "measured and exported.",
            lambda tab: (tab.views.button(1),),
        ),
    ),
    "Features": (
        Step(
            "Choose an SAE here; its features are what its latents fire on.",
            lambda tab: (tab.source,),
        ),
        Step(
            "Finding features reads a text once and keeps, for every latent, how often it fires "
            "and where it fires most.",
            lambda tab: (tab.form, tab.again, tab),
        ),
        Step(
            "The table is sorted by a click on a column, and narrowed by words and by how often "
            "features fire.",
            lambda tab: (tab.table.filters, tab.pages),
        ),
        Step(
            "Return on a row opens the feature: its examples, the tokens it promotes, related "
            "features, and what changes without it.",
            lambda tab: (tab.table.view, tab.pages),
        ),
        Step(
            "Labels are written by rules, by a language model or by you, and each can be scored by "
            "how well it predicts the feature.",
            lambda tab: (tab.labels_button, tab.pages),
        ),
    ),
    "Steering": (
        Step(
            "Search a feature by its number or label and add it: every feature becomes a card.",
            lambda tab: (tab.panel.search,),
        ),
        Step(
            "The slider of a card says how strongly the feature is added to what the model "
            "computes, or taken out of it.",
            lambda tab: (tab.panel.area,),
        ),
        Step(
            "Write the prompt here, as plain text or as what a user says to a chat model.",
            lambda tab: (tab.prompt_box,),
        ),
        Step(
            "The mode says whether all cards act together, each alone, all at several strengths, "
            "or on many prompts.",
            lambda tab: (tab.modes,),
        ),
        Step(
            "Generate writes the text with and without steering, measures how far they differ, and "
            "keeps the run in the history below.",
            lambda tab: (tab.generate_button,),
        ),
    ),
}
