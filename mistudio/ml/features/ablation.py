"""Causal ablation: what the model predicts where a feature is taken out of its stream.

zero: x - a d. mean: x - (a - mean) d, at every token that counts. resample: a is replaced by the
feature's stored activation at the same position of another row. What the SAE does not explain stays
in place. a is encoded anew in each window, because a window is read as a text of its own; stored
activations are only used to choose windows, for the mean and to resample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mistudio.ml.evaluation.language_model_loss import rows_per_pass, scored_positions
from mistudio.ml.features import controls
from mistudio.ml.features.effects import SUMS, Prediction, divergence, figures, predict
from mistudio.ml.features.feature_store import FeatureStore
from mistudio.ml.features.own_values import counted, own_values
from mistudio.ml.features.rerun import Clean, Rerun
from mistudio.ml.features.text_windows import WindowReader, Windows, stack, values_elsewhere
from mistudio.ml.sae.base import SparseAutoencoder

TOKENS_SHOWN = 10
PLACES_SHOWN = 8
CONTEXT_SHOWN = 12  # tokens before a place


@dataclass(frozen=True)
class AblationSettings:
    """What decides the result. `mean_of` says over which tokens the mean of "mean" goes."""

    mode: str = "zero"  # zero, mean, resample
    mean_of: str = "all"  # all tokens that count, or those on which the feature is active
    windows: int = 8  # of each kind: the feature's strongest, and any
    tokens: int = 64
    seed: int = 0


class TokenChange(NamedTuple):
    """A vocabulary entry and the mean change of its probability over the scored tokens."""

    token_id: int
    change: float


class Place(NamedTuple):
    """A position whose prediction changed: ids up to it, the true next id, probabilities."""

    before_ids: list[int]
    next_id: int
    activation: float
    kl: float
    probability: float
    probability_ablated: float


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


class _Read(NamedTuple):
    """Windows with their clean pass; `loss_BS` is 0 where no prediction is scored."""

    windows: Windows
    clean: Clean
    keep_BS: torch.Tensor
    scored_BS: torch.Tensor
    prediction_BS: Prediction


class Ablator:
    """Measures effects of features on a feature set's text."""

    def __init__(
        self,
        rerun: Rerun,
        sae: SparseAutoencoder,
        store: FeatureStore,
        settings: AblationSettings,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called between passes and may raise."""
        self._rerun, self._sae, self._store = rerun, sae, store
        self._settings, self._check = settings, check
        self._reader = WindowReader(store, settings.tokens)
        self._per_pass = rows_per_pass(self._reader.length, rerun.loaded.facts.vocab_size)
        self._any: list[_Read] | None = None

    @property
    def window_tokens(self) -> int:
        """Tokens of a window: those asked for, or a row of the feature set if that is shorter."""
        return self._reader.length

    def strengths(self) -> NDArray[np.float64]:
        """‖a d‖ of every feature [F] at the top windows, by which controls are matched."""
        norms_F = self._sae.W_dec_FO.float().norm(dim=1).double().cpu().numpy()
        return controls.strengths(self._store, norms_F, self._settings.windows)

    def effect(self, feature: int, *, detail: bool = False, random: bool = True) -> Effect:
        """The effect of one feature; raises nothing for a dead one, whose figures are of no token.

        `detail` adds which tokens lost and gained and where.
        """
        return self.effects([feature], detail=detail, random=random)[0]

    def effects(
        self, features: Sequence[int], *, detail: bool = False, random: bool = True
    ) -> list[Effect]:
        """Effects of several features, their windows read together; `detail` only of one."""
        top = [self._reader.top(feature, self._settings.windows) for feature in features]
        of_W = np.repeat(np.arange(len(features)), [len(w.rows_W) for w in top])
        sums_W = _no_sums(len(of_W))
        active_W = np.zeros(len(of_W), np.int64)
        notes = _Notes(self._rerun) if detail else None
        whole = stack(top)
        for start in range(0, len(of_W), self._per_pass):
            part = slice(start, start + self._per_pass)
            read = self._read(whole.take(part))
            numbers_C = np.array(features)[of_W[part]]
            places_C = np.arange(len(numbers_C))
            found, active = self._ablate(read, places_C, numbers_C, notes)
            active_W[part] = active
            for name in SUMS:
                sums_W[name][part] = found[name]
        anywhere = [self._anywhere(f) for f in features] if random else [None] * len(features)
        lost, gained, places = notes.told(int(sums_W["n"].sum())) if notes else ((), (), ())
        return [
            Effect(
                feature,
                figures({name: values[of_W == index] for name, values in sums_W.items()}),
                anywhere[index],
                int(active_W[of_W == index].sum()),
                self._mean(feature) if self._settings.mode == "mean" else None,
                lost,
                gained,
                places,
            )
            for index, feature in enumerate(features)
        ]

    def _anywhere(self, feature: int) -> dict[str, Any]:
        """Figures on windows that are the same for every feature."""
        if self._any is None:
            windows = self._reader.any(self._settings.windows, self._settings.seed)
            self._any = [
                self._read(windows.take(slice(start, start + self._per_pass)))
                for start in range(0, len(windows.rows_W), self._per_pass)
            ]
        parts = []
        for read in self._any:
            places_C = np.arange(len(read.windows.rows_W))
            parts.append(self._ablate(read, places_C, np.full(places_C.shape, feature), None)[0])
        return figures({name: np.concatenate([p[name] for p in parts]) for name in SUMS})

    def _read(self, windows: Windows) -> _Read:
        self._check()
        clean = self._rerun.clean(torch.from_numpy(windows.ids_WS))
        keep_BS = counted(clean.x_BSD, clean.y_BSO, windows.mask_WS, self._store)
        scored_BS = scored_positions(keep_BS, windows.mask_WS)
        target_BS = clean.ids_BS.roll(-1, dims=1)
        found = predict(clean.logits_BSV.flatten(0, 1), target_BS.flatten())
        shaped = Prediction(*(values.view(target_BS.shape) for values in found))
        return _Read(windows, clean, keep_BS, scored_BS, shaped)

    def _ablate(
        self,
        read: _Read,
        places_C: NDArray[np.int64],
        features_C: NDArray[np.int64],
        notes: _Notes | None,
    ) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.int64]]:
        """Sums per case, a window of `read` with a feature each; and tokens on which it fires."""
        device = read.clean.ids_BS.device
        rows_C, numbers_C = (torch.from_numpy(v).to(device) for v in (places_C, features_C))
        keep_CS, scored_CS = read.keep_BS[rows_C], read.scored_BS[rows_C]
        a_CS = own_values(self._sae, read.clean.x_BSD[rows_C], numbers_C) * keep_CS
        change_CS = self._change(a_CS, keep_CS, read.windows, places_C, features_C)
        clean_C = Prediction(*(values[rows_C] for values in read.prediction_BS))
        sums = _no_sums(len(places_C))
        scored = scored_CS.cpu().numpy()
        sums["n"][:] = scored.sum(1)
        loss_CS = (clean_C.loss_T.double() * scored_CS).cpu().numpy()
        sums["ce"][:] = sums["ce_ablated"][:] = loss_CS.sum(1)
        start_C = _first(change_CS != 0)
        moved = np.flatnonzero(start_C < change_CS.shape[1])
        moved = moved[np.argsort(start_C[moved], kind="stable")]
        size = self._group_size()
        for at in range(0, len(moved), size):
            self._check()
            group = moved[at : at + size]
            chosen = torch.from_numpy(group).to(device)
            start = int(start_C[group].min())
            direction_GO = self._sae.W_dec_FO[numbers_C[chosen]].float()
            delta_GSO = change_CS[chosen][:, :, None] * direction_GO[:, None]
            logits_GQV = self._rerun.again(read.clean, rows_C[chosen], delta_GSO, start)
            logits_GQV = logits_GQV[:, -(change_CS.shape[1] - start) :]
            for index, case in enumerate(group.tolist()):
                self._compare(
                    read,
                    int(places_C[case]),
                    start,
                    logits_GQV[index],
                    a_CS[case],
                    {name: values[case : case + 1] for name, values in sums.items()},
                    notes,
                )
        return sums, (a_CS > 0).sum(1).cpu().numpy()

    def _compare(
        self,
        read: _Read,
        row: int,
        start: int,
        logits_QV: torch.Tensor,
        a_S: torch.Tensor,
        sums: dict[str, NDArray[np.float64]],
        notes: _Notes | None,
    ) -> None:
        """Add what changed in one window, from `start` on, to its sums."""
        where = read.scored_BS[row, start:].nonzero()[:, 0]
        if not len(where):
            return
        clean_TV = read.clean.logits_BSV[row, start:][where]
        other_TV = logits_QV[where]
        target_T = read.clean.ids_BS[row, start + 1 :][where]
        clean = Prediction(*(values[row, start:][where] for values in read.prediction_BS))
        other = predict(other_TV, target_T)
        gained_V = notes.gained_V if notes else None
        kl_T = divergence(clean_TV, clean, other_TV, other, gained_V)
        sums["ce_ablated"] += float((other.loss_T - clean.loss_T).double().sum())
        sums["kl"] += float(kl_T.double().sum())
        sums["logit"] += float((other.logit_T - clean.logit_T).double().sum())
        sums["rank"] += float((other.rank_T - clean.rank_T).double().sum())
        if notes:
            notes.add(read.clean.ids_BS[row], start + where, target_T, a_S, kl_T, clean, other)

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

    def _group_size(self) -> int:
        """Windows repeated together: few on a CPU, where a pass may begin at each one's change."""
        if self._rerun.resumes and self._rerun.loaded.device.type == "cpu":
            return min(2, self._per_pass)
        return self._per_pass


class _Notes:
    """Collects which tokens lost and gained, and the places with the largest divergence."""

    def __init__(self, rerun: Rerun) -> None:
        size = rerun.loaded.facts.vocab_size
        unembedding = getattr(rerun.loaded.blocks.unembedding, "weight", None)
        size = size if unembedding is None else max(size, len(unembedding))
        self.gained_V = torch.zeros(size, dtype=torch.float64, device=rerun.loaded.device)
        self._places: list[Place] = []

    def add(
        self,
        ids_S: torch.Tensor,
        where_T: torch.Tensor,
        target_T: torch.Tensor,
        a_S: torch.Tensor,
        kl_T: torch.Tensor,
        clean: Prediction,
        other: Prediction,
    ) -> None:
        """Keep the strongest places of one window among those known."""
        best = kl_T.topk(min(PLACES_SHOWN, len(kl_T))).indices
        p_T, q_T = (-clean.loss_T).exp(), (-other.loss_T).exp()
        for index in best.tolist():
            at = int(where_T[index])
            ids = ids_S[max(0, at + 1 - CONTEXT_SHOWN) : at + 1].tolist()
            values = (float(v) for v in (a_S[at], kl_T[index], p_T[index], q_T[index]))
            self._places.append(Place(ids, int(target_T[index]), *values))
        self._places = sorted(self._places, key=lambda place: -place.kl)[:PLACES_SHOWN]

    def told(
        self, n: int
    ) -> tuple[tuple[TokenChange, ...], tuple[TokenChange, ...], tuple[Place, ...]]:
        """Tokens that lost most and gained most, per scored token, and the places."""
        mean_V = self.gained_V / max(n, 1)
        count = min(TOKENS_SHOWN, len(mean_V))

        def listed(largest: bool) -> tuple[TokenChange, ...]:
            found = mean_V.topk(count, largest=largest)
            pairs = zip(found.indices.tolist(), found.values.tolist(), strict=True)
            return tuple(TokenChange(i, v) for i, v in pairs if (v > 0) == largest and v != 0)

        return listed(False), listed(True), tuple(self._places)


def _first(changed_CS: torch.Tensor) -> NDArray[np.int64]:
    """The first changed position of each row, the row's length if there is none."""
    found = changed_CS.cpu().numpy()
    return np.where(found.any(1), found.argmax(1), found.shape[1])


def _no_sums(windows: int) -> dict[str, NDArray[np.float64]]:
    return {name: np.zeros(windows) for name in SUMS}
