"""The steering preset that the sample project makes from a feature it found."""

from __future__ import annotations

from mistudio.core.configs import SteerConfig
from mistudio.jobs import steering_presets, templates
from mistudio.jobs.runner import Studio
from mistudio.store.records import TemplateRow

MADE = "Made by the sample project"
_LONGEST = 60  # characters of the words in a name


def keep(studio: Studio, config: SteerConfig, words: str) -> TemplateRow:
    """Save the preset of a feature that `words` name, in place of that of an earlier run."""
    remove(studio)
    name = f"Sample: {' '.join(words.split())[:_LONGEST].rstrip(' ,')}"
    return steering_presets.save(studio, config, name, f"{MADE}: the feature that it steers with.")


def of_sample(studio: Studio) -> list[TemplateRow]:
    """The presets that the sample project made, whatever they are called by now."""
    found = templates.templates(studio, steering_presets.KIND)
    return [row for row in found if (row.description or "").startswith(MADE)]


def remove(studio: Studio) -> int:
    """Delete them; how many there were."""
    rows = of_sample(studio)
    for row in rows:
        templates.delete(studio, row.id)
    return len(rows)
