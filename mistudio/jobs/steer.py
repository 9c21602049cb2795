"""Generate with and without steering, measure the difference, keep the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mistudio.core.config import to_dict
from mistudio.core.configs import SteerConfig
from mistudio.core.errors import Cancelled, InvalidInput, Mismatch, NotFound
from mistudio.core.sae_readings import refuse_cross_layer, steers_by
from mistudio.core.steering_operators import Value
from mistudio.core.steering_settings import everything, spec_of, variants_of, written_spec
from mistudio.core.steering_spec import Spec
from mistudio.jobs import encoders, lookup, sae_library, steering_norms, vector_library
from mistudio.jobs.context import JobContext, Result
from mistudio.jobs.runner import Studio
from mistudio.store import features
from mistudio.store.records import ModelRow, SaeRow, SteeringVectorRow
from mistudio.store.tables import MODELS, STEERING_RUNS

if TYPE_CHECKING:
    from mistudio.ml.embedding import Encoder
    from mistudio.ml.loading import LoadedModel
    from mistudio.ml.steering.compare import SteerResult
    from mistudio.ml.steering.sources import Library, PlacedSae, Vector
    from mistudio.ml.steering.variants import Text


class Subject(NamedTuple):
    """The model that a run steers, the run's own SAE if it has one, and what it steers with."""

    model: ModelRow
    sae: SaeRow | None
    spec: Spec


def subject_of(studio: Studio, config: SteerConfig) -> Subject:
    """What a run is about: by its SAE, or where only vectors steer by the model of the first.

    Raises `InvalidInput` for settings that cannot be and `NotFound` for what is not there.
    """
    spec = spec_of(config)
    if spec.leaves_sae_open or config.sae not in ("", "last"):
        row = lookup.sae(studio, config.sae)
        return Subject(lookup.model_of(studio, row), row, spec.on_sae(row.id).check())
    for name in saes_of(spec):
        row = lookup.sae(studio, name)
        return Subject(lookup.model_of(studio, row), row, spec)
    for direction in spec.directions():
        known = vector_library.find_one(studio, direction.name)
        return Subject(_model_of_vector(studio, known), None, spec)
    raise InvalidInput("Name a feature or a vector to steer with.")


def _model_of_vector(studio: Studio, row: SteeringVectorRow) -> ModelRow:
    found = MODELS.find(studio.db(), row.model_id) if row.model_id else None
    if found is None:
        raise NotFound(
            f"The model of vector {row.name!r} ({row.model_name}) is not in the library. Import "
            "the model, then make or import the vector again with it."
        )
    return found


def prepare(studio: Studio, config: SteerConfig) -> None:
    """Refuse unknown features, or units that need a feature set there is none of."""
    model, row, _ = subject_of(studio, config)
    spec = everything(named_variants(config, row.id if row else ""))
    scales(studio, model, spec)
    for name in spec.replace:
        told = lookup.sae(studio, name).config
        refuse_cross_layer(told, "its reconstruction cannot take an output's place")
    steering_norms.check_layers(model, spec)
    for direction in spec.directions():
        vector_row(studio, model, direction.name)


def named_variants(config: SteerConfig, sae_id: str) -> dict[str, Spec]:
    """What a run compares, by name, with its SAE written into it. Raises `InvalidInput`."""
    variants = variants_of(config)
    return {name: spec.on_sae(sae_id).check() for name, spec in variants.items()}


def scales(studio: Studio, model: ModelRow, spec: Spec) -> dict[str, dict[int, float]]:
    """By SAE the largest activations of the features that are named.

    Raises a sentence for a feature that does not exist, an SAE of another model, or a scale that
    is needed and not known.
    """
    found: dict[str, dict[int, float]] = {}
    for name in saes_of(spec):
        other = lookup.sae(studio, name)
        if lookup.model_of(studio, other).id != model.id:
            raise Mismatch(
                f"SAE {other.name!r} belongs to another model than {model.name!r}, which is "
                "steered."
            )
        if not sae_library.is_placed(other):
            raise Mismatch(f"SAE {other.name!r} does not say which layer and hook it reads.")
        found[name] = _largest(studio, other, name, spec)
    return found


def saes_of(spec: Spec) -> list[str]:
    """Every SAE that a specification names."""
    return sorted({*spec.replace, *(feature.sae for feature in spec.features())})


def _largest(studio: Studio, row: SaeRow, name: str, spec: Spec) -> dict[int, float]:
    wanted = [feature.index for feature in spec.features() if feature.sae == name]
    for index in wanted:
        if index >= row.n_latents:
            raise InvalidInput(
                f"Feature {index:,} does not exist; the SAE has {row.n_latents:,} latents "
                f"(0 to {row.n_latents - 1:,})."
            )
    scaled = _scaled_by_max(spec, name)
    found = features.newest_set(studio.db(), row.id)
    if found is None:
        if scaled:
            raise NotFound(
                "The unit “× max activation” needs the features of this SAE. Find its features "
                "first, or use the raw unit."
            )
        return {}
    maxima = {r.index: r.max for r in features.feature_rows(studio.db(), found, wanted)}
    for index in scaled:
        if not maxima.get(index):
            raise InvalidInput(
                f"Feature {index:,} never fired on the text read, so its largest "
                "activation is unknown. Use the raw unit or another feature."
            )
    return maxima


def _scaled_by_max(spec: Spec, name: str) -> list[int]:
    """Features of an SAE with a value in the unit × max."""
    found = {
        edit.feature
        for edit in spec.edits
        if getattr(edit.source, "sae", None) == name
        and (edit.unit or spec.unit) == "max"
        and edit.rule.value not in (Value.NONE, Value.FACTOR)
    }
    watched = [edit.condition for edit in spec.edits] + [spec.abort]
    found |= {c.feature.index for c in watched if c and c.unit == "max" and c.feature.sae == name}
    return sorted(found)


def library_of(ctx: JobContext, model: ModelRow, loaded: LoadedModel, spec: Spec) -> Library:
    """The SAEs and vectors that a specification names, at their places, with their scales."""
    from mistudio.ml.steering.compare import placed
    from mistudio.ml.steering.sources import Library

    maxima = scales(ctx.studio, model, spec)
    saes: dict[str, PlacedSae] = {}
    for name, largest in maxima.items():
        other = lookup.sae(ctx.studio, name)
        hook = other.hook_out or other.hook_in or ""
        if said := steers_by(other.config):
            ctx.report.note(f"{other.name}: {said}")
        sae = sae_library.read_sae(ctx.studio, other).to(loaded.device)
        saes[name] = placed(
            sae,
            other.layer or 0,
            hook,
            other.hook_in,
            largest,
            steering_norms.median_norm(ctx, other, sae, loaded),
        )
    norms = steering_norms.layer_norms(ctx, model, loaded, spec)
    return Library(saes, vectors_of(ctx, model, loaded, spec), norms)


def vectors_of(
    ctx: JobContext, model: ModelRow, loaded: LoadedModel, spec: Spec
) -> dict[str, Vector]:
    """The vectors that a specification names.

    Raises `NotFound`, or `Mismatch` for one of another model.
    """
    import torch

    from mistudio.ml.steering.sources import Vector

    found: dict[str, Vector] = {}
    for direction in spec.directions():
        known = vector_row(ctx.studio, model, direction.name)
        v_D = torch.tensor(vector_library.read(ctx.studio, known))
        median = steering_norms.stream_norm(ctx, known, loaded)
        found[direction.name] = Vector(v_D, known.layer, known.hook, median)
    return found


def vector_row(studio: Studio, model: ModelRow, name: str) -> SteeringVectorRow:
    """A vector of a model; raises `NotFound`, `InvalidInput` or `Mismatch`."""
    known = vector_library.find_one(studio, name)
    if known.model_id != model.id:
        raise Mismatch(
            f"Vector {known.name!r} belongs to another model than {model.name!r}, which is steered."
        )
    return known


def run(ctx: JobContext, config: SteerConfig) -> Result:
    """Steer and keep the run with all that is needed to repeat it."""
    from mistudio.ml.steering.compare import steer

    model, row, spec = subject_of(ctx.studio, config)
    sae_id = row.id if row else ""
    variants = named_variants(config, sae_id)
    needed = everything(variants)
    scales(ctx.studio, model, needed)
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    library = library_of(ctx, model, loaded, needed)
    began = time.monotonic()
    found = steer(loaded, variants, library, config, ctx.report, ctx.control)
    if found.is_empty and any(text.reason == "stopped" for text in found.comparison.texts):
        raise Cancelled  # stopped before the first token: there is nothing to keep
    first = next(iter(variants))
    outputs = _outputs(found, first)
    for name, kl in found.kl_per_token.items():
        ids = found.comparison.samples(name)[0].ids
        pieces = _pieces(loaded, found.comparison.prompts[0].ids, ids)
        outputs["variants"][name]["per_token"] = {"pieces": pieces, "kl": kl}
    _measure_meaning(ctx, config.prompt, outputs["variants"], found.metrics)
    figures = found.metrics[first]
    if config.spec:  # the file may change: what it says is kept instead
        config = _with_inline_spec(config, spec, variants)
    kept = STEERING_RUNS.insert(
        ctx.db,
        model_id=model.id,
        sae_id=sae_id or None,
        mode=config.mode,
        prompt=config.prompt,
        config={
            **to_dict(config),
            "sae": sae_id,
            "weights_hash": row.weights_hash if row else "",
            "specification": spec.to_json(),
        },
        seed=config.seed,
        outputs=outputs,
        metrics=figures if len(variants) == 1 else {**figures, "variants": found.metrics},
        duration=time.monotonic() - began,
        status="completed",
    )
    told = {"baseline": outputs["baseline"], "steered": outputs["steered"]}
    more = {"variants": outputs["variants"]} if len(variants) > 1 or config.samples > 1 else {}
    return {"run": kept.id, "sae": sae_id, **told, **more, **figures}


def _pieces(loaded: LoadedModel, prompt_ids: Sequence[int], ids: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens belongs to the last."""
    from mistudio.ml.steering.detokenize import TextStream

    stream, before, found = TextStream(loaded.tokenizer, list(prompt_ids)), "", list[str]()
    for token in ids:
        text = stream.add(token)
        found.append(text[len(before) :])
        before = text
    if found:
        found[-1] += stream.finish()[len(before) :]
    return found


def _measure_meaning(
    ctx: JobContext, prompt: str, variants: Mapping[str, Any], figures: dict[str, dict[str, Any]]
) -> None:
    """Add how alike in meaning the first texts are to the figures of each variant.

    Without a sentence encoder on this machine words are compared, which `similarity_by` says.
    """
    from mistudio.ml.steering.meaning import Meaning

    texts = {name: str(told["samples"][0]["text"]) for name, told in variants.items()}
    folder = encoders.find(ctx.studio)
    meaning = Meaning.of([prompt, *texts.values()], _encoder(folder) if folder else None)
    for name, found in figures.items():
        found["similarity"] = meaning.cosine(texts["baseline"], texts[name])
        found["relevance"] = meaning.relevance(prompt, texts["baseline"], texts[name])
        found["similarity_by"] = meaning.method


@lru_cache(maxsize=1)
def _encoder(folder: Path) -> Encoder:
    """Kept between runs; only the one thread of the GPU lane uses it."""
    from mistudio.ml.embedding import Encoder

    return Encoder(folder)


def _with_inline_spec(config: SteerConfig, spec: Spec, variants: Mapping[str, Spec]) -> SteerConfig:
    """The same settings with the whole specification written into them."""
    beside: list[str] = []
    if config.mode == "operators":  # of the same SAE as in the specification
        own = set(spec.edits)
        beside = [e.written() for one in variants.values() for e in one.edits if e not in own]
    return replace(
        config,
        spec=written_spec(spec),
        feature=(),
        edit=(),
        alternative=tuple(beside),
        positions="all",
        norm="",
        replace=False,
        abort="",
    )


def _outputs(found: SteerResult, first: str) -> dict[str, Any]:
    """Texts and token ids of every variant; `baseline` and `steered` are the first of each."""
    comparison = found.comparison
    baseline, steered = comparison.samples("baseline")[0], comparison.samples(first)[0]
    twins = comparison.greedy("baseline"), comparison.greedy(first)
    return {
        "baseline": baseline.text,
        "steered": steered.text,
        "token_ids": {"baseline": baseline.ids, "steered": steered.ids},
        "reasons": {
            "baseline": baseline.reason,
            "steered": steered.reason,
            "greedy_baseline": twins[0].reason,
            "greedy_steered": twins[1].reason,
        },
        "prompt_ids": list(comparison.prompts[0].ids),
        "variants": {
            name: {
                "samples": [_told(text) for text in comparison.samples(name)],
                "greedy": _told(comparison.greedy(name)),
                "values": comparison.values[name],
            }
            for name in comparison.variants
        },
    }


def _told(text: Text) -> dict[str, Any]:
    return {
        "text": text.text,
        "token_ids": text.ids,
        "reason": text.reason,
        "acted_at": text.trace.acted_at,
        "positions": text.trace.positions,
    }
