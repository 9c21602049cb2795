"""Causal ablation: what the model predicts where a feature is taken out of its stream.

zero: x - a d. mean: x - (a - mean) d, at every token that counts. resample: a is replaced by the
feature's stored activation at the same position of another row. What the SAE does not explain stays
in place. a is encoded anew in each window, because a window is read as a text of its own; stored
activations are only used to choose windows, for the mean and to resample.

A change reaches only what comes after it: before the first changed token of a window nothing is
computed again and no prediction is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.ml.evaluation.language_model_loss import rows_per_pass, scored_positions
from mistudio.ml.features import controls
from mistudio.ml.features.ablation_notes import Notes, Place, TokenChange
from mistudio.ml.features.clean_reads import KeptReads, Read
from mistudio.ml.features.effects import CHUNK_ENTRIES, SUMS, Change, compare, figures
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.own_values import counted, own_values
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.features.text_windows import WindowReader, Windows, stack, values_elsewhere
from mistudio.ml.sae.base import SparseAutoencoder

PASS_TOKENS = 2048  # read together on a CPU, where more is no faster
PASS_TOKENS_ELSEWHERE = 8192
PASS_COST = 32  # tokens whose repetition on a CPU takes as long as a pass more


@dataclass(frozen=True)
class AblationSettings:
    """What decides the result. `mean_of` says over which tokens the mean of "mean" goes."""

    mode: str = "zero"  # zero, mean, resample
    mean_of: str = "all"  # all tokens that count, or those on which the feature is active
    windows: int = 8  # of each kind: the feature's strongest, and any
    tokens: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Effect:
    """One feature's effect: `figures` on its top windows and on any ("random").

    `active` counts tokens of the top windows on which it fires. `lost`, `gained` and `places` are
    of the top windows and only there if asked for.
    """

    feature: int
    top: dict[str, Any]
    random: dict[str, Any] | None
    active: int
    mean: float | None
    lost: tuple[TokenChange, ...] = ()
    gained: tuple[TokenChange, ...] = ()
    places: tuple[Place, ...] = ()


class Ablator:
    """Measures effects of features on a feature set's text."""

    def __init__(
        self,
        rerun: Rerun,
        sae: SparseAutoencoder,
        store: FeatureStore,
        settings: AblationSettings,
        check: Callable[[], None] = lambda: None,
        kept: KeptReads | None = None,
    ) -> None:
        """`check` is called between passes and may raise.

        `kept` holds clean passes of this model, SAE and feature set from one ablator to the next.
        """
        self._rerun, self._sae, self._store = rerun, sae, store
        self._settings, self._check = settings, check
        self._reader = WindowReader(store, settings.tokens)
        self._kept = KeptReads() if kept is None else kept
        on_cpu = rerun.loaded.device.type == "cpu"
        self._resumes_cheaply = on_cpu and rerun.resumes
        most = PASS_TOKENS if on_cpu else PASS_TOKENS_ELSEWHERE
        self._per_pass = max(1, most // self._reader.length)
        if not rerun.ends_early:
            self._per_pass = rows_per_pass(self._reader.length, rerun.loaded.facts.vocab_size)

    @property
    def window_tokens(self) -> int:
        """Tokens of a window: those asked for, or a row of the feature set if that is shorter."""
        return self._reader.length

    def strengths(self) -> NDArray[np.float64]:
        """‖a d‖ of every feature [F] at the top windows, by which controls are matched."""
        norms_F = self._sae.W_dec_FO.float().norm(dim=1).double().cpu().numpy()
        return controls.strengths(self._store, norms_F, self._settings.windows)

    def effect(
        self,
        feature: int,
        *,
        detail: bool = False,
        random: bool = True,
        first: int = 0,
        tell: Callable[[Effect], object] = lambda _effect: None,
    ) -> Effect:
        """The effect of one feature; raises nothing for a dead one, whose figures are of no token.

        `detail` adds which tokens lost and gained and where, and keeps the clean passes. With
        `first`, that many strongest windows are measured before the others, and `tell` gets the
        effect on them, without random windows.
        """
        whole = self._reader.top(feature, self._settings.windows)
        cuts = sorted({0, min(first, len(whole.rows_W)), len(whole.rows_W)})
        sums_W, notes = _no_sums(len(whole.rows_W)), Notes() if detail else None
        active = 0
        for low, high in itertools.pairwise(cuts):
            part = slice(low, high)
            key = (feature, low, high)
            for start, read in self._reads(key, whole.take(part), low, keep=detail):
                features_C = np.full(len(read.windows.rows_W), feature)
                found, fires_C = self._ablate(read, np.arange(len(features_C)), features_C, notes)
                _put(found, sums_W, slice(start, start + len(features_C)))
                active += int(fires_C.sum())
            if high < len(whole.rows_W):
                measured = {name: values[:high] for name, values in sums_W.items()}
                tell(self._effect(feature, measured, None, active, notes))
        anywhere = self._anywhere(feature) if random else None
        return self._effect(feature, sums_W, anywhere, active, notes)

    def effects(self, features: Sequence[int], *, random: bool = True) -> list[Effect]:
        """Effects of several features, their windows read together."""
        top = [self._reader.top(feature, self._settings.windows) for feature in features]
        of_W = np.repeat(np.arange(len(features)), [len(w.rows_W) for w in top])
        sums_W = _no_sums(len(of_W))
        active_W = np.zeros(len(of_W), np.int64)
        for start, read in self._reads(None, stack(top), 0, keep=False):
            part = slice(start, start + len(read.windows.rows_W))
            numbers_C = np.array(features)[of_W[part]]
            found, active_W[part] = self._ablate(read, np.arange(len(numbers_C)), numbers_C, None)
            _put(found, sums_W, part)
        return [
            self._effect(
                feature,
                {name: values[of_W == index] for name, values in sums_W.items()},
                self._anywhere(feature) if random else None,
                int(active_W[of_W == index].sum()),
                None,
            )
            for index, feature in enumerate(features)
        ]

    def _effect(
        self,
        feature: int,
        sums_W: dict[str, NDArray[np.float64]],
        anywhere: dict[str, Any] | None,
        active: int,
        notes: Notes | None,
    ) -> Effect:
        mean = self._mean(feature) if self._settings.mode == "mean" else None
        lost, gained, places = notes.told(int(sums_W["n"].sum())) if notes else ((), (), ())
        return Effect(feature, figures(sums_W), anywhere, active, mean, lost, gained, places)

    def _anywhere(self, feature: int) -> dict[str, Any]:
        """Figures on windows that are the same for every feature."""
        windows = self._reader.any(self._settings.windows, self._settings.seed)
        key = ("any", self._settings.seed)
        parts = []
        for _, read in self._reads(key, windows, 0, keep=True, logits=True):
            places_C = np.arange(len(read.windows.rows_W))
            parts.append(self._ablate(read, places_C, np.full(places_C.shape, feature), None)[0])
        return figures({name: np.concatenate([p[name] for p in parts]) for name in SUMS})

    def _reads(
        self, key: Any, windows: Windows, at: int, *, keep: bool, logits: bool = False
    ) -> list[tuple[int, Read]] | Any:
        """Clean passes over windows, each with the number of its first one, counted from `at`.

        With `keep`, found again under the key. One after the other, unless they are kept.
        """
        starts = range(0, len(windows.rows_W), self._per_pass)
        parts = (windows.take(slice(start, start + self._per_pass)) for start in starts)
        if not keep:
            made = (self._read(part) for part in parts)
            return ((at + start, read) for start, read in zip(starts, made, strict=True))
        key = (self._reader.length, len(windows.rows_W), key)
        found = self._kept.find(key)
        if found is None:
            found = [self._read(part) for part in parts]
            if logits:
                found = [read.with_logits(self._rerun) for read in found]
            self._kept.keep(key, found)
        return [(at + start, read) for start, read in zip(starts, found, strict=True)]

    def _read(self, windows: Windows) -> Read:
        self._check()
        clean = self._rerun.clean(torch.from_numpy(windows.ids_WS))
        keep_BS = counted(clean.x_BSD, clean.y_BSO, windows.mask_WS, self._store)
        clean = clean._replace(x_BSD=self._sae.in_context(clean.x_BSD))
        return Read(windows, clean, keep_BS, scored_positions(keep_BS, windows.mask_WS))

    def _ablate(
        self,
        read: Read,
        places_C: NDArray[np.int64],
        features_C: NDArray[np.int64],
        notes: Notes | None,
    ) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
        """Sums per case, a window of `read` with a feature each; and tokens on which it fires."""
        device = read.clean.ids_BS.device
        rows_C, numbers_C = (torch.from_numpy(v).to(device) for v in (places_C, features_C))
        keep_CS, scored_CS = read.keep_BS[rows_C], read.scored_BS[rows_C]
        a_CS = own_values(self._sae, read.clean.x_BSD[rows_C], numbers_C) * keep_CS
        change_CS = self._change(a_CS, keep_CS, read.windows, places_C, features_C)
        length = change_CS.shape[1]
        sums = _no_sums(len(places_C))
        sums["n"][:] = scored_CS.sum(1).cpu().numpy()
        start_C = _first(change_CS != 0)
        moved = np.flatnonzero(start_C < length)
        moved = moved[np.argsort(start_C[moved], kind="stable")]
        columns_S = torch.arange(length, device=device)
        reached_CS = scored_CS & (columns_S >= torch.from_numpy(start_C).to(device)[:, None])
        cases, columns, ends = [], [], []
        for group in self._groups(start_C[moved], length):
            self._check()
            chosen = torch.from_numpy(moved[group]).to(device)
            start = int(start_C[moved[group]].min())
            direction_GO = self._sae.W_dec_FO[numbers_C[chosen]].float()
            delta_GSO = change_CS[chosen][:, :, None] * direction_GO[:, None]
            end_GQE = self._rerun.again(read.clean, rows_C[chosen], delta_GSO, start)
            which_T, column_T = reached_CS[chosen].nonzero(as_tuple=True)
            cases.append(chosen[which_T])
            columns.append(column_T)
            ends.append(end_GQE[which_T, column_T - length])
        if ends:
            places = (torch.cat(cases), rows_C[torch.cat(cases)], torch.cat(columns))
            self._compare(read, *places, torch.cat(ends), a_CS, sums, notes)
        return sums, (a_CS > 0).sum(1).cpu().numpy()

    def _compare(
        self,
        read: Read,
        case_T: torch.Tensor,
        row_T: torch.Tensor,
        column_T: torch.Tensor,
        end_TE: torch.Tensor,
        a_CS: torch.Tensor,
        sums: dict[str, NDArray[np.float64]],
        notes: Notes | None,
    ) -> None:
        """Add what changed at positions of windows to the sums of their cases."""
        step = max(1, CHUNK_ENTRIES // self._rerun.loaded.facts.vocab_size)
        for start in range(0, len(case_T), step):
            self._check()
            part = slice(start, start + step)
            case, row, column = case_T[part], row_T[part], column_T[part]
            clean_TV = read.logits(self._rerun, row, column)
            other_TV = self._rerun.logits(end_TE[part])
            ids_BS = read.clean.ids_BS
            gained_V = notes.gained_V(clean_TV) if notes else None
            change = compare(clean_TV, other_TV, ids_BS[row, column + 1], gained_V)
            _add(sums, case.cpu().numpy(), change)
            if notes:
                notes.add(ids_BS[row], column, a_CS[case, column], change)

    def _change(
        self,
        a_CS: torch.Tensor,
        keep_CS: torch.Tensor,
        windows: Windows,
        places_C: NDArray[np.int64],
        features_C: NDArray[np.int64],
    ) -> torch.Tensor:
        """What is added to the feature's activation, [C, S] in float32; 0 at masked tokens."""
        mode = self._settings.mode
        if mode == "zero":
            return -a_CS
        if mode == "mean":
            mean_C = [self._mean(int(feature)) for feature in features_C]
            mean_C1 = torch.tensor(mean_C, dtype=torch.float32, device=a_CS.device)[:, None]
            return (mean_C1 - a_CS) * keep_CS
        new_CS = np.zeros(a_CS.shape, np.float32)
        for feature in np.unique(features_C).tolist():
            mine = np.flatnonzero(features_C == feature)
            part = windows.take(places_C[mine])
            rows, seed = self._reader.rows, self._settings.seed
            new_CS[mine] = values_elsewhere(self._store, feature, part, rows, seed)
        return (torch.from_numpy(new_CS).to(a_CS.device) - a_CS) * keep_CS

    def _mean(self, feature: int) -> float:
        name = "mean_active" if self._settings.mean_of == "active" else "mean_all"
        return float(self._store.statistics[feature][name])

    def _groups(self, start_M: NDArray[np.int64], length: int) -> list[slice]:
        """Which changed windows, by rising start, are repeated in one pass."""
        count = len(start_M)
        if self._resumes_cheaply:
            return cheapest_passes(start_M.tolist(), length, PASS_COST, self._per_pass)
        return [slice(at, at + self._per_pass) for at in range(0, count, self._per_pass)]


def cheapest_passes(starts: Sequence[int], length: int, cost: int, most: int) -> list[slice]:
    """Splits windows of `length` tokens, by rising start, into passes of at most `most` of them.

    A pass runs all its windows from its first start on, so few passes repeat what did not change;
    each pass costs as much as `cost` tokens. The split with the least sum.
    """
    best, begun = [0.0], [0]
    for end in range(1, len(starts) + 1):
        options = [
            (best[at] + cost + (end - at) * (length - starts[at]), at)
            for at in range(max(0, end - most), end)
        ]
        least, at = min(options)
        best.append(least)
        begun.append(at)
    found: list[slice] = []
    end = len(starts)
    while end:
        found.append(slice(begun[end], end))
        end = begun[end]
    return found[::-1]


def _first(changed_CS: torch.Tensor) -> NDArray[np.int64]:
    """The first changed position of each row, the row's length if there is none."""
    found = changed_CS.cpu().numpy()
    return np.where(found.any(1), found.argmax(1), found.shape[1])


def _no_sums(windows: int) -> dict[str, NDArray[np.float64]]:
    return {name: np.zeros(windows) for name in SUMS}


def _put(
    found: dict[str, NDArray[np.float64]], sums_W: dict[str, NDArray[np.float64]], part: slice
) -> None:
    for name in SUMS:
        sums_W[name][part] = found[name]


def _add(sums: dict[str, NDArray[np.float64]], case_T: NDArray[np.int64], change: Change) -> None:
    names = ("ce", "ce_ablated", "kl", "logit", "rank")
    for name, values_T in zip(names, change, strict=True):
        np.add.at(sums[name], case_T, values_T.cpu().numpy())
    np.add.at(sums["reached"], case_T, 1.0)
