"""Test a kept run of steering against random features, and keep what was found with the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.config import from_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import InvalidInput, NotFound, StudioError
from mistudio.core.ids import now
from mistudio.core.steering_settings import everything
from mistudio.core.steering_shown import title_of
from mistudio.core.steering_spec import Direction, Feature, Source, Spec
from mistudio.core.steering_study_configs import ControlsConfig
from mistudio.jobs import feature_pages, lookup, steer
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.jobs.steer_claims import label_words
from mistudio.store import features
from mistudio.store.records import SaeRow, SteeringRunRow
from mistudio.store.tables import STEERING_RUNS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.claims import Shown
    from mistudio.ml.steering.prompts import Prompt
    from mistudio.ml.steering.run_controls import Along, RunControls
    from mistudio.ml.steering.sources import Library, Vector

LEAST = 19  # controls below which p cannot reach 0.05


class _Case(NamedTuple):
    """What is tested: a variant of a run, and the SAE that the run named."""

    run: SteeringRunRow
    row: SaeRow
    config: SteerConfig
    variant: str
    spec: Spec
    baseline_ids: list[int]


def prepare(studio: Studio, config: ControlsConfig) -> None:
    """Refuse a run that cannot be tested before anything is queued."""
    case = _case(studio, config)
    for source in _sources(case):
        if isinstance(source, Feature):
            row = lookup.sae(studio, source.sae)
            feature_pages.feature_set(studio, row)
        else:
            _check_vector(studio, case, source)
    if any(isinstance(source, Direction) for source in _sources(case)):
        feature_pages.feature_set(studio, case.row)


def _case(studio: Studio, config: ControlsConfig) -> _Case:
    run = _run_of(studio, config.run)
    if not run.sae_id:
        raise NotFound(
            "The SAE of this run was deleted, so it cannot be tested."
            if run.config.get("sae")
            else "This run steers with vectors alone. Choose an SAE of their layer, whose features "
            "they can be compared with, and run it again."
        )
    row = lookup.sae(studio, run.sae_id)
    outputs: Mapping[str, Any] = (run.outputs or {}).get("variants") or {}
    names = [name for name in outputs if name != "baseline"]
    if not names:
        raise InvalidInput("This run is of an earlier version. Run it again, then test it.")
    if config.variant and config.variant not in names:
        raise NotFound(f"The run has no variant {config.variant!r}; it has {', '.join(names)}.")
    settings = from_dict(SteerConfig, run.config)
    # by place, as names say what their settings were given as
    specs = list(steer.named_variants(settings, row.id).values())
    variant = config.variant or names[0]
    spec = specs[names.index(variant)]
    if all(edit.is_neutral for edit in spec.edits):
        raise InvalidInput("This steering changes nothing, so there is nothing to test.")
    twin = outputs["baseline"].get("greedy") or outputs["baseline"]["samples"][0]
    return _Case(run, row, settings, variant, spec, [int(i) for i in twin["token_ids"]])


def _run_of(studio: Studio, wanted: str) -> SteeringRunRow:
    if wanted != "last":
        return STEERING_RUNS.get(studio.db(), wanted)
    found = STEERING_RUNS.select(studio.db(), limit=1)
    if not found:
        raise NotFound("There is no steering run yet.")
    return found[0]


def _sources(case: _Case) -> list[Source]:
    return list(dict.fromkeys(edit.source for edit in case.spec.edits))


def _check_vector(studio: Studio, case: _Case, source: Direction) -> None:
    """A vector has no density to match; live features of the run's SAE at its place stand in."""
    vector = steer.vector_row(studio, lookup.model_of(studio, case.row), source.name)
    layer = vector.layer if source.layer is None else source.layer
    if (layer, source.hook or vector.hook) != _place(case.row):
        raise InvalidInput(
            f"{source.words} acts elsewhere than SAE {case.row.name!r}, so that there are no "
            "features to compare it with. Choose an SAE of its layer and run it again."
        )


def _place(row: SaeRow) -> tuple[int, str]:
    return row.layer or 0, row.hook_out or row.hook_in or ""


def run(ctx: JobContext, config: ControlsConfig) -> Result:
    """Measure the run's effect, that of its controls, and keep both with the run.

    Nothing is kept if it is cancelled.
    """
    from mistudio.ml.features.vocabulary import token_texts
    from mistudio.ml.steering.claims import Setting, matching_tokens
    from mistudio.ml.steering.prompts import read_prompt
    from mistudio.ml.steering.replay import Replay
    from mistudio.ml.steering.run_controls import against_controls

    begun = time.monotonic()
    case = _case(ctx.studio, config)
    ctx.report.progress(0.0, "loading the model")
    model = lookup.model_of(ctx.studio, case.row)
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    library = _library(ctx, case, loaded)
    words, origin = _words(ctx.studio, case, config)
    texts = token_texts(loaded.tokenizer, loaded.facts.vocab_size)
    concept = set(matching_tokens(texts, words))
    prompt = read_prompt(loaded.tokenizer, case.run.prompt, chat=case.config.chat)
    prompted = _prompted(loaded, case, words)
    following = case.baseline_ids[: config.max_tokens]
    controls, why = _controls(ctx.studio, case, config)
    problems = [why] if why else []
    means: Along | None = None
    if config.means:
        ctx.report.progress(0.03, "differences of means")
        means, vectors, why = _means(ctx, case, loaded, config)
        problems += [why] if why else []
        library = _with_vectors(library, vectors)
    if not concept:
        problems.append(
            "The words name no token of this model, so that only re-reading and KL are compared."
            if words
            else "There is no label that names tokens; give words to compare their probability."
        )
    read = [s for s in _sources(case) if isinstance(s, Feature)]
    sae_id = read[0].sae if read else case.row.id
    setting = Setting(
        Replay(loaded, prompt, following),
        library.saes[sae_id],
        0.0,
        1.0,
        config.max_tokens,
        control_texts=config.texts,
    )
    found = against_controls(
        setting,
        case.spec,
        library,
        sorted({s.index for s in read if s.sae == sae_id}),
        concept,
        controls,
        ctx.control,
        means=means,
        prompted=prompted,
        told=lambda share: ctx.report.progress(0.1 + 0.88 * share, "measuring the controls"),
    )
    ctx.control.check()
    told: Result = {
        "run": case.run.id,
        "variant": case.variant,
        "title": title_of(case.variant),
        "asked": config.controls,
        "controls": len(controls),
        "words": words,
        "words_from": origin,
        "tokens": [texts[i] for i in sorted(concept)],
        "read_tokens": len(following) + 1,
        "seed": config.seed,
        "features": [[_named(source) for source in along.values()] for along in controls],
        "problems": problems,
        **_plain(found),
        "seconds": time.monotonic() - begun,
        "created_at": now(),
    }
    _keep(ctx, case, told)
    ctx.report.progress(1.0, "Ready")
    return told


def _library(ctx: JobContext, case: _Case, loaded: LoadedModel) -> Library:
    """What the run names, and the run's own SAE, whose features are the controls of vectors."""
    needed = everything({"": case.spec})
    model = lookup.model_of(ctx.studio, case.row)
    found = steer.library_of(ctx, model, loaded, needed)
    if case.row.id in found.saes:
        return found
    with_own = Spec((*needed.edits,), replace=(case.row.id,))
    return steer.library_of(ctx, model, loaded, with_own)


def _with_vectors(library: Library, vectors: Mapping[str, Vector]) -> Library:
    from dataclasses import replace

    return replace(library, vectors={**library.vectors, **vectors})


def _words(studio: Studio, case: _Case, config: ControlsConfig) -> tuple[list[str], str]:
    """The words whose tokens are looked for, and where they are from."""
    given = [word.strip() for word in config.words.split(",") if word.strip()]
    if given:
        return given, "given"
    found: list[str] = []
    for source in _sources(case):
        if isinstance(source, Feature):
            row = lookup.sae(studio, source.sae)
            kept = features.newest_set(studio.db(), row.id)
            rows = features.feature_rows(studio.db(), kept, [source.index]) if kept else []
            found += label_words((rows[0].label or "") if rows else "")
    return list(dict.fromkeys(found)), "label"


def _prompted(loaded: LoadedModel, case: _Case, words: Sequence[str]) -> Prompt | None:
    """The prompt with the words in it: what a user would write in place of steering."""
    from mistudio.ml.steering.prompts import read_prompt

    if not words:
        return None
    asked = f"A text about {', '.join(words)}. {case.run.prompt}"
    return read_prompt(loaded.tokenizer, asked, chat=case.config.chat)


def _controls(
    studio: Studio, case: _Case, config: ControlsConfig
) -> tuple[list[dict[Source, Source]], str]:
    """By control, along which random feature each source's change goes; why there are fewer."""
    import numpy as np

    from mistudio.ml.features.controls import matched

    chosen: dict[Source, list[Feature]] = {}
    taken = {(s.sae, s.index) for s in _sources(case) if isinstance(s, Feature)}
    for source in _sources(case):
        sae_id = source.sae if isinstance(source, Feature) else case.row.id
        counts_F = _counts(studio, sae_id)
        if isinstance(source, Feature):
            if not counts_F[source.index]:
                raise InvalidInput(
                    f"{source.words} never fired on the text read, so that there are no features "
                    "of like density."
                )
            most = config.controls + len(taken)
            numbers = matched(counts_F, np.ones(len(counts_F)), source.index, most, config.seed)
        else:
            numbers = _drawn(counts_F, config.controls + len(taken), config.seed)
        free = [n for n in numbers if (sae_id, n) not in taken]
        chosen[source] = [Feature(n, sae_id) for n in free[: config.controls]]
    count = min(len(found) for found in chosen.values())
    controls: list[dict[Source, Source]] = [
        {source: found[number] for source, found in chosen.items()} for number in range(count)
    ]
    if count >= config.controls:
        return controls, ""
    few = f"; with fewer than {LEAST} nothing can be selective" if count < LEAST else ""
    return controls, (
        f"Only {count} features lie within a factor of 2 of its density, {config.controls} were "
        f"asked for{few}."
    )


def _counts(studio: Studio, sae_id: str) -> NDArray[np.int64]:
    import numpy as np

    row = lookup.sae(studio, sae_id)
    store = feature_pages.open_store(studio, feature_pages.feature_set(studio, row))
    return np.asarray(store.statistics["count"])


def _drawn(counts_F: NDArray[np.int64], most: int, seed: int) -> list[int]:
    import numpy as np

    from mistudio.ml.features.sampling import hash_tokens

    live = np.flatnonzero(counts_F > 0)
    order = np.argsort(hash_tokens(seed, live.astype(np.uint32), 0), kind="stable")
    return sorted(live[order[:most]].tolist())


def _means(
    ctx: JobContext, case: _Case, loaded: LoadedModel, config: ControlsConfig
) -> tuple[dict[Source, Source] | None, dict[str, Vector], str]:
    """Along which difference of means each source's change goes; why there is none."""
    from mistudio.ml.steering.feature_means import feature_means
    from mistudio.ml.steering.sources import Vector

    along: dict[Source, Source] = {}
    vectors: dict[str, Vector] = {}
    for source in _sources(case):
        if not isinstance(source, Feature):
            return None, {}, "A vector has no difference of means of its own."
        row = lookup.sae(ctx.studio, source.sae)
        layer, hook = _place(row)
        store = feature_pages.open_store(ctx.studio, feature_pages.feature_set(ctx.studio, row))
        found = feature_means(
            loaded, layer, hook, store, [source.index], seed=config.seed, check=ctx.control.check
        )
        if source.index not in found:
            return None, {}, f"{source.words} fires too rarely for a difference of means."
        name = f"difference of means {source.sae} {source.index}"
        vectors[name] = Vector(found[source.index], layer, hook)
        along[source] = Direction(name)
    return along, vectors, ""


def _plain(found: RunControls) -> dict[str, Any]:
    """Figures and texts as plain values."""
    measures = {
        name: {
            "baseline": one.baseline,
            "steered": one.steered,
            "means": one.means,
            "prompted": one.prompted,
            "random": list(one.random),
            "p": one.standing.p,
            "percentile": one.standing.percentile,
            "controls": one.standing.controls,
            "lowers": one.lowers,
            "moves": one.moves,
            "selective": one.selective,
        }
        for name, one in found.measures.items()
    }
    ratios = [shown.ratio for shown in found.random if shown.ratio is not None]
    texts = {
        name: _text(shown)
        for name, shown in (
            ("baseline", found.baseline),
            ("steered", found.steered),
            ("means", found.means),
            ("prompted", found.prompted),
        )
        if shown is not None
    }
    return {
        "measures": measures,
        "ratio": found.steered.ratio,
        "random_ratio": [min(ratios), max(ratios)] if ratios else None,
        "means_ratio": found.means.ratio if found.means else None,
        "texts": texts,
    }


def _text(shown: Shown) -> dict[str, Any]:
    return {"text": shown.text, "loops": shown.loops}


def _named(source: Source) -> str:
    return f"{source.sae}#{source.index}" if isinstance(source, Feature) else source.name


def _keep(ctx: JobContext, case: _Case, told: Result) -> None:
    """Put the result with its run, which may have changed or gone meanwhile."""
    found = STEERING_RUNS.find(ctx.db, case.run.id)
    if found is None:
        raise StudioError("The run was deleted while it was tested.", code="gone")
    metrics = dict(found.metrics or {})
    before: Mapping[str, Any] = metrics.get("controls") or {}
    kept: dict[str, Any] = {**before, case.variant: told}
    STEERING_RUNS.update(ctx.db, case.run.id, metrics={**metrics, "controls": kept})
