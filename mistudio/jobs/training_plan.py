"""The plan of a training for the rows that its settings name, and the check before it starts."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mistudio.core.device_profile import budget as within
from mistudio.core.listed_positions import check_positions
from mistudio.core.settings import SettingsFile
from mistudio.core.sweep_configs import SweepConfig
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_plan import Plan, Rates
from mistudio.core.units import format_bytes
from mistudio.jobs import activation_pages, lookup
from mistudio.jobs.device_profile import is_small
from mistudio.jobs.runner import Studio
from mistudio.jobs.training_source import activation_set, check_no_positions
from mistudio.store.hook_width import hook_width
from mistudio.store.records import ActivationSetRow, ModelRow, TokenizationRow
from mistudio.store.tables import TOKENIZATIONS
from mistudio.system.budget import Budget, gpu_budget, memory_budget
from mistudio.system.process import resident_bytes
from mistudio.system.speed import product_flops

if TYPE_CHECKING:
    from mistudio.ml.training.plan_formulas import ModelNeeds, Room

CONTEXT = 512  # of a text that is yet to be tokenised
ANY_LAYER = 1 << 12  # of vectors that come without a model
LIBRARIES = 420_000_000  # resident bytes of torch and transformers once imported
BYTES_PER_WEIGHT = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.1, "nf4": 0.6, "fp4": 0.6}


def members_of(studio: Studio, config: TrainConfig) -> list[TrainConfig]:
    """The SAEs that a config trains: one, or those of a sweep. Raises as `lookup.model`."""
    if isinstance(config, SweepConfig):
        known = lookup.model(studio, config.model).num_layers if config.model else None
        return config.members(known or ANY_LAYER)
    return [config]


def plan_training(
    studio: Studio, members: Sequence[TrainConfig], rates: Rates | None = None
) -> Plan:
    """What these SAEs take when trained together.

    Raises `NotFound` or `InUse` for their names, and as `check_skipped`.
    """
    from mistudio.ml.training.plan import plan

    stored = activation_set(studio, members[0])
    divisible = studio.crew is None  # several processes take their shares whole
    if not members[0].model and stored is not None and not _knows_its_text(stored):
        check_no_positions(members[0])
        return plan(
            members, _vectors(studio, stored), room_of(studio), context=1,
            text_tokens=stored.n_tokens or 0, rates=rates, divisible=divisible,
        )  # fmt: skip
    members = [_named(member, stored) for member in members]
    check_skipped(studio, members[0])
    model = lookup.model(studio, members[0].model)
    return plan(
        members,
        needs_of(model),
        room_of(studio),
        context=context_of(studio, members, model),
        text_tokens=_learnt_tokens(studio, members[0], model),
        rates=rates,
        d=_widest(members, model),
        divisible=divisible,
    )


def _widest(members: Sequence[TrainConfig], model: ModelRow) -> int:
    """The width of the widest hook that is read; 0 where none is known."""
    return max(hook_width(model, member.hook_read) or 0 for member in members)


def _named(config: TrainConfig, stored: ActivationSetRow | None) -> TrainConfig:
    """The config with model and text of the activation set that it reads."""
    if config.model or stored is None:
        return config
    names = {"model": stored.model_id or "", "dataset": stored.tokenization_id or ""}
    return dataclasses.replace(config, **names)


def _knows_its_text(stored: ActivationSetRow) -> bool:
    """Whether model and text of a set are in the library; else its vectors are taken bare."""
    return bool(stored.model_id and stored.tokenization_id)


def _vectors(studio: Studio, stored: ActivationSetRow) -> ModelNeeds:
    """What the plan asks of a model, for vectors that come without one."""
    from mistudio.ml.training.plan_formulas import ModelNeeds

    page = activation_pages.set_page(studio, stored.id)
    return ModelNeeds(stored.name, 0, 0, 1, page.hooks[0].width, 0)


def context_of(studio: Studio, members: Sequence[TrainConfig], model: ModelRow) -> int:
    """Tokens per row of the text that the run would use."""
    text = _text(studio, members[0].dataset, members[0].context, model)
    if text is not None:
        return text.context
    return members[0].context or min(CONTEXT, model.max_positions or CONTEXT)


def check_skipped(studio: Studio, config: TrainConfig) -> None:
    """Raise `InvalidInput` if rows of the text lack the positions to skip, or nothing is left.

    Of a text that is yet to be tokenised without a chosen length of rows, it is not known yet.
    """
    if not config.model:
        return check_no_positions(config)
    text = _text(studio, config.dataset, config.context, lookup.model(studio, config.model))
    context = config.context if text is None else text.context
    if context:
        check_positions(config.skipped, context)
    return None


def check_training(studio: Studio, members: Sequence[TrainConfig]) -> Plan:
    """Raise `OutOfMemory` or `DiskFull` with a way out if these SAEs cannot be trained here."""
    from mistudio.ml.training.plan import check_fits

    found = plan_training(studio, members)
    check_fits(found)
    return found


def lines(found: Plan) -> list[str]:
    """A plan for people."""
    shown = [found.summary]
    shown += [f"  {item.name}: {format_bytes(item.bytes)}  {item.note}" for item in found.items]
    shown.append(f"  in the page cache, given back when short: {format_bytes(found.window)}")
    if found.refusal:
        return [*shown, found.refusal]
    ways = " or ".join(proposal.sentence for proposal in found.proposals)
    way = "Whole batches fit with" if found.pieces else "This is tight; more room is left with"
    return [*shown, f"{way} {ways}."] if ways else shown


def needs_of(model: ModelRow) -> ModelNeeds:
    """What the plan asks of a model, from its row."""
    from mistudio.ml.training.plan_formulas import ModelNeeds

    params, form = model.params_count or 0, model.format or "fp32"
    return ModelNeeds(
        name=model.name,
        weight_bytes=model.memory_bytes or round(params * BYTES_PER_WEIGHT.get(form, 4.0)),
        params=params,
        layers=model.num_layers or 1,
        hidden=model.hidden_dim or 0,
        vocab=model.vocab_size or 0,
        intermediate=int((model.architecture_config or {}).get("intermediate_size") or 0),
        value_bytes=4 if form in ("fp32", "auto") else 2,
    )


def room_of(studio: Studio) -> Room:
    """What this machine has for a training now, the held model let go."""
    from mistudio.ml.training.plan_formulas import Room

    budget = memory_budget()
    device = "cpu"
    if studio.models.device != "cpu" and (found := _gpu()) is not None:
        budget, device = found, "cuda"
    small = is_small(SettingsFile(studio.paths.settings).values)
    usage = shutil.disk_usage(studio.paths.home)
    loaded = "transformers" in sys.modules and "torch" in sys.modules
    return Room(
        device=device,
        free=within(budget.free, resident_bytes(), small) + studio.models.held_bytes,
        total=budget.total,
        disk_free=usage.free,
        program=0 if loaded else LIBRARIES,
        core_flops=product_flops() if device == "cpu" else 0.0,
        cores=studio.models.threads or max(1, (os.cpu_count() or 2) - 1),
        shared=budget.shared,
    )


def _gpu() -> Budget | None:
    """The GPU's budget, as torch sees it where it is loaded: it may lack the driver."""
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return gpu_budget()
    if not torch.cuda.is_available():
        return None
    seen = gpu_budget()
    if seen is None or seen.shared:
        return seen
    free, total = torch.cuda.mem_get_info()
    held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return Budget(free + held, total, "gpu")


def _learnt_tokens(studio: Studio, config: TrainConfig, model: ModelRow) -> int:
    """Tokens of one pass without those at positions that are skipped."""
    context = context_of(studio, [config], model)
    kept = context - sum(position < context for position in config.skipped)
    return _text_tokens(studio, config, model) * kept // context


def _text_tokens(studio: Studio, config: TrainConfig, model: ModelRow) -> int:
    """Tokens of one pass over the text: a mixture ends with the text that is used up first.

    0 if a text is yet to be tokenised.
    """
    texts = [(_text(studio, name, config.context, model), w) for name, w in config.mixture]
    total = sum(weight for _, weight in texts)
    return round(min(((text.tokens or 0) if text else 0) * total / w for text, w in texts))


def _text(studio: Studio, name: str, context: int, model: ModelRow) -> TokenizationRow | None:
    """The tokenisation that the run would use, None if it is yet to be made."""
    named = lookup.tokenization(studio, name)
    if named is not None:
        return named
    dataset = lookup.dataset(studio, name)
    where = "dataset_id = ? AND tokenizer_name = ? AND status = 'ready'"
    values: list[object] = [dataset.id, str((model.layer_map or {}).get("tokenizer"))]
    if context:
        where += " AND context = ?"
        values.append(context)
    found = TOKENIZATIONS.select(studio.db(), where, values, limit=1)
    return found[0] if found else None
