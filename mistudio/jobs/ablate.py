"""Ablate one feature with its controls, or every live feature; what is measured is kept.

Each feature's effect is kept by itself, so a long job goes on where it was, and the controls of one
feature are those of all others.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mistudio.core.analysis_configs import AblateConfig
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.jobs import ablation_bench, feature_analyses, feature_pages, lookup, sae_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import analyses, features
from mistudio.store.analyses import Analysis
from mistudio.store.records import FeatureSetRow, SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.ablation import Ablator, Effect
    from mistudio.ml.features.feature_store import FeatureStore

EFFECT, PAGE = "ablation_effect", "ablation"
VERSION = 2
KEPT_AT_ONCE = 16  # features of a batch whose effects are written together
TOLD_FIRST = 2  # strongest windows of a feature whose effect is told before that of all
STATISTIC = "delta_ce"
"""the figure, on a feature's top windows, that is compared with its controls'"""


def prepare(studio: Studio, config: AblateConfig) -> None:
    """Refuse what cannot be ablated before anything is queued."""
    row = lookup.sae(studio, config.sae)
    refuse_cross_layer(row.config, "a feature cannot be taken out at one layer")
    lookup.model_of(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    found = feature_pages.feature_set(studio, row)
    if config.feature < 0:
        return
    if config.feature >= row.n_latents:
        raise InvalidInput(
            f"Feature {config.feature:,} does not exist; the SAE has {row.n_latents:,} latents "
            f"(0 to {row.n_latents - 1:,})."
        )
    known = features.feature_rows(studio.db(), found, [config.feature])
    if not known or not known[0].count:
        raise InvalidInput(
            f"Feature {config.feature:,} never fired on the text read, so there is nothing to take "
            "out."
        )


def run(ctx: JobContext, config: AblateConfig) -> Result:
    """Measure and keep; the result of one feature is its page, of all of them a summary."""
    row = lookup.sae(ctx.studio, config.sae)
    found = feature_pages.feature_set(ctx.studio, row)
    bench = _Bench(ctx, row, found, config)
    return bench.all_live() if config.feature < 0 else bench.one(config.feature)


def known_page(
    studio: Studio, row: SaeRow, found: FeatureSetRow, config: AblateConfig
) -> Analysis | None:
    """The kept page of a feature with these settings, if there is one."""
    return feature_analyses.known(
        studio, row, found, PAGE, VERSION, page_parameters(config), feature=config.feature
    )


def effect_parameters(config: AblateConfig) -> dict[str, Any]:
    """The settings that decide a single effect."""
    names = ("mode", "mean_of", "windows", "window_tokens", "seed")
    return {name: getattr(config, name) for name in names}


def page_parameters(config: AblateConfig) -> dict[str, Any]:
    """Those that decide a page: also how many controls there are."""
    return {**effect_parameters(config), "controls": config.controls}


class _Bench:
    """One job: model, SAE and feature set opened, and what is known already."""

    def __init__(
        self, ctx: JobContext, row: SaeRow, found: FeatureSetRow, config: AblateConfig
    ) -> None:
        from mistudio.ml.features.ablation import AblationSettings, Ablator

        self._ctx, self._row, self._found, self._config = ctx, row, found, config
        ctx.report.progress(0.0, "loading the model")
        loaded, rerun, sae, kept = ablation_bench.bench(
            ctx.studio, row, found, config.window_tokens
        )
        self.store: FeatureStore = feature_pages.open_store(ctx.studio, found)
        self._tokenizer = loaded.tokenizer
        self._format = loaded.format
        settings = AblationSettings(
            config.mode, config.mean_of, config.windows, config.window_tokens, config.seed
        )
        self._ablator: Ablator = Ablator(rerun, sae, self.store, settings, ctx.control.check, kept)
        self._strengths_F = self._ablator.strengths()
        self._counts_F = self.store.statistics["count"]
        self._key = feature_analyses.key_hash(
            row, found, EFFECT, VERSION, effect_parameters(config)
        )

    def one(self, feature: int) -> Result:
        """The page of one feature: its own effect is told at once, then that of its controls."""
        from mistudio.ml.features import controls

        begun = time.monotonic()
        ctx, config = self._ctx, self._config
        if not config.anew and (kept := known_page(ctx.studio, self._row, self._found, config)):
            return {**kept.result, "made_at": kept.made_at}
        ctx.report.progress(0.02, "the feature itself")
        first_s: list[float] = []

        def tell(strongest: Effect) -> None:
            first_s.append(time.monotonic() - begun)
            page = self._page(strongest)
            page["seconds"] = {"first": first_s[0], "own": None, "controls": None}
            ctx.report.partial("ablation", page)

        effect = self._ablator.effect(feature, detail=True, first=TOLD_FIRST, tell=tell)
        own_s = time.monotonic() - begun
        page = self._page(effect)
        page["seconds"] = {
            "first": first_s[0] if first_s else own_s,
            "own": own_s,
            "controls": None,
        }
        ctx.report.partial("ablation", dict(page))
        self._keep([effect])
        chosen = controls.matched(
            self._counts_F, self._strengths_F, feature, config.controls, config.seed
        )
        values = self._values(chosen)
        page["controls"] = self._standing(feature, effect_values(page["effect"]), chosen, values)
        page["seconds"]["controls"] = time.monotonic() - begun - own_s
        kept = feature_analyses.kept(
            ctx.studio,
            self._row,
            self._found,
            PAGE,
            VERSION,
            page_parameters(config),
            lambda: page,
            feature=feature,
            anew=True,
        )
        return {**kept.result, "made_at": kept.made_at}

    def all_live(self) -> Result:
        """Every live feature's effect, then where each stands among its controls."""
        import numpy as np

        ctx, config = self._ctx, self._config
        live = np.flatnonzero(np.asarray(self._counts_F) > 0).tolist()
        if config.anew:
            analyses.forget(ctx.db, self._row.id, EFFECT, self._key, ctx.job.created_at)
        known = analyses.find_all(ctx.db, self._row.id, EFFECT, self._key)
        missing = [feature for feature in live if feature not in known]
        if known:
            ctx.report.note(f"{len(live) - len(missing):,} of {len(live):,} are known already.")
        begun = time.monotonic()
        self._measure(missing, (0.02, 0.95))
        told = {"measured": len(missing), "measured_s": time.monotonic() - begun}
        told |= self._write_values(live)
        return {"sae": self._row.id, "feature_set": self._found.id, **told}

    def _write_values(self, live: Sequence[int]) -> Result:
        """Per-feature values into the table of features; returns a summary."""
        from mistudio.ml.features import controls

        config = self._config
        known = analyses.find_all(self._ctx.db, self._row.id, EFFECT, self._key)
        values = {feature: effect_values(result) for feature, result in known.items()}
        rows: list[dict[str, Any]] = []
        flagged = judged = 0
        expected = 0.0  # of those judged, if none were special
        for feature in live:
            own = values[feature][STATISTIC]
            if own is None:
                continue
            others = controls.matched(
                self._counts_F, self._strengths_F, feature, config.controls, config.seed
            )
            found = [values[o][STATISTIC] for o in others if values[o][STATISTIC] is not None]
            place = controls.standing(own, found)
            if place.controls >= controls.LEAST:
                judged, expected = judged + 1, expected + place.level
            flagged += place.selective
            rows.append(
                {
                    "feature_index": feature,
                    "ablation_ce": own,
                    "ablation_kl": values[feature]["kl"],
                    "ablation_percentile": place.percentile,
                    "ablation_p": place.p,
                }
            )
        features.set_ablation(self._ctx.db, self._found.id, rows)
        return {
            "features": len(rows),
            "mode": config.mode,
            "judged": judged,
            "selective": flagged,
            "selective_share": flagged / judged if judged else None,
            "share_by_chance": expected / judged if judged else None,
            "strongest": [
                {"feature": line["feature_index"], STATISTIC: line["ablation_ce"]}
                for line in sorted(rows, key=lambda line: -line["ablation_ce"])[:10]
            ],
        }

    def _measure(self, wanted: Sequence[int], span: tuple[float, float]) -> None:
        """Measure and keep effects that are not known yet, some at a time."""
        report, begun = self._ctx.report, time.monotonic()
        low, high = span
        for start in range(0, len(wanted), KEPT_AT_ONCE):
            self._ctx.control.check()
            self._keep(self._ablator.effects(wanted[start : start + KEPT_AT_ONCE]))
            done = min(start + KEPT_AT_ONCE, len(wanted))
            rate = done / max(time.monotonic() - begun, 1e-9)
            report.progress(
                low + (high - low) * done / len(wanted),
                f"{done:,} of {len(wanted):,} features",
                rate=f"{rate:.2f} features/s",
                eta_s=(len(wanted) - done) / max(rate, 1e-9),
            )

    def _values(self, chosen: Sequence[int]) -> dict[int, dict[str, Any]]:
        """The compared figures of control features; measured one by one if not known."""
        db, report = self._ctx.db, self._ctx.report
        found: dict[int, dict[str, Any]] = {}
        for number, feature in enumerate(chosen):
            report.progress(
                0.1 + 0.88 * number / len(chosen), f"control {number + 1} of {len(chosen)}"
            )
            known = analyses.find(db, self._row.id, feature, EFFECT, self._key)
            if known is None:
                effect = self._ablator.effect(feature, random=False)
                found[feature] = {STATISTIC: effect.top[STATISTIC], "kl": effect.top["kl"]}
            else:
                found[feature] = effect_values(known.result)
        return found

    def _standing(
        self,
        feature: int,
        own: dict[str, Any],
        chosen: Sequence[int],
        values: dict[int, dict[str, Any]],
    ) -> dict[str, Any]:
        from mistudio.ml.features import controls

        told: dict[str, Any] = {"features": list(chosen)}
        for name in (STATISTIC, "kl"):
            found = [values[o][name] for o in chosen if values[o][name] is not None]
            place = controls.standing(own[name] or 0.0, found)
            told[name] = {**place._asdict(), "values": found, "selective": place.selective}
        told["strength"] = float(self._strengths_F[feature])
        return told

    def _page(self, effect: Effect) -> dict[str, Any]:
        decode = self._tokenizer.decode

        def text(ids: list[int]) -> str:
            return str(decode(ids))

        def changes(found: Sequence[Any]) -> list[dict[str, Any]]:
            vocabulary = self.store.vocabulary
            return [{"text": vocabulary.text(t.token_id), "change": t.change} for t in found]

        return {
            "sae": self._row.id,
            "feature": effect.feature,
            **page_parameters(self._config),
            "window_tokens": self._ablator.window_tokens,
            "format": self._format,
            "effect": _plain_effect(effect),
            "lost": changes(effect.lost),
            "gained": changes(effect.gained),
            "places": [
                {
                    "before": text(place.before_ids),
                    "next": self.store.vocabulary.text(place.next_id),
                    "activation": place.activation,
                    "kl": place.kl,
                    "probability": place.probability,
                    "probability_ablated": place.probability_ablated,
                }
                for place in effect.places
            ],
            "controls": None,
        }

    def _keep(self, found: Sequence[Effect]) -> None:
        results = {effect.feature: _plain_effect(effect) for effect in found}
        analyses.keep_all(self._ctx.db, self._row.id, EFFECT, self._key, results)


def _plain_effect(effect: Effect) -> dict[str, Any]:
    values = dataclasses.asdict(effect)
    return {name: values[name] for name in ("top", "random", "active", "mean")}


def effect_values(result: dict[str, Any]) -> dict[str, Any]:
    """Of a kept effect the figures that are compared with those of controls."""
    top = result["top"]
    return {STATISTIC: top[STATISTIC], "kl": top["kl"]}
