"""Register a language model (Hugging Face folder or GGUF file) after a real forward pass."""

from __future__ import annotations

import shutil
from pathlib import Path

from mistudio.core.atomic import atomic_directory, directory_bytes
from mistudio.core.configs import HOOKS
from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput
from mistudio.core.events import Reporter
from mistudio.core.ids import new_id
from mistudio.core.model_configs import ImportModelConfig, format_of
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store.records import ModelRow
from mistudio.store.tables import MODELS


def prepare(studio: Studio, config: ImportModelConfig) -> None:
    """Refuse a path that is not there before anything is queued."""
    if not Path(config.path).expanduser().exists():
        raise InvalidInput(f"There is no file or folder {config.path!r}.", code="not_found")


def run(ctx: JobContext, config: ImportModelConfig) -> Result:
    """Import the model; a failure or a cancel leaves neither row nor copied files."""
    row = register(ctx.studio, config, ctx.report, ctx.control, origin="")
    return {
        "model": row.id,
        "name": row.name,
        "architecture": row.architecture,
        "layers": row.num_layers,
        "hidden": row.hidden_dim,
        "parameters": row.params_count,
    }


def register(
    studio: Studio,
    config: ImportModelConfig,
    report: Reporter,
    control: JobControl,
    *,
    origin: str,
) -> ModelRow:
    """Check a model and add its row; `origin` "" takes folder or gguf from the path."""
    from mistudio.ml.loading import inspect_model

    prepare(studio, config)
    source = Path(config.path).expanduser().resolve()
    report.progress(0.02, "reading the description")
    facts = inspect_model(source)
    control.check()
    model_id = new_id("model")
    folder = studio.paths.model(model_id)
    used = source
    try:
        if config.copy:
            report.progress(0.05, "copying")
            used = _copy(source, folder)
        control.check()
        checked = _check(studio, used, report)
        row = MODELS.insert(
            studio.db(),
            id=model_id,
            name=config.name.strip() or facts.name,
            origin=origin or facts.origin,
            architecture=facts.architecture,
            params_count=checked["parameters"],
            format=format_of(str(checked["dtype"])),
            num_layers=facts.num_layers,
            hidden_dim=facts.hidden_dim,
            num_heads=facts.num_heads,
            num_kv_heads=facts.num_kv_heads,
            vocab_size=facts.vocab_size,
            max_positions=facts.max_positions,
            architecture_config=facts.config,
            layer_map={
                "blocks": checked["blocks"],
                "hooks": checked["hooks"],
                "tree": checked["tree"],
                "tokenizer": checked["tokenizer"],
            },
            logit_lens_ready=checked["lens"],
            memory_bytes=checked["bytes"],
            path=studio.paths.relative(used),
            size_bytes=directory_bytes(used),
            status="ready",
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return row


def _copy(source: Path, folder: Path) -> Path:
    with atomic_directory(folder) as temporary:
        if source.is_dir():
            shutil.copytree(source, temporary, dirs_exist_ok=True)
        else:
            shutil.copy2(source, temporary / source.name)
    return folder if source.is_dir() else folder / source.name


def _check(studio: Studio, path: Path, report: Reporter) -> dict[str, object]:
    """Load once, run one forward pass per hook on the last block, read sizes from tensors."""
    import torch

    from mistudio.ml.activations.capture import Capture
    from mistudio.ml.module_tree import architecture_tree
    from mistudio.ml.device import choose_device
    from mistudio.ml.hooks import hook_path
    from mistudio.ml.loading import load_model, tokenizer_fingerprint

    report.progress(0.2, "loading")
    loaded = load_model(path, choose_device())
    report.progress(0.8, "checking hooks")
    last = len(loaded.blocks.modules) - 1
    ids_BS = torch.arange(8, device=loaded.device).unsqueeze(0) % int(
        loaded.model.config.vocab_size
    )
    for hook in HOOKS:
        Capture(loaded, last, hook)(ids_BS)
    parameters = list(loaded.model.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "dtype": str(parameters[0].dtype).removeprefix("torch."),
        "blocks": loaded.blocks.path,
        "tokenizer": tokenizer_fingerprint(loaded.tokenizer),
        "hooks": {hook: hook_path(loaded, last, hook) for hook in HOOKS},
        "tree": architecture_tree(loaded.model),
        "lens": loaded.blocks.final_norm is not None and loaded.blocks.unembedding is not None,
    }
