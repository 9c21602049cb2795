"""A model with the hooks of its variants in place, for as long as it is entered as a context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch

from mistudio.core.errors import Mismatch
from mistudio.core.steering_spec import Spec
from mistudio.ml.hooks import heads_width, hook_place
from mistudio.ml.loading import LoadedModel
from mistudio.ml.steering.hook import Pass, SteeringHook
from mistudio.ml.steering.operators import BASELINE, Prepared, Site, prepare
from mistudio.ml.steering.positions import special_ids
from mistudio.ml.steering.sources import Library, Place

NORM_CUT = 10.0  # tokens beyond this many median norms (attention sinks) are not steered


class SteeredModel:
    """Variants of a model that share its weights and one batch: row by row one of them.

        with SteeredModel(loaded, {"a": spec, "b": other}, library) as model:
            stepper = Stepper(model, [FedRow(prompt), FedRow(prompt, "a"), FedRow(prompt, "b")])
            logits_BV = stepper.prompt()

    Row by row any variant can be fed, and `BASELINE` (the unsteered model) always. A specification
    that is empty installs no hook; nothing is left on the model after the `with` block, however
    it ends. One `SteeredModel` must be entered at a time on a model. Raises as `prepare`, and
    `InvalidInput` for a layer or hook that the model does not have.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        variants: Mapping[str, Spec],
        library: Library,
        *,
        norm_cut: float = NORM_CUT,
        norms: Mapping[Place, float] | None = None,
        cached: bool | None = None,
    ) -> None:
        """`cached` says whether to use a key-value cache; None does where the model allows it."""
        if cached is None:
            from mistudio.ml.steering.cache_check import has_sound_cache

            cached = has_sound_cache(loaded)
        self.cached = cached
        self.loaded = loaded
        named = {BASELINE: Spec(), **variants}
        self.prepared: Prepared = prepare(
            named, library, loaded.hidden_dim, loaded.device, norm_cut=norm_cut, norms=norms
        )
        self.hooks = [
            SteeringHook(
                hook_place(loaded, *site.place),
                site,
                hook_place(loaded, site.place.layer, site.hook_in) if site.hook_in else None,
            )
            for site in self.prepared.sites
        ]
        for site in self.prepared.sites:
            _check_width(loaded, site)
        self.special = special_ids(loaded.tokenizer)
        self._stack = ExitStack()

    def __enter__(self) -> SteeredModel:
        with ExitStack() as stack:  # a hook that cannot be put takes the others away again
            for hook in self.hooks:
                stack.enter_context(hook)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def index(self, variant: str) -> int:
        """The number of a variant."""
        return self.prepared.names.index(variant)

    def spec(self, variant: str) -> Spec:
        """The specification of a variant."""
        return self.prepared.specs[self.index(variant)]

    @property
    def places(self) -> list[Place]:
        """Every place that is steered, in the order of the model."""
        return [site.place for site in self.prepared.sites]

    def expect(self, announced: Pass) -> None:
        """Announce a forward pass to every hook."""
        for hook in self.hooks:
            hook.expect(announced)

    def confirm(self, announced: Pass) -> torch.Tensor:
        """Check that every hook fired; bool [B, S]: tokens on which a row's abort condition holds.

        Raises `StudioError` if one did not.
        """
        for hook in self.hooks:
            hook.confirm()
        ends_BS = torch.zeros_like(announced.allowed_BS)
        for n, gate in enumerate(self.prepared.aborts_N):
            if gate is not None:
                mine_B = announced.variant_B == n
                ends_BS |= mine_B[:, None] & announced.gates[gate]
        return ends_BS


def _check_width(loaded: LoadedModel, site: Site) -> None:
    """Raise `Mismatch` if directions at a place of its own width are of another one."""
    if site.place.is_stream:
        return
    width = heads_width(loaded, site.place.layer)
    widths = [channel.direction_D.numel() for channel in site.channels]
    widths += [reader.sae.d_in for reader in site.readers.values()]
    if wrong := sorted(set(widths) - {width}):
        raise Mismatch(
            f"The SAE reads vectors of width {wrong[0]:,}, the heads of layer {site.place.layer} "
            f"are {width:,} wide; choose the model it was trained on."
        )
