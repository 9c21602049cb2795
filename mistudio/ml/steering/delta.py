"""What a site adds to tokens: the one place where operators become a change of the stream.

Feature operators: x' = x + Σ (f' - f) d with every f read before any edit. Direction operators:
z = (DᵀD)⁻¹ Dᵀx, x' = x + D (z' - z). Both read the same x and their changes are summed in the
order of the channels. All in fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from mistudio.core.steering_operators import Reads
from mistudio.ml.steering.operators import Channel, Gate, Site


class Change(NamedTuple):
    """Δ [T, D] in fp32, 0 where nothing changes, and what the site's watched conditions say."""

    delta_TD: torch.Tensor
    gates: dict[Gate, torch.Tensor]


@torch.no_grad()
def change(
    site: Site,
    x_TD: torch.Tensor,
    read_TD: torch.Tensor | None,
    variant_T: torch.Tensor,
    gates: Mapping[Gate, torch.Tensor],
) -> Change:
    """The change of tokens x [T, D] of the variants [T].

    `read_TD` is what transcoders read of the same tokens, `gates` what earlier sites say of them.
    """
    x_TD = x_TD.float()
    read_TD = x_TD if read_TD is None else read_TD.float()
    own = {
        name: reader(read_TD if reader.reads_elsewhere else x_TD)
        for name, reader in site.readers.items()
        if reader.column
    }
    said = {
        gate: own[gate.sae][:, site.readers[gate.sae].column[gate.feature]] > gate.above
        for gate in site.watched
    }
    known = {**gates, **said}
    delta_TD = torch.zeros_like(x_TD)
    for channel in site.channels:
        if channel.operator.reads is Reads.COORDINATE:
            continue
        amount_T = _amount(channel, _own(site, channel, own, x_TD), variant_T, known)
        delta_TD += amount_T[:, None] * channel.written_D
    if site.bases:
        delta_TD += _directions(site, x_TD, variant_T, known)
    for name, mine_N in site.replacements:
        mine_T = mine_N[variant_T]
        reader = site.readers[name]
        source_TD = read_TD if reader.reads_elsewhere else x_TD
        delta_TD[mine_T] += reader.reconstruct(source_TD[mine_T]) - x_TD[mine_T]
    return Change(_post(site, x_TD, delta_TD, variant_T), said)


def _own(
    site: Site, channel: Channel, own: dict[str, torch.Tensor], x_TD: torch.Tensor
) -> torch.Tensor | float:
    """What the operator reads of each token [T]."""
    if channel.operator.reads is Reads.FEATURE:
        assert channel.feature is not None
        column = site.readers[channel.feature.sae].column[channel.feature.index]
        return own[channel.feature.sae][:, column]
    if channel.operator.reads is Reads.PRODUCT:
        return (x_TD * channel.direction_D).sum(1)
    return 0.0


def _amount(
    channel: Channel,
    own_T: torch.Tensor | float,
    variant_T: torch.Tensor,
    known: Mapping[Gate, torch.Tensor],
) -> torch.Tensor:
    """The change along the channel's direction [T]; exactly 0 where it does not act."""
    value_T, high_T = channel.value_N[variant_T], channel.high_N[variant_T]
    acts_T = channel.active_N[variant_T]
    for n, gate in enumerate(channel.gates_N):
        if gate is not None:
            acts_T = acts_T & ((variant_T != n) | known[gate])
    return torch.where(acts_T, channel.operator.change(own_T, value_T, high_T), 0.0)


def _directions(
    site: Site, x_TD: torch.Tensor, variant_T: torch.Tensor, known: Mapping[Gate, torch.Tensor]
) -> torch.Tensor:
    """D (z' - z) for the directions that each token's variant uses together."""
    delta_TD = torch.zeros_like(x_TD)
    for chosen, inverse_KK, mine_N in site.bases:
        part_TD = torch.zeros_like(x_TD)
        channels = [site.channels[index] for index in chosen]
        product_KT = [(x_TD * channel.direction_D).sum(1) for channel in channels]
        for k, channel in enumerate(channels):
            z_T = product_KT[k]
            if len(channels) > 1:  # alone, a unit direction's coordinate is the product itself
                z_T = torch.zeros_like(z_T)
                for j, product_T in enumerate(product_KT):
                    z_T = z_T + inverse_KK[k, j] * product_T
            amount_T = _amount(channel, z_T, variant_T, known)
            part_TD += amount_T[:, None] * channel.written_D
            if channel.target_D is not None and channel.along_D is None:
                part_TD -= amount_T[:, None] * channel.target_D
        delta_TD = torch.where(mine_N[variant_T][:, None], part_TD, delta_TD)
    return delta_TD


def _post(
    site: Site, x_TD: torch.Tensor, delta_TD: torch.Tensor, variant_T: torch.Tensor
) -> torch.Tensor:
    """The norm rules: the old length of x, or at most a share of it for Δ."""
    if not site.has_norm:
        return delta_TD
    keep_T, cap_T = site.keep_N[variant_T], site.cap_N[variant_T]
    length_T, size_T = x_TD.norm(dim=1), delta_TD.norm(dim=1)
    most_T = torch.where(torch.isfinite(cap_T), cap_T * length_T, size_T)
    shrink_T = torch.where(size_T > most_T, most_T / size_T.clamp_min(1e-30), 1.0)
    delta_TD = delta_TD * shrink_T[:, None]
    moved_TD = x_TD + delta_TD
    stretch_T = length_T / moved_TD.norm(dim=1).clamp_min(1e-30)
    kept_TD = moved_TD * stretch_T[:, None] - x_TD
    return torch.where((keep_T & (size_T > 0))[:, None], kept_TD, delta_TD)
