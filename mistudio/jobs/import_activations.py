"""Import vectors as an activation set: of any model, also of one that is not in the library."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistudio.core.atomic import directory_bytes, fsync_path
from mistudio.core.config import to_dict
from mistudio.core.errors import DiskFull, Mismatch
from mistudio.core.ids import new_id
from mistudio.core.model_configs import ImportActivationsConfig
from mistudio.jobs import lookup
from mistudio.jobs.activation_pages import no_room, partial_folder
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.extraction_plan import free_room
from mistudio.jobs.runner import Studio
from mistudio.store.hook_width import hook_width
from mistudio.store.tables import ACTIVATION_SETS


def prepare(studio: Studio, config: ImportActivationsConfig) -> None:
    """Refuse an unknown model and a disk without room before anything is queued."""
    if config.model:
        lookup.model(studio, config.model)
    path = Path(config.path).expanduser()
    size = path.stat().st_size if path.is_file() else 0
    free, spare = free_room(studio)
    if refusal := no_room(size, max(0, free - spare)):
        raise DiskFull(refusal)


def run(ctx: JobContext, config: ImportActivationsConfig) -> Result:
    """Read the file into a set that appears when it is whole."""
    from mistudio.ml.activations.import_vectors import import_vectors, open_vectors
    from mistudio.ml.activations.shards import ActivationSet

    path = Path(config.path).expanduser().resolve()
    vectors = open_vectors(path, config.tensor)
    model = lookup.model(ctx.studio, config.model) if config.model else None
    width = hook_width(model, config.hook) if model is not None else None
    if model is not None and width not in (None, vectors.width):
        raise Mismatch(
            f"The vectors have width {vectors.width:,}, {model.name!r} has {width:,}. "
            "Choose the model they were read from, or none."
        )
    layer, hook = max(0, config.layer), config.hook or "resid_post"
    set_id = new_id("activation_set")
    working, final = partial_folder(ctx.studio, set_id), ctx.paths.activations(set_id)
    try:
        import_vectors(vectors, (layer, hook), working, ctx.report, ctx.control)
        working.replace(final)
        fsync_path(final.parent)
        row = ACTIVATION_SETS.insert(
            ctx.db,
            id=set_id,
            name=config.name.strip() or path.stem,
            config=to_dict(config),
            model_id=model.id if model else None,
            model_format=model.format if model else None,
            layers=str(layer),
            hooks=hook,
            dtype=vectors.dtype,
            container="safetensors",
            n_tokens=vectors.total,
            statistics=ActivationSet(final).summary(),
            path=ctx.paths.relative(final),
            size_bytes=directory_bytes(final),
            status="completed",
        )
    except BaseException:
        shutil.rmtree(working, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        raise
    return {
        "activations": row.id,
        "name": row.name,
        "vectors": vectors.total,
        "width": vectors.width,
        "dtype": vectors.dtype,
        "bytes": row.size_bytes,
    }
