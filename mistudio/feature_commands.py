"""The verbs of features beyond listing and showing: what narrows a list, and the user's lists."""

from __future__ import annotations

import argparse
import dataclasses
import re
from pathlib import Path

from mistudio.console import Console
from mistudio.core.errors import InvalidInput
from mistudio.core.feature_search_configs import (
    EmbedFeaturesConfig,
    IndexContextsConfig,
    MapFeaturesConfig,
)
from mistudio.jobs import context_search, feature_hits, feature_pages, lookup, meaning_search
from mistudio.jobs.meaning_search import MeaningMatches
from mistudio.jobs.runner import Studio
from mistudio.store import feature_lists as lists
from mistudio.store import feature_views
from mistudio.store.feature_conditions import (
    ANY_COLOUR,
    COLOURS,
    FLAGS,
    LABEL_STATES,
    TEXTS,
    Condition,
    HasColour,
    HasFlag,
    InList,
    LabelState,
    Matches,
    NumberRange,
)
from mistudio.store.feature_keys import NUMBERS
from mistudio.store.feature_marks import mark
from mistudio.store.features import SORT_COLUMNS, FeatureFilter, feature_rows
from mistudio.store.records import SaeRow

Arguments = argparse.Namespace
_CONDITION = re.compile(r"\s*([a-z_]+)\s*(>=|<=|!=|=|<|>|~)\s*(.*)", re.DOTALL)


def narrowed(studio: Studio, arguments: Arguments) -> FeatureFilter:
    """The filter that the flags of a list of features ask for; raises `InvalidInput`."""
    if arguments.sort not in SORT_COLUMNS:
        raise InvalidInput(
            f"There is no column {arguments.sort!r}; there are {', '.join(SORT_COLUMNS)}.",
            code="invalid_config",
        )
    return FeatureFilter(
        live_only=not arguments.all,
        favorites_only=arguments.favorites,
        conditions=tuple(condition_of(studio, text) for text in arguments.where or ()),
        any_of=arguments.any,
    )


def in_view(
    studio: Studio, console: Console, arguments: Arguments, narrower: FeatureFilter
) -> tuple[FeatureFilter, str, bool]:
    """Filter, order and direction of the view that is named; flags beside it narrow it further."""
    view = feature_views.named(studio.db(), arguments.view)
    found = feature_views.viewed(studio.db(), view)
    if found.gone:
        console.note(feature_views.gone_sentence(view.name, found.gone))
    if narrower.conditions and found.wanted.any_of and found.wanted.conditions:
        raise InvalidInput(
            f"The view {view.name!r} takes any of its filters; --where beside it would be one more "
            "of them. Save another view instead.",
            code="invalid_config",
        )
    wanted = found.wanted._replace(
        conditions=(*found.wanted.conditions, *narrower.conditions),
        any_of=found.wanted.any_of or (narrower.any_of and not found.wanted.conditions),
        favorites_only=found.wanted.favorites_only or narrower.favorites_only,
        live_only=found.wanted.live_only and narrower.live_only,
    )
    chosen = arguments.sort != "frequency" or arguments.ascending
    if chosen:
        return wanted, arguments.sort, not arguments.ascending
    return wanted, found.sort, found.descending


def condition_of(studio: Studio, text: str) -> Condition:
    """A condition as it is written on the command line; raises `InvalidInput`."""
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f'{text!r} is no condition; write one such as "max>=2" or "flag=dead".',
            code="invalid_config",
        )
    name, sign, value = found.groups()
    if sign == "~":
        return Matches(_one_of(name, tuple(TEXTS), "column of text"), value)
    if sign in ("=", "!="):
        is_on = sign == "="
        if name == "flag":
            return HasFlag(_one_of(value, FLAGS, "flag"), is_on)
        if name == "colour":
            return HasColour(_one_of(value, (ANY_COLOUR, *COLOURS), "colour"), is_on)
        if name == "list":
            return InList(lists.named(studio.db(), value).id, is_on)
        if name == "label" and is_on:
            return LabelState(_one_of(value, LABEL_STATES, "kind of label"))
        raise InvalidInput(f"{text!r} is no condition.", code="invalid_config")
    column = _one_of(name, NUMBERS, "column of numbers")
    try:
        number = float(value)
    except ValueError:
        raise InvalidInput(f"{value!r} in {text!r} is no number.", code="invalid_config") from None
    if sign in (">", "<"):
        raise InvalidInput(
            f"Write {name}{sign}={value}: bounds are included.", code="invalid_config"
        )
    return NumberRange(column, number) if sign == ">=" else NumberRange(column, high=number)


def _one_of(name: str, known: tuple[str, ...], noun: str) -> str:
    if name not in known:
        raise InvalidInput(
            f"There is no {noun} {name!r}; there are {', '.join(known)}.", code="invalid_config"
        )
    return name


def mark_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Star, hide, colour or note features; what is not named stays as it is."""
    sae = lookup.sae(studio, arguments.sae)
    for index in arguments.index:
        feature_pages.check_feature(sae, index)
    colour = arguments.colour
    marks = {
        "favorite": arguments.star,
        "hidden": arguments.hidden,
        "colour": "" if colour == "none" else colour,
        "note": arguments.note,
    }
    if all(value is None for value in marks.values()):
        raise InvalidInput(
            "Say what to set: --star, --hidden, --colour or --note.", code="invalid_config"
        )
    mark(studio.db(), sae.id, arguments.index, **marks)
    told = {name: value for name, value in marks.items() if value is not None}
    console.result({"sae": sae.id, "features": arguments.index, **told})


def find_by_text(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Features by the text in which they fire; the text is indexed when first searched."""
    from mistudio.commands import run_job

    sae = lookup.sae(studio, arguments.sae)
    if not context_search.is_indexed(studio, feature_pages.feature_set(studio, sae)):
        run_job(studio, console, "index_contexts", IndexContextsConfig(sae=sae.id))
    found = context_search.search(
        studio, sae, arguments.text, rare=arguments.rare, limit=arguments.limit
    )
    read = f", of which {found.used:,} were read" if found.used < found.hits else ""
    console.note(f"{found.hits:,} occurrences{read}.")
    _print_ranked(studio, console, sae, found.features, found.scores)


def find_by_meaning(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Features by the meaning of their labels, which are embedded when first searched."""
    from mistudio.commands import run_job

    if arguments.page < 1 or not 0 <= arguments.examples <= 20:
        raise InvalidInput(
            "--page counts from 1, and --examples are 0 to 20.", code="invalid_config"
        )
    sae = lookup.sae(studio, arguments.sae)

    def search() -> MeaningMatches:
        return meaning_search.search(
            studio, sae, arguments.text, limit=arguments.limit, encoder=arguments.encoder
        )

    found = search()
    if found.stale:
        config = EmbedFeaturesConfig(sae=sae.id, encoder=arguments.encoder)
        run_job(studio, console, "embed_features", config)
        found = search()
    how = f"cosines of {found.encoder}" if found.encoder else "shared words; there is no encoder"
    last = feature_hits.pages(len(found.features))
    console.note(f"By {how}. Page {arguments.page:,} of {last:,}.")
    shown = feature_hits.hits(
        studio,
        feature_pages.feature_set(studio, sae),
        found.features,
        found.scores,
        page=arguments.page,
        examples=arguments.examples,
    )
    rows = [
        {
            "index": hit.row.index,
            "match": hit.score,
            "label": hit.row.label,
            "tokens": hit.row.top_tokens,
            "examples": "  |  ".join(feature_pages.text_of(e) for e in hit.examples),
        }
        for hit in shown
    ]
    console.table("features", rows, ("index", "match", "label", "tokens", "examples"))


def _print_ranked(
    studio: Studio, console: Console, sae: SaeRow, indices: list[int], scores: list[float]
) -> None:
    match = dict(zip(indices, scores, strict=True))
    found = feature_pages.feature_set(studio, sae)
    rows = [
        {
            "index": row.index,
            "match": match[row.index],
            "label": row.label,
            "tokens": row.top_tokens,
        }
        for row in feature_rows(studio.db(), found, indices)
    ]
    console.table("features", rows, ("index", "match", "label", "tokens"))


def map_features(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Place live features by the principal components of their directions."""
    from mistudio.commands import run_job
    from mistudio.jobs import map_features as maps

    sae = lookup.sae(studio, arguments.sae)
    config = MapFeaturesConfig(sae=sae.id, anew=arguments.anew)
    result = run_job(studio, console, "map_features", config)
    placed = maps.known(studio, sae)
    if arguments.out and placed is not None:
        maps.write_csv(placed, Path(arguments.out).expanduser())
        result["path"] = arguments.out
    console.result(result)


def feature_lists(studio: Studio, console: Console, arguments: Arguments) -> None:
    """All lists of features."""
    rows = [dataclasses.asdict(found) for found in lists.lists(studio.db())]
    console.table("lists", rows, ("id", "name", "count", "description"))


def create_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Make a list."""
    made = lists.create(studio.db(), arguments.name, arguments.description)
    console.result(dataclasses.asdict(made))


def show_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The features of a list."""
    found = lists.named(studio.db(), arguments.list)
    rows = [item._asdict() for item in lists.items(studio.db(), found.id)]
    console.table("features", rows, ("sae_name", "feature", "label", "note"))


def rename_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Give a list another name."""
    found = lists.named(studio.db(), arguments.list)
    lists.rename(studio.db(), found.id, arguments.name)
    console.result(dataclasses.asdict(lists.named(studio.db(), found.id)))


def forget_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Forget a list."""
    found = lists.named(studio.db(), arguments.list)
    used = feature_views.using_list(studio.db(), found.id)
    lists.delete(studio.db(), found.id)
    if used:
        console.note(f"Views that narrow by it leave that out from now on: {', '.join(used)}.")
    console.result(
        {"deleted": found.id, "name": found.name, "features": found.count, "views": used}
    )


def list_feature_views(studio: Studio, console: Console, arguments: Arguments) -> None:
    """The saved views of the feature table."""
    rows = []
    for view in feature_views.views(studio.db()):
        found = feature_views.viewed(studio.db(), view)
        rows.append(
            {
                "id": view.id,
                "name": view.name,
                "sort": found.sort,
                "filters": len(found.wanted.conditions),
                "gone": ", ".join(found.gone),
            }
        )
    console.table("views", rows, ("id", "name", "sort", "filters", "gone"))


def save_feature_view(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Keep a filter and an order under a name."""
    config = feature_views.config_of(
        narrowed(studio, arguments), arguments.sort, not arguments.ascending
    )
    made = feature_views.save(studio.db(), arguments.name, config)
    console.result({"view": made, "name": arguments.name})


def forget_feature_view(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Forget a view; the features stay."""
    view = feature_views.named(studio.db(), arguments.view)
    feature_views.delete(studio.db(), view.id)
    console.result({"deleted": view.id, "name": view.name})


def add_to_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Put features into a list."""
    _change(studio, console, arguments, add=True)


def remove_from_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Take features out of a list."""
    _change(studio, console, arguments, add=False)


def _change(studio: Studio, console: Console, arguments: Arguments, *, add: bool) -> None:
    found, sae = lists.named(studio.db(), arguments.list), lookup.sae(studio, arguments.sae)
    for index in arguments.index:
        feature_pages.check_feature(sae, index)
    if add:
        lists.add(studio.db(), found.id, sae.id, arguments.index)
    else:
        lists.remove(studio.db(), found.id, sae.id, arguments.index)
    console.result(dataclasses.asdict(lists.named(studio.db(), found.id)))


def note_in_feature_list(studio: Studio, console: Console, arguments: Arguments) -> None:
    """Say why a feature is in a list."""
    found, sae = lists.named(studio.db(), arguments.list), lookup.sae(studio, arguments.sae)
    if found.id not in lists.lists_of(studio.db(), sae.id, arguments.index):
        raise InvalidInput(f"Feature {arguments.index:,} is not in the list {found.name!r}.")
    lists.set_note(studio.db(), found.id, sae.id, arguments.index, arguments.text)
    console.result({"list": found.name, "feature": arguments.index, "note": arguments.text})
