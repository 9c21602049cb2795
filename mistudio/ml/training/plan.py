"""What a training will take, before it starts: memory by item, disk, time, and what would fit.

Formulas only, so that a window can ask at every keystroke; a probe's rates make times exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from mistudio.core.errors import DiskFull, OutOfMemory
from mistudio.core.training_configs import TrainConfig
from mistudio.core.training_plan import Item, Plan, Proposal, Rates
from mistudio.core.units import format_bytes, format_count, format_duration
from mistudio.ml.training import plan_formulas as formulas
from mistudio.ml.training.plan_formulas import ModelNeeds, Room

__all__ = ["Item", "Plan", "Proposal", "Rates", "check_fits", "divided", "memory_items", "plan"]

WARN_SHARE = 0.75  # of the free memory, beyond which less is proposed
SMALLEST_BATCH, SMALLEST_WIDTH = 64, 256
# Batches are cut into so many pieces, at most, rather than the model let go; with more of them the
# time and the choice of a batch's largest values suffer more.
MOST_PIECES = 8
PASS = "One pass of the model"
CPU_FLOPS = 2e10  # of one core, for times where nothing was measured
GPU_FLOPS = 1e13

Needs = Callable[[Sequence[TrainConfig]], int]


def plan(
    members: Sequence[TrainConfig],
    model: ModelNeeds,
    room: Room,
    *,
    context: int,
    text_tokens: int = 0,
    rates: Rates | None = None,
    d: int = 0,
    divisible: bool = True,
) -> Plan:
    """The plan of SAEs that are trained together from one pass of the model.

    `text_tokens` is the length of the text, 0 if unknown; `d` the hook's width, 0: the model's;
    `divisible` whether batches may be worked on in pieces where they do not fit as a whole.
    """
    d = d or model.hidden
    # stored activations may be asked for once, all of them
    members = [m if m.tokens else replace(m, tokens=max(1, text_tokens)) for m in members]
    forward = rates.forward_bytes if rates else 0

    def items_of(changed: Sequence[TrainConfig], alternates: bool) -> list[Item]:
        return memory_items(changed, model, room, context, d, forward, alternates=alternates)

    def needs(changed: Sequence[TrainConfig], alternates: bool = False) -> int:
        return sum(item.bytes for item in items_of(changed, alternates))

    def apart(changed: Sequence[TrainConfig]) -> int:
        return needs(changed, bool(model.weight_bytes))

    def least(changed: Sequence[TrainConfig]) -> int:
        beside = needs(changed)
        return beside if beside <= room.free else apart(changed)

    asked, whole = members, needs(members)
    pieces, alternates = _way(members, needs, apart, room.free, divisible)
    if pieces:
        members = divided(members, pieces)
    items = items_of(members, alternates)
    total = sum(item.bytes for item in items)
    loads = formulas.loads(members, text_tokens) if alternates and total <= room.free else 0
    disk = _disk(members, d, text_tokens)
    seconds = _seconds(members, model, room, d, text_tokens, rates)
    seconds += loads * formulas.load_seconds(model)
    verdict = "fits" if total <= WARN_SHARE * room.free else "warn"
    if total > room.free or disk > room.disk_free:
        verdict = "refuse"
    proposals = ()
    if whole > WARN_SHARE * room.free:
        fitting = needs if total <= room.free else least
        proposals = _proposals(asked, fitting, room.free)
    found = Plan(
        items=tuple(items),
        total=total,
        free=room.free,
        window=_windows(members, d, text_tokens),
        disk=disk,
        disk_free=room.disk_free,
        tokens=max(member.tokens for member in members),
        steps=max(formulas.steps_of(member) for member in members),
        seconds=seconds,
        measured=rates is not None,
        saes=len(members),
        verdict=verdict,
        proposals=proposals,
        summary="",
        pieces=pieces,
        whole=whole,
        loads=loads,
    )
    return replace(found, summary=_summary(found), refusal=_refusal(found))


def memory_items(
    members: Sequence[TrainConfig],
    model: ModelNeeds,
    room: Room,
    context: int,
    d: int,
    forward: int = 0,
    *,
    alternates: bool = False,
) -> list[Item]:
    """The parts that are in memory together at the fullest moment.

    `alternates` is whether the model is let go while an SAE is trained.
    """
    forward = forward or formulas.forward_bytes(model, context)
    state = sum(formulas.state_bytes(member, d) for member in members)
    kept = sum(
        formulas.chunk_bytes(member, room) for member in members[1:]
    )  # each keeps its buffer
    phases = {
        "One training step": kept + max(formulas.step_bytes(m, d, room) for m in members),
        PASS: kept + forward,
        "Finishing": kept + max(formulas.finish_bytes(m, d, room) for m in members),
    }
    phases["One training step"] += max(formulas.auxiliary_bytes(m, d) for m in members)
    finished = sum(formulas.finished_bytes(member, d) for member in members)
    measuring = max(formulas.evaluation_bytes(m, d, model, context, room) for m in members)
    beside = {name: model.weight_bytes * (name == PASS or not alternates) for name in phases}
    largest = max(phases, key=lambda name: phases[name] + beside[name])
    measured = finished + measuring + model.weight_bytes > state + phases[largest] + beside[largest]
    weights = model.weight_bytes if measured else beside[largest]
    items = [Item("Language model", weights)] if weights else []
    if room.program:
        items.insert(0, Item("Program", room.program, "libraries that are not loaded yet"))
    several = len(members) > 1
    if measured:
        # by then gradients and moments are gone, so the items are those of another moment
        spare = finished + measuring - formulas.finished_bytes(members[0], d)
        return [
            *items,
            Item("Finished SAEs" if several else "Finished SAE", finished),
            Item("Evaluation", spare, "logits of the model"),
        ]
    note = "8-bit moments" if any(formulas.is_eight_bit(m) for m in members) else "moments"
    return [
        *items,
        Item("SAEs" if several else "SAE", state, f"weights, gradients, {note}"),
        Item(largest, phases[largest]),
    ]


def check_fits(found: Plan) -> None:
    """Raise `OutOfMemory` or `DiskFull` with a way out for a plan that is refused."""
    if found.verdict != "refuse":
        return
    if found.total > found.free:
        raise OutOfMemory(found.refusal, code="does_not_fit")
    raise DiskFull(found.refusal)


def _windows(members: Sequence[TrainConfig], d: int, text_tokens: int) -> int:
    hooks = {(member.layer, member.hook) for member in members}
    return len(hooks) * max(formulas.window_bytes(member, d, text_tokens) for member in members)


def _followed(members: Sequence[TrainConfig], d: int, text_tokens: int) -> int:
    hooks = {(member.layer, member.hook) for member in members}
    return len(hooks) * max(formulas.followed_bytes(member, d, text_tokens) for member in members)


def _disk(members: Sequence[TrainConfig], d: int, text_tokens: int) -> int:
    checkpoints = sum(formulas.saved_bytes(m, d) * formulas.kept_checkpoints(m) for m in members)
    finished = sum(formulas.finished_bytes(member, d) for member in members)
    rows = _windows(members, d, text_tokens) + _followed(members, d, text_tokens)
    return checkpoints + finished + rows


def _seconds(
    members: Sequence[TrainConfig],
    model: ModelNeeds,
    room: Room,
    d: int,
    text_tokens: int,
    rates: Rates | None,
) -> float:
    passed = max(formulas.forward_tokens(member, text_tokens) for member in members)
    if members[0].activations:
        passed = 0
    deepest = max(member.layer for member in members)
    speed, share = GPU_FLOPS, 1.0
    if room.device != "cuda":
        speed = (room.core_flops or CPU_FLOPS) * room.cores
        share = formulas.forward_share(model)
    per_token = formulas.forward_flops(model, deepest) / (share * speed)
    steps = [formulas.step_flops(member, d) / speed for member in members]
    measuring = [formulas.measuring_flops(member, d) / speed for member in members]
    if rates is not None:
        per_token = 1 / rates.forward_tokens_per_s
        steps = list(rates.step_s)
        measuring = [1 / rate for rate in rates.measured_tokens_per_s] or [
            step * formulas.measuring_steps(member)
            for step, member in zip(steps, members, strict=True)
        ]
    whole = model.params / max(1.0, formulas.forward_flops(model, deepest) / 2)
    scored = min(formulas.LOSS_TOKENS, formulas.held_out_tokens(members[0], text_tokens))
    patched = (2 + len(members)) * scored  # in passes that go to the end
    seconds = (passed + patched * whole) * per_token
    for member, step, token in zip(members, steps, measuring, strict=True):
        seconds += step * formulas.steps_of(member)
        seconds += token * formulas.measured_tokens(member, text_tokens)
    return seconds


class _Way(NamedTuple):
    pieces: int  # tokens of a batch that are worked on at a time, 0: all
    alternates: bool  # whether the model is let go while an SAE is trained


def _way(
    members: Sequence[TrainConfig], needs: Needs, apart: Needs, free: int, divisible: bool
) -> _Way:
    """How these fit, if they do: as they are, in a few pieces, without the model beside them, or in
    pieces without it where these are larger. `apart` is what they need without it."""
    if needs(members) <= free:
        return _Way(0, False)
    pieces = _pieces(members, needs, free) if divisible else 0
    if pieces * MOST_PIECES >= max(formulas.rows_of(member) for member in members):
        return _Way(pieces, False)
    least = apart(members)
    if least <= free or not divisible:
        return _Way(0, least < needs(members))
    larger = _pieces(members, apart, free)
    return _Way(max(pieces, larger), larger > pieces)


def _pieces(members: Sequence[TrainConfig], needs: Needs, free: int) -> int:
    """Tokens of a batch to work on at a time: as many as leave room, else as many as fit; 0 if
    none do."""
    most, rows = 0, max(formulas.rows_of(member) for member in members) // 2
    while rows >= SMALLEST_BATCH:
        total = needs(divided(members, rows))
        if total <= WARN_SHARE * free:
            return rows
        if total <= free:
            most = most or rows
        rows //= 2
    return most


def divided(members: Sequence[TrainConfig], rows: int) -> list[TrainConfig]:
    """The same with batches in pieces of at most `rows` tokens."""
    return [replace(member, micro_batch=min(formulas.rows_of(member), rows)) for member in members]


def _proposals(members: Sequence[TrainConfig], needs: Needs, free: int) -> tuple[Proposal, ...]:
    """Changes of one setting after which it fits, or at least could start."""
    candidates = [
        _halved(members, needs, free, "batch", SMALLEST_BATCH, "a batch of {} tokens"),
        _halved(members, needs, free, "width", SMALLEST_WIDTH, "{} latents"),
        _fewer(members, needs, free),
    ]
    if all(m.optimizer != "sgd" and not m.eight_bit_moments for m in members):
        changed = [replace(member, eight_bit_moments=True) for member in members]
        candidates.append(Proposal("8-bit moments", needs(changed), {"eight_bit_moments": True}))
    found = [c for c in candidates if c is not None and c.total <= free]
    good = [c for c in found if c.total <= WARN_SHARE * free]
    others = [c for c in found if c not in good] if needs(members) > free else []
    return (*good, *others)


def _halved(
    members: Sequence[TrainConfig],
    needs: Needs,
    free: int,
    name: str,
    least: int,
    words: str,
) -> Proposal | None:
    best: Proposal | None = None
    value = max(getattr(member, name) for member in members) // 2
    while value >= least:
        changed = [replace(m, **{name: min(getattr(m, name), value)}) for m in members]
        best = Proposal(words.format(format_count(value)), needs(changed), {name: value})
        if best.total <= WARN_SHARE * free:
            break
        value //= 2
    return best


def _fewer(members: Sequence[TrainConfig], needs: Needs, free: int) -> Proposal | None:
    layers = sorted({member.layer for member in members})
    best: Proposal | None = None
    for count in range(len(layers) - 1, 0, -1):
        kept = [member for member in members if member.layer in layers[:count]]
        words = f"{count} of the {len(layers)} layers"
        best = Proposal(words, needs(kept), {}, count)
        if best.total <= WARN_SHARE * free:
            break
    return best


def _summary(found: Plan) -> str:
    what = "1 SAE" if found.saes == 1 else f"{found.saes} SAEs from one pass of the model"
    about = "about" if found.measured else "very roughly"
    return (
        f"{what}, {format_count(found.tokens)} tokens in {format_count(found.steps)} steps: "
        f"{format_bytes(found.total)} of {format_bytes(found.free)} free memory, "
        f"{format_bytes(found.disk)} on the disk, {about} {format_duration(found.seconds)}."
        f"{' ' if found.alternates else ''}{found.alternating}"
        f"{' ' if found.pieces else ''}{found.in_pieces}"
    )


def _refusal(found: Plan) -> str:
    if found.total > found.free:
        ways = [proposal.sentence for proposal in found.proposals]
        way = (
            f"It would with {' or '.join(ways)}."
            if ways
            else "Use a smaller model or SAE, or free some memory."
        )
        return (
            f"This does not fit into memory: it needs {format_bytes(found.total)}, "
            f"{format_bytes(found.free)} are free. {way}"
        )
    if found.disk > found.disk_free:
        return (
            f"This does not fit on the disk: it needs {format_bytes(found.disk)}, "
            f"{format_bytes(found.disk_free)} are free. Write fewer checkpoints, learn fewer "
            "latents, or free some space."
        )
    return ""
