"""Analyses of features are kept by the content that they were computed from.

The key holds the feature set's store hash (model, text, masks, activations), the SAE's weights
hash, the analysis with its version and its parameters: a result is found again until any of
these changes, and never after.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from mistudio.jobs.runner import Studio
from mistudio.store import analyses
from mistudio.store.analyses import WHOLE_SAE, Analysis
from mistudio.store.records import FeatureSetRow, SaeRow


def kept(
    studio: Studio,
    sae: SaeRow,
    found: FeatureSetRow,
    kind: str,
    version: int,
    parameters: Mapping[str, Any],
    compute: Callable[[], Any],
    *,
    feature: int = WHOLE_SAE,
    anew: bool = False,
) -> Analysis:
    """The kept result of an analysis, else that of `compute` (plain JSON values), kept from now on.

    `version` is raised whenever the analysis computes something else; `anew` computes again.
    """
    key = key_hash(sae, found, kind, version, parameters)
    known = None if anew else analyses.find(studio.db(), sae.id, feature, kind, key)
    return known or analyses.keep(studio.db(), sae.id, feature, kind, key, compute())


def known(
    studio: Studio,
    sae: SaeRow,
    found: FeatureSetRow,
    kind: str,
    version: int,
    parameters: Mapping[str, Any],
    *,
    feature: int = WHOLE_SAE,
) -> Analysis | None:
    """The kept result of an analysis, if there is one; computes nothing."""
    key = key_hash(sae, found, kind, version, parameters)
    return analyses.find(studio.db(), sae.id, feature, kind, key)


def key_hash(
    sae: SaeRow, found: FeatureSetRow, kind: str, version: int, parameters: Mapping[str, Any]
) -> str:
    """SHA-256 over everything that a result depends on."""
    inputs = [found.store_hash, sae.weights_hash, kind, version, dict(parameters)]
    written = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(written.encode("utf-8")).hexdigest()
