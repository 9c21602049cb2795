"""What a user can bring before his eyes after the sample run: windows, states of the tabs, tours.

Each scene is a function of a `Stage`; `DIALOGS` open windows, `PLACES` change the main window,
`QUESTIONS` ask for a decision, `FIRST` are of a data folder that holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from PySide6.QtWidgets import QApplication

from mistudio.core.configs import ExportSaeConfig, ImportSaeConfig, SteerConfig
from mistudio.core.model_configs import ExtractConfig
from mistudio.core.steering_spec import Edit, Feature
from mistudio.core.training_configs import TrainConfig
from mistudio.gui.main_window import MainWindow
from mistudio.gui.tabs.steering.card import CardState
from mistudio.gui.tours import TOURS
from mistudio.store.jobs import add_job
from mistudio.store.tables import (
    ACTIVATION_SETS,
    DATASETS,
    JOBS,
    MODELS,
    SAES,
    STEERING_RUNS,
    TOKENIZATIONS,
    TRAININGS,
)

KING = "And the king said unto the people, Let us go up to the house of the Lord."


class Stage(NamedTuple):
    """The window, and what waits until its jobs and questions are answered and drawn."""

    window: MainWindow
    settle: Callable[[], None]
    wait_for: Callable[[Callable[[], bool]], None]

    @property
    def db(self) -> Any:
        return self.window.services.studio.db()

    def tab(self, name: str, **selection: Any) -> Any:
        """Go to a tab."""
        self.window.services.open_tab(name, **selection)
        QApplication.processEvents()
        return self.window.tabs.current()

    def first(self, table: Any) -> Any:
        return table.select(self.db)[0]

    def sae(self) -> str:
        """The SAE that the sample run trained."""
        return next(sae.id for sae in SAES.select(self.db) if sae.training_id)

    def models(self, source: str) -> Any:
        """The Models tab with one of its cards open."""
        tab = self.tab("Models")
        tab.sources.open(source)
        self.settle()
        return tab

    def runs(self) -> Any:
        """The runs of the Training tab, the form closed, and the first run's card."""
        tab = self.tab("Training")
        tab.show_view(0)
        tab.runs.form.section.set_open(False)
        self.settle()
        return tab.runs, next(iter(tab.runs.list.cards.values()))

    def library(self, count: int = 1) -> Any:
        """The SAE library with the first SAEs chosen."""
        tab = self.tab("Training")
        tab.show_view(1)
        self.settle()
        table = tab.library.table
        table.selectAll() if count > 1 else table.select_id(self.sae())
        self.settle()
        return tab.library

    def feature(self) -> Any:
        """The window of a feature."""
        tab = self.tab("Features", sae=self.sae(), feature=3)
        self.settle()
        return tab.detail

    def steering(self) -> Any:
        """The Steering tab with a card, a prompt and few tokens to write."""
        tab = self.tab("Steering")
        tab.panel.load([CardState(Edit(Feature(3, self.sae()), 1.0))])
        tab.prompt.setPlainText("And the king said unto")
        tab.form.set_values({"max_tokens": 24, "seed": 3})
        self.settle()
        return tab


Scene = Callable[[Stage], object]


def prepare(stage: Stage) -> None:
    """Make what the sample run leaves out: an activation set, a second SAE, a second text."""
    services = stage.window.services
    if not ACTIVATION_SETS.select(stage.db):
        services.submit(
            "extract_activations",
            ExtractConfig(
                model=stage.first(MODELS).id,
                dataset=stage.first(TOKENIZATIONS).id,
                layers="1,2",
                rows=16,
                name="first rows",
            ),
        )
    if len(SAES.select(stage.db)) < 2:
        folder = services.studio.paths.exports / "second"
        services.submit("export_sae", ExportSaeConfig(sae=stage.sae(), out=str(folder)))
        stage.settle()
        services.submit(
            "import_sae",
            ImportSaeConfig(
                path=str(folder), name="second", model=stage.first(MODELS).id, measure=False
            ),
        )
    if len(STEERING_RUNS.select(stage.db)) < 2:
        services.submit(
            "steer",
            SteerConfig(sae=stage.sae(), feature=("3=1.0",), prompt="And the king", max_tokens=24),
        )
    stage.settle()


def _command(name: str) -> Scene:
    return lambda stage: getattr(stage.window.commands, name)()


def _on(tab: str, method: str) -> Scene:
    def show(stage: Stage) -> None:
        found = stage.tab(tab, sae=stage.sae()) if tab == "Features" else stage.tab(tab)
        stage.settle()
        getattr(found, method)()

    return show


def _model(what: str) -> Scene:
    def show(stage: Stage) -> None:
        tab = stage.models("hub")
        model = stage.first(MODELS).id
        tab.open(model) if what == "open" else tab.act_on(model, what)

    return show


def _set(method: str) -> Scene:
    def show(stage: Stage) -> None:
        sets = stage.models("sets").sets
        sets.table.selectRow(0)
        getattr(sets, method)()

    return show


def _dataset(page: int) -> Scene:
    def show(stage: Stage) -> None:
        tab = stage.tab("Datasets")
        stage.settle()
        tab.open(stage.first(DATASETS).id)
        for dialog in _shown("DatasetDialog"):
            dialog.pages.setCurrentIndex(page)

    return show


def _feature(page: int) -> Scene:
    return lambda stage: stage.feature().pages.setCurrentIndex(page)


def _try_text(stage: Stage) -> None:
    detail = stage.feature()
    detail.try_this(KING)
    stage.settle()


def _why(stage: Stage) -> None:
    detail = stage.feature()
    detail.pages.setCurrentIndex(5)
    detail.try_text.text.setPlainText(KING)
    detail.try_text.why()


def _sample(stage: Stage) -> None:
    detail = stage.feature()
    detail._on_sample(detail.page.examples[0])


def _own_text(stage: Stage) -> None:
    tab = stage.tab("Features", sae=stage.sae())
    stage.settle()
    tab.test_text()
    tab.text_dialog.text.setPlainText(KING)
    tab.text_dialog.run()


def _run(stage: Stage, method: str) -> None:
    runs, card = stage.runs()
    if method == "compare":
        card.open_pane("metrics")
        card.panes["metrics"].compare()
    else:
        runs.act(card.run, method)


def _library(method: str, count: int = 1) -> Scene:
    return lambda stage: getattr(stage.library(count), method)()


def _survival(stage: Stage) -> None:
    stage.library().details()
    stage.settle()
    for dialog in _shown("SaeDetails"):
        dialog.survival()


def _two_steered(stage: Stage) -> None:
    history = stage.tab("Steering").history
    stage.settle()
    history.view.selectAll()
    both = history.selected()[:2]
    history._services.query.ask(lambda db: _steered(db, both), history._on_two, key="two")


def _steered(db: Any, ids: list[str]) -> Any:
    from mistudio.store import steering

    return steering.runs(db, ids)


def _absorption(stage: Stage) -> None:
    _feature(2)(stage)
    stage.settle()
    for detail in _shown("FeatureDetail"):
        detail.correlations.open_absorption()
    stage.settle()
    for dialog in _shown("AbsorptionDialog"):
        ends = ("king", "queen", "prince", "crown")
        dialog.prompts.positive.setPlainText("\n".join(f"It was the old {e}" for e in ends))
        ends = ("house", "stone", "river", "cloud")
        dialog.prompts.negative.setPlainText("\n".join(f"It was the old {e}" for e in ends))
        dialog.run()
        stage.settle()


def _vectors_import(stage: Stage) -> None:
    stage.tab("Steering").open_vectors()
    stage.settle()
    for dialog in _shown("VectorsDialog"):
        dialog.open_import()


def _job_log(stage: Stage) -> None:
    panel = stage.window.jobs_panel
    panel.refresh()
    stage.settle()
    panel._open_log(next(job.id for job in panel._jobs if job.kind == "demo"))


def _error(stage: Stage) -> None:
    stage.window.show_error(
        "Something unexpected went wrong: ValueError: 3 is not a layer",
        'Traceback (most recent call last):\n  File "layers.py", line 3, in read\nValueError: 3',
    )


def _shown(kind: str) -> list[Any]:
    return [
        widget
        for widget in QApplication.topLevelWidgets()
        if type(widget).__name__ == kind and widget.isVisible()
    ]


DIALOGS: dict[str, Scene] = {
    "settings": _command("show_settings"),
    "system": _command("show_system"),
    "storage": _command("show_storage"),
    "palette": _command("show_palette"),
    "shortcuts": _command("show_shortcuts"),
    "doctor": _command("show_doctor"),
    "about": _command("show_about"),
    "help": _command("show_help"),
    "error": _error,
    "job-log": _job_log,
    "dataset-overview": _dataset(0),
    "dataset-samples": _dataset(1),
    "dataset-tokenization": _dataset(2),
    "dataset-statistics": _dataset(3),
    "model-viewer": _model("open"),
    "model-extract": _model("extract"),
    "model-lens": _model("lens"),
    "model-format": _model("format"),
    "model-report": _model("report"),
    "set": _set("_open"),
    "set-export": _set("_export"),
    "set-import": _set("_import"),
    "run-compare": lambda stage: _run(stage, "compare"),
    "run-continue": lambda stage: _run(stage, "continue"),
    "sae-details": _library("details"),
    "sae-evaluate": _library("evaluate"),
    "sae-export": _library("export"),
    "sae-import": _library("import_sae"),
    "sae-compare": _library("compare", 2),
    "sae-survival": _survival,
    "feature-examples": _feature(0),
    "feature-lens": _feature(1),
    "feature-correlations": _feature(2),
    "feature-ablation": _feature(3),
    "feature-statistics": _feature(4),
    "feature-try": _try_text,
    "feature-labels": _feature(6),
    "feature-why": _why,
    "feature-sample": _sample,
    "absorption": _absorption,
    "health": _on("Features", "open_health"),
    "lists": _on("Features", "show_lists"),
    "map": _on("Features", "show_map"),
    "ablate": _on("Features", "ablate_all"),
    "labels": _on("Features", "_on_labels"),
    "export": _on("Features", "export"),
    "import-labels": _on("Features", "import_labels"),
    "import-cache": lambda stage: stage.tab("Features").form.import_cache(),
    "own-text": _own_text,
    "vectors": _on("Steering", "open_vectors"),
    "vectors-import": _vectors_import,
    "steered-compare": _two_steered,
}


def _files(name: str) -> Scene:
    return lambda stage: stage.tab(name).sources.open("files")


def _new_training(stage: Stage) -> None:
    tab = stage.tab("Training")
    tab.show_view(0)
    tab.runs.form.section.set_open(True)
    stage.settle()
    tab.runs.verticalScrollBar().setValue(0)


def _plan(stage: Stage) -> None:
    _new_training(stage)
    runs = stage.tab("Training").runs
    runs.ensureWidgetVisible(runs.form.start_button)


def _pane(name: str) -> Scene:
    def show(stage: Stage) -> None:
        runs, card = stage.runs()
        for other in card.open_panes():
            card.open_pane(other, False)
        card.open_pane(name)
        stage.settle()
        runs.ensureWidgetVisible(card.toggles[name])
        runs.verticalScrollBar().setValue(runs.verticalScrollBar().value() + 300)

    return show


def _select_runs(stage: Stage) -> None:
    runs, _ = stage.runs()
    runs.list.selection.toggle.setChecked(True)


def _find_features(stage: Stage) -> None:
    tab = stage.tab("Features", sae=stage.sae())
    stage.settle()
    tab._on_again()


def _mode(name: str) -> Scene:
    def show(stage: Stage) -> None:
        tab = stage.steering()
        tab.modes.set_mode(name)
        tab._below.verticalScrollBar().setValue(0)

    return show


def _steered_text(stage: Stage) -> None:
    tab = stage.steering()
    tab.modes.set_mode("blended")
    tab.run_primary()
    stage.settle()


def _settings_open(stage: Stage) -> None:
    tab = stage.steering()
    tab.modes.set_mode("blended")
    tab.settings.set_open(True)
    tab._below.verticalScrollBar().setValue(0)


def _history(stage: Stage) -> None:
    tab = stage.steering()
    tab.settings.set_open(False)
    tab._reveal(tab.history)
    tab.history.view.selectRow(0)


def _jobs(name: str) -> Scene:
    def show(stage: Stage) -> None:
        stage.tab("Datasets")
        panel = stage.window.jobs_panel
        panel.show()
        panel.show_filter(name)

    return show


def _failed_job(stage: Stage) -> None:
    """A job that fails while the window is there: its banner and its card."""
    job = add_job(stage.db, "tokenize", "io", "Tokenise sample", {}, target_id="")
    JOBS.update(stage.db, job.id, status="running")
    panel = stage.window.jobs_panel
    panel.show()
    panel.refresh()
    stage.wait_for(stage.window.query.is_idle)
    JOBS.update(
        stage.db,
        job.id,
        status="failed",
        error_code="no_room",
        error_message="The disk has no room: 3.2 GB are needed, 1.1 GB are free. Free some, then "
        "Retry.",
        error_details="no_room: /home",
    )
    panel.refresh()
    stage.settle()
    panel.show_filter("Failed")


def _banners(stage: Stage) -> None:
    stage.window.jobs_panel.hide()
    stage.tab("Datasets")
    banner = stage.window.services.banner
    banner("The dataset “notes” is deleted. 18.4 MB are free in 10 s.", action="Undo", seconds=9.0)
    banner("The disk is nearly full: 3.2 GB are free.", level="warning", action="Storage")
    banner("The model did not fit into the memory.", level="error", details="out_of_memory")


def _running(stage: Stage) -> None:
    """A training at work, and another that waits for it; `end_running` takes both away."""
    for banner in stage.window.banners.banners():
        banner.dismiss()
    services = stage.window.services
    for number in range(2):
        config = TrainConfig(
            model=stage.first(MODELS).id,
            dataset=stage.first(TOKENIZATIONS).id,
            layer=1,
            width=512,
            k=16,
            tokens=40_000_000,
        )
        services.submit("train", config, f"Train SAE {number + 1}")
    tab = stage.tab("Training")
    tab.show_view(0)
    tab.runs.form.section.set_open(False)
    stage.window.jobs_panel.show()
    stage.window.jobs_panel.show_filter("Active")
    stage.wait_for(lambda: any(card.live for card in tab.runs.list.cards.values()))
    card = next(card for card in tab.runs.list.cards.values() if card.live)
    card.open_pane("metrics")
    tab.runs.verticalScrollBar().setValue(0)


def end_running(stage: Stage) -> None:
    """Cancel what works and what waits, and forget it."""
    for job in JOBS.select(stage.db, "status IN ('queued', 'running')"):
        stage.window.services.lanes.request(job.id, "cancel")
    stage.settle()
    for run in TRAININGS.select(stage.db, "status = 'cancelled'"):
        TRAININGS.delete(stage.db, run.id)
    stage.window.jobs_panel.hide()


PLACES: dict[str, Scene] = {
    "datasets-files": _files("Datasets"),
    "models-files": _files("Models"),
    "models-sets": lambda stage: stage.models("sets").sets.table.selectRow(0),
    "training-form": _new_training,
    "training-plan": _plan,
    "training-metrics": _pane("metrics"),
    "training-checkpoints": _pane("checkpoints"),
    "training-evaluation": _pane("evaluation"),
    "training-log": _pane("log"),
    "training-settings": _pane("settings"),
    "training-select": _select_runs,
    "training-library": lambda stage: stage.library(),
    "features-find": _find_features,
    "steering-text": _steered_text,
    "steering-compare": _mode("compare"),
    "steering-operators": _mode("operators"),
    "steering-sweep": _mode("sweep"),
    "steering-batch": _mode("batch"),
    "steering-settings": _settings_open,
    "steering-history": _history,
    "jobs-finished": _jobs("Finished"),
    "jobs-none": _jobs("Queued"),
    "jobs-failed": _failed_job,
    "banners": _banners,
    "running": _running,
}


def _delete_second(stage: Stage) -> None:
    """The SAE that nothing else needs."""
    library = stage.library()
    library._deleter.ask(next(sae.id for sae in SAES.select(stage.db) if not sae.training_id))


QUESTIONS: dict[str, Scene] = {
    "ask-sae": _delete_second,
    "ask-set": _set("_delete"),
    "ask-run": lambda stage: _run(stage, "delete"),
    "ask-sample": _command("remove_sample"),
    "ask-name": _library("rename"),
    "ask-strength": lambda stage: stage.steering().ask_auto(),
}


def _first(name: str) -> Scene:
    return lambda stage: stage.tab(name)


def _first_library(stage: Stage) -> None:
    stage.tab("Training").show_view(1)


FIRST: dict[str, Scene] = {
    **{f"first-{name.lower()}": _first(name) for name in TOURS},
    "first-library": _first_library,
    "first-jobs": _jobs("Active"),
}


def tour(stage: Stage, name: str) -> Iterator[str]:
    """Go through a tab's tour; what is yielded names the step that is shown."""
    stage.tab(name)
    stage.settle()
    stage.window.commands.tour_of(name)
    led = stage.window.commands._tour
    assert led is not None
    for step in range(len(TOURS[name])):
        led.show_step(step)
        QApplication.processEvents()
        yield f"tour-{name.lower()}-{step + 1}"
    led.end()
