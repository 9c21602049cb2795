"""Register a language model (Hugging Face folder or GGUF file) after a real forward pass."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistudio.core.atomic import atomic_directory, directory_bytes
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.events import Reporter
from mistudio.core.ids import new_id
from mistudio.core.model_configs import ImportModelConfig
from mistudio.jobs import model_checking
from mistudio.jobs.check_model import summary
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS


def prepare(studio: Studio, config: ImportModelConfig) -> None:
    """Refuse a path that is not there before anything is queued."""
    if not Path(config.path).expanduser().exists():
        raise InvalidInput(f"There is no file or folder {config.path!r}.", code="not_found")


def run(ctx: JobContext, config: ImportModelConfig) -> Result:
    """Import the model; a failure or a cancel leaves neither row nor copied files."""
    return summary(register(ctx.studio, config, ctx.report, ctx.control, origin=""))


def register(
    studio: Studio,
    config: ImportModelConfig,
    report: Reporter,
    control: JobControl,
    *,
    origin: str,
) -> ModelRow:
    """Check a model and add its row; `origin` "" takes folder or gguf from the path.

    An imported model stays loaded. One of a kind that cannot be used (an encoder) is added as
    "incompatible", to be looked at.
    """
    prepare(studio, config)
    source = Path(config.path).expanduser().resolve()
    model_id = new_id("model")
    folder = studio.paths.model(model_id)
    name = config.name.strip() or (source.stem if source.is_file() else source.name)
    try:
        report.progress(0.02, "reading the description")
        refusal = _refusal(source, config)
        used = source
        if config.copy:
            report.progress(0.05, "copying")
            used = _copy(source, folder, control)
        control.check()
        if refusal is not None:
            report.note(refusal.sentence, level="warning")
            values = model_checking.incompatible_values(used, refusal)
        else:
            values = model_checking.check_files(
                studio,
                model_id,
                name,
                used,
                config.format,
                StageReporter(report, 0.1, 1.0),
                control,
                allow_code=config.allow_code,
                keep=not origin,
            )
        return MODELS.insert(
            studio.db(),
            id=model_id,
            name=name,
            origin=origin or ("gguf" if used.is_file() else "folder"),
            trust_remote_code=config.allow_code,
            path=studio.paths.relative(used),
            size_bytes=directory_bytes(used),
            **values,
        )
    except BaseException:
        if studio.models.model_id == model_id:
            studio.models.unload()
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _refusal(source: Path, config: ImportModelConfig) -> Unsupported | None:
    """Why the model can only be looked at, None if it may be used; raises what else is wrong."""
    from mistudio.ml.loading import inspect_model

    try:
        inspect_model(source, allow_code=config.allow_code)
    except Unsupported as error:
        if not source.is_dir() or not model_checking.is_incompatible(error):
            raise
        model_checking.incompatible_values(source, error)  # raises if there is nothing to show
        return error
    return None


def _copy(source: Path, folder: Path, control: JobControl) -> Path:
    """Copy a folder or file; asks `control` every 16 MiB."""

    def copy(read_from: str, write_to: str) -> None:
        control.check()
        with open(read_from, "rb") as old, open(write_to, "xb") as new:
            while part := old.read(1 << 24):
                control.check()
                new.write(part)

    with atomic_directory(folder) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, dirs_exist_ok=True, copy_function=copy)
        else:
            copy(str(source), str(temporary / source.name))
    return folder if source.is_dir() else folder / source.name
