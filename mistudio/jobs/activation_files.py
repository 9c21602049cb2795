"""Jobs on a stored activation set: verify its shards, export one layer and hook as .npy."""

from __future__ import annotations

from pathlib import Path

from mistudio.core.errors import Damaged, DiskFull, InvalidInput
from mistudio.core.model_configs import ExportActivationsConfig, VerifyActivationsConfig
from mistudio.core.units import format_bytes
from mistudio.jobs.activation_pages import completed_set
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio


def prepare_verify(studio: Studio, config: VerifyActivationsConfig) -> None:
    """Refuse an unknown or unfinished set before anything is queued."""
    completed_set(studio, config.activations)


def run_verify(ctx: JobContext, config: VerifyActivationsConfig) -> Result:
    """Read every file again; `Damaged` names those that differ from their checksums."""
    from mistudio.ml.activations.shards import ActivationSet

    row = completed_set(ctx.studio, config.activations)
    stored = ActivationSet(ctx.paths.activations(row.id))
    damaged = stored.damaged_files(ctx.report, ctx.control)
    if damaged:
        shown = ", ".join(damaged[:3]) + (", …" if len(damaged) > 3 else "")
        noun = "file is" if len(damaged) == 1 else "files are"
        raise Damaged(
            f"{len(damaged):,} {noun} damaged ({shown}). Extract the set again.",
            details="\n".join(damaged),
        )
    return {
        "activations": row.id,
        "files": stored.n_files,
        "bytes": stored.n_bytes,
        "tokens": len(stored),
    }


def prepare_export(studio: Studio, config: ExportActivationsConfig) -> None:
    """Refuse an unknown set, and a layer or hook it does not hold, before anything is queued."""
    row = completed_set(studio, config.activations)
    _choose(config, row.layers or "", row.hooks or "")


def run_export(ctx: JobContext, config: ExportActivationsConfig) -> Result:
    """Write one layer and hook as one .npy file [tokens, width], shard by shard."""
    from mistudio.ml.activations.export_npy import export_npy, exported_bytes
    from mistudio.ml.activations.shards import ActivationSet

    row = completed_set(ctx.studio, config.activations)
    layer, hook = _choose(config, row.layers or "", row.hooks or "")
    out = Path(config.out).expanduser().absolute()
    if out.suffix != ".npy":
        out = out.with_name(out.name + ".npy")
    stored = ActivationSet(ctx.paths.activations(row.id))
    needed, free = exported_bytes(stored, layer, hook), _free_at(out)
    if needed > free:
        raise DiskFull(f"Needs {format_bytes(needed)}, {format_bytes(free)} are free.")
    export_npy(stored, layer, hook, out, ctx.report, ctx.control)
    return {
        "activations": row.id,
        "layer": layer,
        "hook": hook,
        "tokens": len(stored),
        "width": stored.width(layer, hook),
        "path": str(out),
        "bytes": out.stat().st_size,
    }


def _choose(config: ExportActivationsConfig, layers: str, hooks: str) -> tuple[int, str]:
    """The layer and hook to write; the only ones there are if the config leaves them open."""
    known_layers = [int(layer) for layer in layers.split(",")]
    known_hooks = hooks.split(",")
    if config.layer < 0 and len(known_layers) > 1:
        raise InvalidInput(f"Choose one of the layers {', '.join(map(str, known_layers))}.")
    if not config.hook and len(known_hooks) > 1:
        raise InvalidInput(f"Choose one of the hooks {', '.join(known_hooks)}.")
    layer = config.layer if config.layer >= 0 else known_layers[0]
    hook = config.hook or known_hooks[0]
    if layer not in known_layers or hook not in known_hooks:
        raise InvalidInput(
            f"This set holds {', '.join(known_hooks)} of the layers "
            f"{', '.join(map(str, known_layers))}."
        )
    return layer, hook


def _free_at(out: Path) -> int:
    import shutil

    place = out.parent
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
