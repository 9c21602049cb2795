"""From specifications to tensors: units resolved, directions gathered, edits sorted by place.

Several specifications, the variants of a run, are prepared together, so that one batch can hold
rows of all of them. Edits of the same operator on the same source are one channel with a value per
variant. Channels are summed in one fixed order, so that the order of edits changes no bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from mistudio.core.errors import InvalidInput
from mistudio.core.steering_operators import Operator, Reads, Value
from mistudio.core.steering_spec import Condition, Edit, Feature, Source, Spec, source_order
from mistudio.ml.steering.edit_places import check_order, check_space, further_places
from mistudio.ml.steering.readers import Reader
from mistudio.ml.steering.sources import Found, Library, Place, find, find_sae

CONDITION_LIMIT = 1e4  # of DᵀD, beyond which directions are too alike to be told apart
BASELINE = "baseline"  # the name of the unsteered variant


class Gate(NamedTuple):
    """A condition looked up: the place that knows it, and the activation it must be above."""

    place: Place
    sae: str
    feature: int
    above: float


@dataclass
class Channel:
    """One operator on one source, for all variants N; inactive ones have no such edit.

    `gates_N` holds each variant's condition, None where it always acts. `along_D` stands in place
    of direction and target when the change is written.
    """

    operator: Operator
    direction_D: torch.Tensor  # as it is added; of unit length if a coordinate is read
    target_D: torch.Tensor | None  # unit length, of a swap
    feature: Feature | None
    value_N: torch.Tensor
    high_N: torch.Tensor
    active_N: torch.Tensor
    gates_N: list[Gate | None]
    along_D: torch.Tensor | None = None

    @property
    def written_D(self) -> torch.Tensor:
        """What a change of 1 adds, but for the target of a swap."""
        return self.direction_D if self.along_D is None else self.along_D


class Basis(NamedTuple):
    """Direction channels that the variants `mine_N` use together, with their (DᵀD)⁻¹."""

    channels: tuple[int, ...]
    inverse_KK: torch.Tensor
    mine_N: torch.Tensor


class Replacement(NamedTuple):
    """The SAE whose reconstruction stands in place of what it reads, for the variants `mine_N`."""

    sae: str
    mine_N: torch.Tensor


@dataclass
class Site:
    """Everything that happens at one place, for all variants.

    `readers` by SAE id know the activations that channels, conditions and reconstructions read
    here. `acts_N` tells which variants can change anything, `keep_N` and `cap_N` are their norm
    rules (`has_norm`: whether there is one). `norm_limit` is the norm beyond which a token counts
    as an attention sink. `hook_in` is where transcoders read, "" if none does.
    """

    place: Place
    channels: list[Channel]
    readers: dict[str, Reader]
    replacements: list[Replacement]
    watched: list[Gate]
    acts_N: torch.Tensor
    keep_N: torch.Tensor
    cap_N: torch.Tensor
    norm_limit: float
    has_norm: bool = False
    hook_in: str = ""
    bases: list[Basis] = field(default_factory=list[Basis])


@dataclass(frozen=True)
class Prepared:
    """Variants ready to run. `names` has one entry per variant, the rows of all `_N` tensors."""

    names: tuple[str, ...]
    specs: tuple[Spec, ...]
    sites: tuple[Site, ...]
    aborts_N: tuple[Gate | None, ...]
    values: dict[str, list[float]]  # per variant, its edits' values with the units resolved


def prepare(
    specs: Mapping[str, Spec],
    library: Library,
    width: int,
    device: torch.device,
    *,
    norm_cut: float = 10.0,
    norms: Mapping[Place, float] | None = None,
) -> Prepared:
    """Prepare named specifications for a model whose stream is `width` wide.

    Tokens beyond `norm_cut` times the median norm of a place (from the sources or `norms`) count
    as attention sinks. Raises `InvalidInput` sentences for specifications that are wrong in
    themselves, name what is not in the library, need a scale that is not known, name a source
    twice, hold directions that are almost the same, or a condition that is known too late.
    """
    names = tuple(specs)
    ordered = [_checked(specs[name]) for name in names]
    work = _Work(library, width, device, {**library.norms, **(norms or {})})
    values: dict[str, list[float]] = {}
    for n, spec in enumerate(ordered):
        values[names[n]] = [
            work.add(n, len(names), edit, spec) for edit in sorted(spec.edits, key=source_order)
        ]
        work.replace(n, len(names), spec)
    aborts = tuple(
        None if spec.abort is None else work.watch(spec.abort, len(names)) for spec in ordered
    )
    sites = [work.finish(place, ordered, norm_cut) for place in work.places()]
    return Prepared(names, tuple(ordered), tuple(sites), aborts, values)


def _checked(spec: Spec) -> Spec:
    spec.check()
    for edit in spec.edits:
        if (edit.unit or spec.unit) == "kl" and edit.resolved is None:
            raise InvalidInput(
                f"The strength of {edit.source.words} is given as a KL; it must be calibrated "
                "before it can be used."
            )
    return spec


def resolve(
    edit: Edit, unit: str, largest: float | None, median: float | None, length: float
) -> Callable[[float], float]:
    """What turns the edit's values into activations or, of a unit direction, into lengths.

    `length` is that of the vector the value multiplies. Raises `InvalidInput` for a scale that is
    not known.
    """
    if edit.rule.value in (Value.NONE, Value.FACTOR) or unit == "raw":
        return lambda value: value
    if unit == "kl":
        return lambda _value: float(edit.resolved or 0.0)
    if unit == "max":
        if largest is None or not largest > 0:
            raise InvalidInput(
                f"The largest activation of {edit.source.words.lower()} is not known. Find the "
                "features of this SAE first, or use the raw unit."
                if isinstance(edit.source, Feature)
                else f"{edit.source.words} has no largest activation; use the unit raw or %."
            )
        scale = largest
    else:
        if not median or not length > 0:
            raise InvalidInput(
                f"The median norm at the place of {edit.source.words} is not known, so that a "
                "strength in % has no meaning; use another unit."
            )
        scale = median / (100 * length)
    return lambda value: value * scale


class _Work:
    """Channels by place while variants are read one after another."""

    def __init__(
        self, library: Library, width: int, device: torch.device, norms: Mapping[Place, float]
    ) -> None:
        self._library, self._width, self._device = library, width, device
        self._norms = dict(norms)
        self._channels: dict[Place, dict[tuple[Any, ...], Channel]] = {}
        self._features: dict[tuple[Place, str], set[int]] = {}
        self._replaces: dict[Place, list[tuple[str, ...]]] = {}
        self._watched: dict[Place, list[Gate]] = {}
        self._lookups: dict[Any, Found] = {}

    def places(self) -> list[Place]:
        """Every place something happens at, in the order of the model."""
        known = {*self._channels, *self._replaces, *self._watched}
        return sorted(known, key=lambda place: place.order)

    def _find(self, source: Any) -> Found:
        if source not in self._lookups:
            found = find(self._library, source, self._width, self._device)
            self._lookups[source] = found
            if found.median_norm:
                self._norms.setdefault(found.place, found.median_norm)
        return self._lookups[source]

    def add(self, n: int, count: int, edit: Edit, spec: Spec) -> float:
        """Put an edit of variant `n` of `count` into its channel; its resolved value."""
        found = self._find(edit.source)
        rule, direction_D = edit.rule, found.direction_D
        length = float(direction_D.norm())
        reads_coordinate = rule.reads is Reads.COORDINATE
        if reads_coordinate:
            if not length > 0:
                raise InvalidInput(f"{edit.source.words} has no direction: its vector is 0.")
            direction_D, length = direction_D / length, 1.0
        target_D = None
        if edit.target is not None:
            target = self._find(edit.target)
            check_space(edit, found, edit.target, target)
            if not float(target.direction_D.norm()) > 0:
                raise InvalidInput(f"{edit.target.words} has no direction: its vector is 0.")
            target_D = target.direction_D / target.direction_D.norm()
        median = found.median_norm or self._norms.get(found.place)
        resolved = resolve(edit, edit.unit or spec.unit, found.largest, median, length)
        key = (*source_order(edit), _key(edit.target), _key(edit.along))
        if rule.reads is Reads.FEATURE:
            assert isinstance(edit.source, Feature)
            self._read(found.place, edit.source)
        value = resolved(edit.value)
        gate = None if edit.condition is None else self.watch(edit.condition, count)
        for place in (found.place, *further_places(edit, found.place)):
            channels = self._channels.setdefault(place, {})
            channel = channels.get(key)
            if channel is None:
                channel = Channel(
                    rule,
                    direction_D,
                    target_D,
                    edit.source if isinstance(edit.source, Feature) else None,
                    torch.zeros(count),
                    torch.zeros(count),
                    torch.zeros(count, dtype=torch.bool),
                    [None] * count,
                    self._along(edit, direction_D, target_D),
                )
                channels[key] = channel
            channel.value_N[n] = value
            channel.high_N[n] = 0.0 if edit.high is None else resolved(edit.high)
            channel.active_N[n] = True
            if gate is not None:
                check_order(edit, place, gate.feature, gate.place)
            channel.gates_N[n] = gate
        return value

    def _along(
        self, edit: Edit, direction_D: torch.Tensor, target_D: torch.Tensor | None
    ) -> torch.Tensor | None:
        """The direction of `edit.along`, as long as what a change of 1 adds without it."""
        if edit.along is None:
            return None
        along = self._find(edit.along)
        check_space(edit, self._find(edit.source), edit.along, along)
        own_D = along.direction_D
        if not float(own_D.norm()) > 0:
            raise InvalidInput(f"{edit.along.words} has no direction: its vector is 0.")
        plain_D = direction_D if target_D is None else direction_D - target_D
        return own_D * (plain_D.norm() / own_D.norm())

    def replace(self, n: int, count: int, spec: Spec) -> None:
        """Note which SAEs' reconstructions stand in place of what they read."""
        for name in sorted(set(spec.replace)):
            placed = find_sae(self._library, name)
            if placed.place.is_stream and placed.sae.d_out != self._width:
                find(self._library, Feature(0, name), self._width, self._device)  # says it
            replaces = self._replaces.setdefault(placed.place, [()] * count)
            if replaces[n]:
                raise InvalidInput("Only one SAE can be put in place of what is at a hook.")
            replaces[n] = (name,)
            self._features.setdefault((placed.place, name), set())

    def watch(self, condition: Condition, count: int) -> Gate:
        """Have a feature's activation compared at its place in every pass."""
        found = self._find(condition.feature)
        scale = 1.0
        if condition.unit == "max":
            edit = Edit(condition.feature, condition.above, "clamp", "max")
            scale = resolve(edit, "max", found.largest, None, 1.0)(1.0)
        self._read(found.place, condition.feature)
        feature = condition.feature
        gate = Gate(found.place, feature.sae, feature.index, condition.above * scale)
        watched = self._watched.setdefault(found.place, [])
        if gate not in watched:
            watched.append(gate)
        return gate

    def _read(self, place: Place, feature: Feature) -> None:
        self._features.setdefault((place, feature.sae), set()).add(feature.index)

    def finish(self, place: Place, specs: Sequence[Spec], norm_cut: float) -> Site:
        """The site of a place, on the device."""
        count = len(specs)
        channels = [channel for _, channel in sorted(self._channels.get(place, {}).items())]
        replaces = self._replaces.get(place, [()] * count)
        readers: dict[str, Reader] = {}
        hook_in = ""
        for (where, name), features in sorted(self._features.items()):
            if where == place:
                placed = find_sae(self._library, name)
                if placed.reads_elsewhere:
                    if hook_in not in ("", placed.hook_in):
                        raise InvalidInput(
                            f"Transcoders that write to {place.words} must read at one hook."
                        )
                    hook_in = placed.hook_in
                readers[name] = Reader.of(placed, sorted(features), self._device)
        acts_N = torch.zeros(count, dtype=torch.bool)
        for n in range(count):
            moved = [
                bool(c.active_N[n]) and float(c.value_N[n]) != c.operator.neutral for c in channels
            ]
            acts_N[n] = any(moved) or bool(replaces[n])
        for channel in channels:
            channel.value_N = channel.value_N.to(self._device)
            channel.high_N = channel.high_N.to(self._device)
            channel.active_N = channel.active_N.to(self._device)
        median = self._norms.get(place)
        site = Site(
            place,
            channels,
            readers,
            [
                Replacement(name, torch.tensor([name in r for r in replaces], device=self._device))
                for name in sorted({name for r in replaces for name in r})
            ],
            self._watched.get(place, []),
            acts_N.to(self._device),
            torch.tensor([spec.norm == "keep" for spec in specs], device=self._device),
            torch.tensor(
                [spec.cap if spec.norm == "cap" else math.inf for spec in specs],
                device=self._device,
            ),
            norm_cut * median if median else math.inf,
            any(spec.norm for spec in specs),
            hook_in,
        )
        used = [_used_together(site, n) for n in range(count)]
        for chosen in sorted(set(used) - {()}):
            mine_N = torch.tensor([other == chosen for other in used], device=self._device)
            site.bases.append(Basis(chosen, _inverse(site, chosen), mine_N))
        return site


def _key(source: Source | None) -> tuple[Any, ...]:
    return () if source is None else source_order(Edit(source))


def _used_together(site: Site, variant: int) -> tuple[int, ...]:
    return tuple(
        index
        for index, channel in enumerate(site.channels)
        if channel.operator.reads is Reads.COORDINATE and bool(channel.active_N[variant])
    )


def _inverse(site: Site, chosen: tuple[int, ...]) -> torch.Tensor:
    """(DᵀD)⁻¹ of unit directions, fp32; raises `InvalidInput` if they are almost dependent."""
    D_KD = torch.stack([site.channels[index].direction_D.double() for index in chosen])
    gram_KK = D_KD @ D_KD.T
    gram_KK.fill_diagonal_(1.0)
    if len(chosen) > 1:
        condition = float(torch.linalg.cond(gram_KK))
        if not condition <= CONDITION_LIMIT:
            raise InvalidInput(
                f"The directions edited at {site.place.words} are almost the same (condition "
                f"number {condition:,.0f}, at most {CONDITION_LIMIT:,.0f}); use fewer of them."
            )
    return torch.linalg.inv(gram_KK).float()
