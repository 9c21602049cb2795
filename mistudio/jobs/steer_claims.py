"""Steer features and count for how many it does what their label says, beside their controls."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mistudio.core.atomic import atomic_file
from mistudio.core.config import to_dict
from mistudio.core.control import Request
from mistudio.core.errors import InvalidInput, Mismatch
from mistudio.core.index_ranges import parse_ranges
from mistudio.core.steering_study_configs import ClaimConfig
from mistudio.jobs import claim_report, feature_pages, lookup, sae_library, steering_norms
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import features, labels

if TYPE_CHECKING:
    from mistudio.ml.steering.claims import Claim, Setting


def prepare(studio: Studio, config: ClaimConfig) -> None:
    """Refuse an SAE without model, place or features, and unknown features."""
    row = lookup.sae(studio, config.sae)
    lookup.model_of(studio, row)
    if not sae_library.is_placed(row):
        raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    feature_pages.feature_set(studio, row)
    if config.features:
        parse_ranges(config.features, row.n_latents)


def run(ctx: JobContext, config: ClaimConfig) -> Result:
    """One entry per feature, and the counts; a stop keeps the features measured so far.

    The report is written anew after each feature.
    """
    work = _Work(ctx, config)
    begun = time.monotonic()
    found: dict[str, Any] = {}
    entries: list[dict[str, Any]] = []
    for number, feature in enumerate(work.features):
        if ctx.control.requested() is Request.STOP:
            break
        ctx.control.check()
        rate = (time.monotonic() - begun) / number if number else None
        ctx.report.progress(
            0.05 + 0.95 * number / len(work.features),
            f"feature {number + 1} of {len(work.features)}",
            eta_s=rate * (len(work.features) - number) if rate else None,
        )
        entry = work.entry(feature)
        entries.append(entry)
        labels.set_output(ctx.db, work.sae_id, feature, entry["label"], _output(entry, config))
        found = {**work.told(), **_counts(entries), "features": entries}
        if config.output:
            _write(Path(config.output).expanduser(), found)
    ctx.report.progress(1.0, "Ready")
    return found or {**work.told(), **_counts([]), "features": []}


class _Work:
    """What all features of a run share."""

    def __init__(self, ctx: JobContext, config: ClaimConfig) -> None:
        import numpy as np

        from mistudio.ml.features.sampling import hash_tokens
        from mistudio.ml.steering.claims import Setting
        from mistudio.ml.steering.compare import placed
        from mistudio.ml.steering.dose_response import calibration_text
        from mistudio.ml.steering.feature_means import feature_means
        from mistudio.ml.steering.prompts import read_prompt

        self._ctx, self._config = ctx, config
        self._row = row = lookup.sae(ctx.studio, config.sae)
        model = lookup.model_of(ctx.studio, row)
        kept = feature_pages.feature_set(ctx.studio, row)
        ctx.report.progress(0.0, "loading the model")
        self._loaded = loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
        self._store = feature_pages.open_store(ctx.studio, kept)
        self._counts_F = np.asarray(self._store.statistics["count"])
        live = np.flatnonzero(self._counts_F > 0)
        if config.features:
            self.features = parse_ranges(config.features, row.n_latents)
        else:
            order = np.argsort(hash_tokens(config.seed, live.astype(np.uint32), 1), kind="stable")
            self.features = live[order[: config.draw]].tolist()
        rows = features.feature_rows(ctx.db, kept, self.features)
        self._labels = {r.index: (r.label or "", r.label_method or "") for r in rows}
        sae = sae_library.read_sae(ctx.studio, row).to(loaded.device)
        median = steering_norms.median_norm(ctx, row, sae, loaded)
        if not median:
            raise InvalidInput("The median norm of the stream is not known; find the features.")
        hook = row.hook_out or row.hook_in or ""
        place = placed(sae, row.layer or 0, hook, row.hook_in, {}, float(median))
        ctx.report.progress(0.01, "reading the text")
        self.setting: Setting = Setting(
            calibration_text(
                loaded, read_prompt(loaded.tokenizer, config.prompt), config.text_tokens
            ),
            place,
            config.target_kl,
            float(median),
            config.max_tokens,
            config.strengths,
            config.control_texts,
            config.samples,
            config.seed,
        )
        self._means = {}
        if config.means:
            ctx.report.progress(0.02, "differences of means")
            self._means = feature_means(
                loaded,
                row.layer or 0,
                hook,
                self._store,
                self.features,
                seed=config.seed,
                check=ctx.control.check,
            )
        self._texts = self._store.vocabulary.all()

    @property
    def sae_id(self) -> str:
        """Whose features these are."""
        return self._row.id

    def told(self) -> dict[str, Any]:
        """What the figures rest on."""
        replay = self.setting.replay
        return {
            "sae": self._row.id,
            "sae_name": self._row.name,
            "model": self._row.model_name,
            "layer": self._row.layer,
            "settings": to_dict(self._config),
            "drawn": not self._config.features,
            "text": self._loaded.tokenizer.decode(replay.ids),
        }

    def entry(self, feature: int) -> dict[str, Any]:
        """One feature's claim as plain values."""
        import numpy as np

        from mistudio.ml.features.controls import matched
        from mistudio.ml.steering.claims import claim, matching_tokens
        from mistudio.ml.steering.prompts import read_prompt

        label, method = self._labels.get(feature, ("", ""))
        words = label_words(label)
        concept = matching_tokens(self._texts, words)
        plain: dict[str, Any] = {
            "feature": feature,
            "label": label,
            "method": method,
            "words": words,
            "tokens": [self._texts[i] for i in concept],
            "count": int(self._counts_F[feature]),
        }
        if not concept or not self._counts_F[feature]:
            return {**plain, "outcome": "the label names no token"}
        config = self._config
        chosen = matched(
            self._counts_F, np.ones(len(self._counts_F)), feature, config.controls, config.seed
        )
        asked = f"A text about {', '.join(words)}. {config.prompt}"
        found = claim(
            self.setting,
            feature,
            set(concept),
            chosen,
            self._ctx.control,
            means_D=self._means.get(feature),
            prompted=read_prompt(self._loaded.tokenizer, asked),
        )
        return {**plain, **_plain(found)}


def _output(entry: dict[str, Any], config: ClaimConfig) -> dict[str, Any]:
    """What is kept of an entry beside the label's other scores."""
    kept = {"outcome": entry["outcome"], "tokens": len(entry["tokens"]), "prompt": config.prompt}
    if "standings" not in entry:
        return kept
    place = entry["standings"]["probability"]
    return {
        **kept,
        "before": entry["baseline"]["probability"],
        "after": entry["steered"]["probability"],
        "p": place["p"],
        "controls": place["controls"],
        "kl": entry["kl_measured"],
        "strength": entry["strength"],
    }


def label_words(label: str) -> list[str]:
    """The strings a label names: what it quotes, else the words after its first one.

    `"cat", "dog"` and `about cat, dog` both give cat and dog.
    """
    shown = {"␣": " ", "↵": "\n", "→": "\t"}
    quoted = re.findall(r'"([^"]+)"', label)
    if not quoted:
        rest = re.sub(r"^(about|promotes|say|after|before|token:)\s+", "", label)
        quoted = [word for word in re.split(r"[,\s]+", rest) if word]
    for mark, character in shown.items():
        quoted = [word.replace(mark, character) for word in quoted]
    return list(dict.fromkeys(quoted))


def _plain(found: Claim) -> dict[str, Any]:
    from mistudio.ml.steering.claims import MEASURES

    calibration = found.calibration
    told: dict[str, Any] = {
        "strength": found.strength,
        "length": found.length,
        "kl_measured": calibration.measured,
        "problem": calibration.problem,
    }
    if found.steered is None:
        return {**told, "outcome": "the target KL is not reached"}
    shown = {
        name: getattr(found, name)._asdict() if getattr(found, name) else None
        for name in ("baseline", "steered", "means", "prompted")
    }
    standings = {
        name: {**place._asdict(), "selective": place.selective}
        for name, place in found.standings.items()
    }
    holds = {name: found.holds(name) for name in MEASURES}
    outcome = "no"
    if holds["probability"]:
        outcome = "yes" if found.is_visible else "only in the probabilities"
    return {
        **told,
        **shown,
        "controls": {str(n): c._asdict() for n, c in found.controls.items()},
        "standings": standings,
        "holds": holds,
        "visible": found.is_visible,
        "outcome": outcome,
    }


def _counts(entries: list[dict[str, Any]]) -> dict[str, Any]:
    outcomes = [entry["outcome"] for entry in entries]
    judged = [e for e in entries if "standings" in e]
    return {
        "counts": {
            "features": len(entries),
            "judged": len(judged),
            "selective": sum(e["holds"]["probability"] for e in judged),
            "selective_and_visible": outcomes.count("yes"),
            "share_selective": sum(e["outcome"] == "yes" and e["holds"]["share"] for e in judged),
            "visible": sum(e["visible"] for e in judged),
            # without texts of the controls there is nothing to compare a re-read with
            "reread_judged": sum(e["standings"]["reread"]["controls"] > 0 for e in judged),
            "reread_selective": sum(e["holds"]["reread"] for e in judged),
            "looping": sum(e["steered"]["loops"] for e in judged),
            "repeating": sum(e["steered"]["repeats"] for e in judged),
            "means_higher": sum(
                bool(e["means"]) and e["means"]["probability"] > e["steered"]["probability"]
                for e in judged
            ),
            "prompt_higher": sum(
                bool(e["prompted"]) and e["prompted"]["probability"] > e["steered"]["probability"]
                for e in judged
            ),
        }
    }


def _write(path: Path, found: dict[str, Any]) -> None:
    is_json = path.suffix == ".json"
    text = json.dumps(found, indent=1) if is_json else claim_report.markdown(found)
    with atomic_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
