"""Features of two SAEs matched, kept by content, and read by both faces."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from mistudio.core.errors import NotFound, StudioError
from mistudio.jobs import feature_pages
from mistudio.jobs.context import JobContext
from mistudio.store import analyses
from mistudio.store.analyses import WHOLE_SAE
from mistudio.store.connection import Db
from mistudio.store.records import SaeRow

if TYPE_CHECKING:
    from mistudio.ml.features.code_log import TokenCodes
    from mistudio.ml.features.feature_store import FeatureStore
    from mistudio.ml.sae.base import SparseAutoencoder

KIND, VERSION = "feature_matches", 1
SAMPLE_TOKENS = 100_000  # held-out tokens whose activations are kept to correlate


def stored_pair(
    ctx: JobContext, first: SaeRow, second: SaeRow
) -> tuple[FeatureStore, FeatureStore] | None:
    """The feature stores of both SAEs, if both have one and they read the same tokens."""
    from mistudio.ml.features.code_log import same_tokens
    from mistudio.ml.features.feature_store import FeatureStore

    try:
        sets = [feature_pages.feature_set(ctx.studio, row) for row in (first, second)]
        stores = [FeatureStore(ctx.paths.absolute(found.path or "")) for found in sets]
    except StudioError:
        return None
    return (stores[0], stores[1]) if same_tokens(stores[0], stores[1]) else None


def match(
    ctx: JobContext,
    rows: tuple[SaeRow, SaeRow],
    saes: tuple[SparseAutoencoder, SparseAutoencoder],
    sampled: tuple[TokenCodes, TokenCodes] | None,
    what: str,
) -> dict[str, Any]:
    """Match features over the stores of both, else over `sampled` codes of the text `what`.

    The table is kept with the first SAE; the result says under which key, and over what.
    """
    from mistudio.ml.evaluation.feature_matches import match_features
    from mistudio.ml.features.code_log import stored_codes

    stores = stored_pair(ctx, *rows)
    if stores is not None:
        read, codes = "stores", (stored_codes(stores[0]), stored_codes(stores[1]))
        what = stores[0].store_hash + stores[1].store_hash
    elif sampled is not None:
        read, codes = "sample", sampled
    else:
        raise NotFound("There are no tokens to match the features over.")

    def check(done: float) -> None:
        ctx.control.check()
        ctx.report.progress(0.9 + 0.1 * done, "Matching features")

    found = match_features(saes[0].W_dec_FO, saes[1].W_dec_FO, *codes, check)
    found["read"] = read
    inputs = [rows[0].weights_hash, rows[1].weights_hash, VERSION, read, what, found["tokens"]]
    key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    analyses.keep(ctx.db, rows[0].id, WHOLE_SAE, KIND, key, found)
    return {"sae": rows[0].id, "key": key, "read": read, "tokens": found["tokens"]}


def load(db: Db, kept: dict[str, Any]) -> dict[str, Any]:
    """The table behind the "matches" of a comparison; raises `NotFound` if it is gone."""
    found = analyses.find(db, kept["sae"], WHOLE_SAE, KIND, kept["key"])
    if found is None:
        raise NotFound("The matched features are gone; compare the SAEs again.")
    return dict(found.result)
