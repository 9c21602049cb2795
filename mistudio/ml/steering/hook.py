"""The hook that steers: adds the change at one place, and proves that it did."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mistudio.core.errors import StudioError
from mistudio.ml.hooks import Place as ModelPlace
from mistudio.ml.hooks import Removable, edit, listen
from mistudio.ml.steering.delta import change
from mistudio.ml.steering.operators import Gate, Site


@dataclass
class Pass:
    """One forward pass: which tokens [B, S] may be changed, and what was.

    `variant_B` is each row's variant, `sinks_B` whether its attention sinks are steered too.
    `gates` holds what conditions say of the tokens, filled site by site in the model's order.
    """

    allowed_BS: torch.Tensor
    variant_B: torch.Tensor
    sinks_B: torch.Tensor
    gates: dict[Gate, torch.Tensor] = field(default_factory=dict[Gate, torch.Tensor])


class SteeringHook:
    """Edits what a place gives on while it is entered as a context; removed in every case.

    Before each forward pass `expect` announces it; after it, `confirm` raises if the hook did not
    fire exactly once, so that text is never passed off as steered when it is not. An error inside
    the hook ends the pass.
    """

    def __init__(self, place: ModelPlace, site: Site, read: ModelPlace | None = None) -> None:
        """`read` is where transcoders read if that is not the place edited; it runs before."""
        self.site = site
        self._place, self._read = place, read
        self._seen: torch.Tensor | None = None
        self._handles: list[Removable] = []
        self._pass: Pass | None = None
        self.forwards = 0
        self.firings = 0
        self.acted_BS: torch.Tensor | None = None  # tokens changed by the last pass
        self.ratio_BS: torch.Tensor | None = None  # their |Δ| / |x|, 0 elsewhere

    def __enter__(self) -> SteeringHook:
        self._handles.append(edit(self._place, self._edit))
        if self._read is not None:
            self._handles.append(listen(self._read, self._keep))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._seen = self._pass = None

    def _keep(self, x: torch.Tensor) -> None:
        self._seen = x

    def expect(self, announced: Pass) -> None:
        """Announce a forward pass."""
        self._pass = announced
        self.acted_BS = self.ratio_BS = None
        self.forwards += 1

    def confirm(self) -> None:
        """Raise `StudioError` unless the hook fired once for each announced pass."""
        if self.firings != self.forwards:
            raise StudioError(
                f"The steered layer ran {self.firings} times in {self.forwards} passes, so the "
                "text would not be steered as asked. This model cannot be steered here.",
                code="hook_count",
            )

    def _edit(self, x: torch.Tensor) -> torch.Tensor:
        self.firings += 1
        return self._edited(x)

    def _read_at(self, acting_T: torch.Tensor) -> torch.Tensor | None:
        """What transcoders read at these tokens of the same pass; None if there is none."""
        if self._read is None:
            return None
        seen, self._seen = self._seen, None
        if seen is None or seen.shape[:-1].numel() != acting_T.numel():
            raise StudioError(
                f"{self._read.path} was not read in the pass that is steered, so that the own "
                "activations of the features are unknown. This model cannot be steered here.",
                code="hook_count",
            )
        return seen.reshape(-1, seen.shape[-1])[acting_T]

    def _edited(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, S, D] (or [B*S, D]) plus the change of allowed tokens; x itself if none changes."""
        now = self._pass
        if now is None or x.shape[:-1].numel() != now.allowed_BS.numel():
            raise StudioError(
                f"The steered layer gave {tuple(x.shape)} where tokens of shape "
                f"{None if now is None else tuple(now.allowed_BS.shape)} were expected."
            )
        site, shape = self.site, now.allowed_BS.shape
        flat_TD = x.reshape(-1, x.shape[-1])
        norm_BS = flat_TD.float().norm(dim=1).view(shape)
        may_BS = now.allowed_BS & ((norm_BS <= site.norm_limit) | now.sinks_B[:, None])
        if not site.watched:
            may_BS &= site.acts_N[now.variant_B][:, None]
        self.acted_BS = torch.zeros_like(may_BS)
        self.ratio_BS = torch.zeros_like(norm_BS)
        acting_T = may_BS.reshape(-1)
        for gate in site.watched:
            now.gates[gate] = torch.zeros_like(may_BS)
        if not bool(acting_T.any()):
            return x
        earlier = self._gates_before(now, acting_T)
        variant_T = now.variant_B[:, None].expand(shape).reshape(-1)[acting_T]
        made = change(site, flat_TD[acting_T], self._read_at(acting_T), variant_T, earlier)
        for gate, holds_T in made.gates.items():
            now.gates[gate].view(-1)[acting_T] = holds_T
        delta_TD = torch.zeros_like(flat_TD, dtype=torch.float32)
        delta_TD[acting_T] = made.delta_TD
        length_BS = delta_TD.norm(dim=1).view(shape)
        changed_BS = length_BS != 0  # a length that is no number counts: it must not be hidden
        self.acted_BS = changed_BS
        self.ratio_BS = length_BS / norm_BS.clamp_min(1e-30)
        if not bool(changed_BS.any()):
            return x
        changed_T = changed_BS.view(-1, 1)
        return torch.where(changed_T, flat_TD + delta_TD.to(x.dtype), flat_TD).view_as(x)

    def _gates_before(self, now: Pass, acting_T: torch.Tensor) -> dict[Gate, torch.Tensor]:
        """What earlier sites say of the acting tokens, for the conditions of this one."""
        wanted = {g for c in self.site.channels for g in c.gates_N if g is not None}
        found: dict[Gate, torch.Tensor] = {}
        for gate in wanted - set(self.site.watched):
            if gate not in now.gates:
                raise StudioError(
                    f"Layer {gate.place.words} did not run before {self.site.place.words}, so a "
                    "condition is not known there. This model cannot be steered so.",
                    code="hook_count",
                )
            found[gate] = now.gates[gate].view(-1)[acting_T]
        return found
