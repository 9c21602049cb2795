"""A studio in a temporary folder with a tiny model and a small dataset of stories."""

from __future__ import annotations

from pathlib import Path

from mistudio.core.control import JobControl
from mistudio.core.dataset_configs import ImportDatasetConfig
from mistudio.core.events import RecordingReporter, Reporter
from mistudio.core.model_configs import ImportModelConfig
from mistudio.core.paths import Paths
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs.context import Result
from mistudio.jobs.runner import Studio
from tests.helpers.tiny import STORIES, save_tiny_llama


def new_studio(home: Path) -> Studio:
    """A studio on an empty data folder."""
    return Studio(Paths.at(home))


def stories_file(folder: Path, times: int = 3) -> Path:
    """A text file with `times` × 80 short documents, all different."""
    path = folder / "stories.txt"
    texts = [f"Chapter {i}. {story}" for i in range(times) for story in STORIES]
    path.write_text("\n\n".join(texts), encoding="utf-8")
    return path


def run(studio: Studio, kind: str, config: object, reporter: Reporter | None = None) -> Result:
    """Run a job here to its end; returns its result or raises its error."""
    return studio.run_now(kind, config, reporter or RecordingReporter(), JobControl())  # type: ignore[arg-type]


def tiny_studio(home: Path) -> Studio:
    """A studio that knows the model `tiny` and the dataset `stories`."""
    home.mkdir(parents=True, exist_ok=True)
    studio = new_studio(home / "data")
    folder = save_tiny_llama(home / "model")
    run(studio, "import_model", ImportModelConfig(path=str(folder), name="tiny"))
    run(studio, "import_dataset", ImportDatasetConfig(path=str(stories_file(home))))
    return studio


def tiny_training(**values: object) -> TrainConfig:
    """A training of a few seconds on the tiny studio."""
    settings: dict[str, object] = {
        "model": "tiny",
        "dataset": "stories",
        "layer": 1,
        "width": 64,
        "k": 4,
        "tokens": 6400,
        "batch": 64,
        "window": 2048,
        "context": 32,
        "checkpoint_every": 20,
        "eval_tokens": 1024,
        "learning_rate": 1e-3,
    }
    return TrainConfig(**{**settings, **values})  # type: ignore[arg-type]
