"""Two SAEs of the same hook, measured on the same held-out documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mistudio.core.comparison_configs import CompareSaesConfig
from mistudio.core.config import from_dict
from mistudio.core.errors import InvalidInput, Mismatch, NotFound
from mistudio.core.sae_readings import refuse_cross_layer
from mistudio.core.training_configs import TrainConfig
from mistudio.jobs import feature_matches, lookup, sae_library
from mistudio.jobs.context import JobContext, Result, StageReporter
from mistudio.jobs.evaluate import LOSS_TOKENS, held_out_of, reference_norms, text_for
from mistudio.jobs.runner import Studio
from mistudio.jobs.skipped_positions import with_skipped
from mistudio.store.records import SaeRow, TokenizationRow

if TYPE_CHECKING:
    from mistudio.ml.features.code_log import TokenCodes


def prepare(studio: Studio, config: CompareSaesConfig) -> None:
    """Refuse SAEs that cannot be compared before anything is queued."""
    first, second = _pair(studio, config)
    lookup.model_of(studio, first)
    if not config.dataset:
        _own_text(studio, first, second)


def run(ctx: JobContext, config: CompareSaesConfig) -> Result:
    """Figures of both, paired differences and overlap of features; `a` and `b` name the SAEs.

    A token counts if it does under the masks of both trainings.
    """
    from mistudio.ml.data.tokenize import TokenStore
    from mistudio.ml.evaluation.compare import compare
    from mistudio.ml.evaluation.measure import TextPart

    first, second = _pair(ctx.studio, config)
    model = lookup.model_of(ctx.studio, first)
    owner = first if config.dataset else _own_text(ctx.studio, first, second)
    shares = [share for row in (first, second) if (share := held_out_of(row)) is not None]
    held_out = min(shares, default=None)  # of both: a larger share holds out the same and more
    tokens: TokenizationRow = text_for(ctx, owner, model, config.dataset, held_out)
    ctx.report.progress(0.0, "loading the model")
    loaded = ctx.studio.models.get(model, ctx.paths.absolute(model.path))
    saes = [sae_library.read_sae(ctx.studio, row).to(loaded.device) for row in (first, second)]
    store = with_skipped(TokenStore(ctx.paths.absolute(tokens.path or "")), *saes)
    trainings = [from_dict(TrainConfig, row.config or {}) for row in (first, second)]
    norms = [
        reference_norms(ctx, row, sae, loaded, store)
        for row, sae in zip((first, second), saes, strict=True)
    ]
    cuts = [training.norm_cut for training in trainings]
    text = TextPart(
        store,
        norm_limit=min(cut * norm.read for cut, norm in zip(cuts, norms, strict=True)),
        norm_limit_out=min(cut * norm.written for cut, norm in zip(cuts, norms, strict=True)),
        mask_special=any(training.mask_special for training in trainings),
        max_tokens=config.tokens,
        max_loss_tokens=LOSS_TOKENS,
    )
    codes: list[TokenCodes] = []
    stored = feature_matches.stored_pair(ctx, first, second)
    found = compare(
        saes[0],
        saes[1],
        loaded,
        first.layer or 0,
        first.hook_in or "",
        text,
        StageReporter(ctx.report, 0.0, 0.9),
        ctx.control,
        first.hook_out,
        keep_codes=0 if stored else feature_matches.SAMPLE_TOKENS,
        codes=codes,
    )
    sampled = (codes[0], codes[1]) if codes else None
    matches = feature_matches.match(
        ctx, (first, second), (saes[0], saes[1]), sampled, f"{tokens.id}/{config.tokens}"
    )
    return {
        "a": {"id": first.id, "name": first.name},
        "b": {"id": second.id, "name": second.name},
        "tokenization": tokens.id,
        "matches": matches,
        **found,
    }


def _pair(studio: Studio, config: CompareSaesConfig) -> tuple[SaeRow, SaeRow]:
    first, second = lookup.sae(studio, config.sae), lookup.sae(studio, config.other)
    if first.id == second.id:
        raise InvalidInput("Name two different SAEs.")
    for row in (first, second):
        refuse_cross_layer(row.config, "what it reconstructs cannot be compared")
        if not sae_library.is_placed(row):
            raise Mismatch(f"SAE {row.name!r} does not say which layer and hook it reads.")
    if first.model_id != second.model_id:
        raise Mismatch(
            f"SAE {first.name!r} reads {first.model_name or 'an unknown model'}, {second.name!r} "
            f"reads {second.model_name or 'an unknown model'}; compare SAEs of the same model."
        )
    places = [(row.layer, row.hook_in, row.hook_out) for row in (first, second)]
    if places[0] != places[1]:
        raise Mismatch(
            f"SAE {first.name!r} reads {sae_library.place_of(first)}, {second.name!r} "
            f"{sae_library.place_of(second)}; compare SAEs of the same hook."
        )
    return first, second


def _own_text(studio: Studio, first: SaeRow, second: SaeRow) -> SaeRow:
    """The SAE whose training text is read: the first that has one."""
    for row in (first, second):
        try:
            lookup.training_tokenization(studio, row)
        except NotFound:
            continue
        return row
    raise NotFound("Neither SAE has a text of its own here. Choose a dataset.")
