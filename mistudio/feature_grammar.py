"""The verbs of `mistudio features` and their flags."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mistudio.core import (
    analysis_configs,
    configs,
    feature_export_configs,
    feature_search_configs,
    health_configs,
    label_configs,
)
from mistudio.core.config import add_arguments
from mistudio.store.feature_conditions import COLOURS


def feature_verbs(command: Any, features: Any, delete: Callable[..., None]) -> None:
    """Add every verb to the group `features`; `command` and `delete` make verbs of a group."""
    command(
        features,
        "extract",
        "features_extract",
        "find the features of an SAE",
        configs.HarvestConfig,
        "sae",
    )
    _feature_exchange(command, features)
    about = "name features by rules or by a language model, with held-out scores"
    command(features, "label", "features_label", about, label_configs.LabelConfig, "sae")
    for name, verb, about in (
        ("list", "list_features", "list features"),
        ("search", "search_features", "search labels, notes and tokens"),
    ):
        made = command(features, name, verb, about)
        made.add_argument("sae", nargs="?" if name == "list" else None, default="last")
        if name == "search":
            made.add_argument("text", help="words; the last one may be unfinished")
        made.add_argument("--limit", type=int, default=50, help="most rows (default 50)")
        _narrowing(made)
        made.add_argument("--view", metavar="NAME", help="filters and order of a saved view")
    made = command(features, "sets", "list_feature_sets", "feature sets, the one in use first")
    made.add_argument("sae", nargs="?", default="last")
    made = command(features, "use", "use_feature_set", "show and steer with this feature set")
    made.add_argument("feature_set", help="id of the set")
    delete(command, features, "feature_set", "delete", "delete a feature set; labels stay")
    shown = command(features, "show", "show_feature", "show one feature")
    shown.add_argument("sae", help="id or name of an SAE, or last")
    shown.add_argument("index", type=int, help="number of the feature")
    made = command(features, "mark", "mark_features", "star, hide, colour or note features")
    made.add_argument("sae", help="id or name of an SAE, or last")
    made.add_argument("index", type=int, nargs="+", help="numbers of features")
    onoff = argparse.BooleanOptionalAction
    made.add_argument("--star", action=onoff, help="set the star, or take it away")
    made.add_argument("--hidden", action=onoff, help="hide, or show again")
    made.add_argument("--colour", choices=(*COLOURS, "none"), help="a mark to filter by")
    made.add_argument("--note", help="your note; empty takes it away")
    _partner_verbs(command, features)
    _search_verbs(command, features)
    _list_verbs(command, features)
    _view_verbs(command, features)

    about = "take one feature, or every live one, out of the model and measure what changes"
    command(features, "ablate", "ablate_features", about, analysis_configs.AblateConfig, "sae")
    about = "tokens that a feature's direction promotes and suppresses, with z-scores"
    lens = analysis_configs.FeatureLensConfig
    command(features, "lens", "feature_lens", about, lens, "sae", "feature")
    about = "how much of a concept others carry in place of a feature, by two lists of prompts"
    made = command(features, "absorption", "absorption", about)
    own = analysis_configs.AbsorptionConfig
    lists = ("positive", "negative")
    add_arguments(made, own, positional=("sae", "feature"), without=lists)
    for name in lists:
        told = f"text file of {name} prompts, one per line"
        made.add_argument(f"--{name}", metavar="FILE", required=True, help=told)
    about = "which features fire on a text of one's own"
    command(features, "test", "test_text", about, analysis_configs.OwnTextConfig, "text")
    about = "what every feature adds to the next token of a text"
    command(features, "attribute", "attribute", about, analysis_configs.AttributeConfig, "text")


def _partner_verbs(command: Any, features: Any) -> None:
    made = command(features, "together", "features_together", "features that fire with one")
    made.add_argument("sae", help="id or name of an SAE, or last")
    made.add_argument("index", type=int, help="number of the feature")
    measures = ("pearson", "pmi", "jaccard")
    made.add_argument("--by", choices=measures, default="pearson", help="(default pearson)")
    made.add_argument("--again", action="store_true", help="count again what is kept")
    about = "features whose decoder rows are nearest to one's"
    made = command(features, "neighbours", "features_neighbours", about)
    made.add_argument("sae", help="id or name of an SAE, or last")
    made.add_argument("index", type=int, help="number of the feature")
    made.add_argument("--against", metavar="SAE", help="look in another SAE of the same hook")
    made.add_argument("--top", type=int, default=10, help="1 to 128 (default 10)")
    about = "how the features of an SAE do as a whole, with advice"
    command(features, "health", "features_health", about, health_configs.HealthConfig, "sae")


def _narrowing(made: argparse.ArgumentParser) -> None:
    """Flags that order and narrow a list of features."""
    made.add_argument("--sort", default="frequency", metavar="COLUMN", help="(default frequency)")
    made.add_argument("--ascending", action="store_true", help="smallest first")
    about = (
        'such as "max>=2", "skew<0", "flag=dead", "flag!=dense", "label=none", "colour=red", '
        '"list=NAME", "tokens~king|lord"; repeat to narrow further'
    )
    made.add_argument("--where", action="append", metavar="CONDITION", help=about)
    made.add_argument("--any", action="store_true", help="one condition is enough")
    made.add_argument("--all", action="store_true", help="those that never fire too")
    made.add_argument("--favorites", action="store_true", help="only starred ones")


def _search_verbs(command: Any, features: Any) -> None:
    about = "features by the text in which they fire"
    made = command(features, "find-text", "find_by_text", about)
    made.add_argument("sae", help="id or name of an SAE, or last")
    made.add_argument("text", help='words, "words in quotes" that stand together, begin*')
    made.add_argument("--rare", action="store_true", help="favour rare features: times log(N/n)")
    made.add_argument("--limit", type=int, default=20, help="most rows (default 20)")
    about = "features by the meaning of their labels"
    made = command(features, "find-meaning", "find_by_meaning", about)
    made.add_argument("sae", help="id or name of an SAE, or last")
    made.add_argument("text", help="what they are to be about")
    made.add_argument("--encoder", default="", help="folder of a sentence encoder")
    made.add_argument("--page", type=int, default=1, help="the next 20, and so on (default 1)")
    made.add_argument("--examples", type=int, default=3, help="shown of each (default 3)")
    made.add_argument("--limit", type=int, default=200, help="most found (default 200)")
    config = feature_search_configs.MapFeaturesConfig
    about = "place features by the principal components of their decoder directions"
    made = command(features, "map", "map_features", about, config, "sae")
    made.add_argument("--out", help="CSV file to write: index, x, y")
    config = feature_search_configs.IndexContextsConfig
    about = "index the text, so that find-text finds"
    command(features, "index-text", "features_index_text", about, config, "sae")
    config = feature_search_configs.EmbedFeaturesConfig
    about = "embed the labels, so that find-meaning finds"
    command(features, "embed", "features_embed", about, config, "sae")


def _list_verbs(command: Any, features: Any) -> None:
    about = "your lists of features"
    lists = features.add_parser("lists", help=about, description=about)
    verbs = lists.add_subparsers(metavar="VERB", dest="list_verb", required=True)
    command(verbs, "list", "feature_lists", "all lists")
    made = command(verbs, "create", "create_feature_list", "make a list")
    made.add_argument("name", help="name of the list")
    made.add_argument("--description", default="", help="what it is for")
    for name, verb, about in (
        ("show", "show_feature_list", "the features of a list"),
        ("rename", "rename_feature_list", "give a list another name"),
        ("delete", "forget_feature_list", "forget a list; its features stay"),
        ("add", "add_to_feature_list", "put features into a list"),
        ("remove", "remove_from_feature_list", "take features out of a list"),
        ("note", "note_in_feature_list", "say why a feature is in a list"),
    ):
        made = command(verbs, name, verb, about)
        made.add_argument("list", help="id or name of a list")
        if name == "rename":
            made.add_argument("name", help="its new name")
        elif name in ("add", "remove", "note"):
            made.add_argument("sae", help="id or name of an SAE, or last")
            many = None if name == "note" else "+"
            made.add_argument("index", type=int, nargs=many, help="numbers of features")
        if name == "note":
            made.add_argument("text", help="the note; empty takes it away")


def _view_verbs(command: Any, features: Any) -> None:
    about = "saved views of the feature table"
    views = features.add_parser("views", help=about, description=about)
    verbs = views.add_subparsers(metavar="VERB", dest="view_verb", required=True)
    command(verbs, "list", "list_feature_views", "all views")
    made = command(verbs, "save", "save_feature_view", "keep filters and an order under a name")
    made.add_argument("name", help="name of the view; one of this name is replaced")
    _narrowing(made)
    made = command(verbs, "delete", "forget_feature_view", "forget a view; the features stay")
    made.add_argument("view", help="id or name of a view")


def _feature_exchange(command: Any, features: Any) -> None:
    about = "write features as a table, an offline report or for other programs"
    exporting = feature_export_configs.ExportFeaturesConfig
    command(features, "export", "features_export", about, exporting, "sae")
    about = "labels from Neuronpedia's explanation files; yours stay"
    importing = feature_export_configs.ImportExplanationsConfig
    command(features, "import-explanations", "import_explanations", about, importing, "path", "sae")
    about = "a feature set from activations that delphi found"
    caching = feature_export_configs.ImportCacheConfig
    command(features, "import-delphi", "import_cache", about, caching, "path", "sae")
