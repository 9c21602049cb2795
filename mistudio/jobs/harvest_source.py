"""What a harvest reads: which stored activations fit an SAE, and what speaks against a fit."""

from __future__ import annotations

from mistudio.core.configs import HarvestConfig
from mistudio.core.errors import InUse, Mismatch, NotFound
from mistudio.jobs import lookup
from mistudio.jobs.runner import Studio
from mistudio.store.connection import Db
from mistudio.store.records import ActivationSetRow, JobRow, ModelRow, SaeRow, TokenizationRow
from mistudio.store.tables import ACTIVATION_SETS, JOBS, TOKENIZATIONS

READY = ("ready", "completed")
AT_WORK = "kind = 'harvest' AND status IN ('queued', 'running', 'paused')"


def fitting_sets(db: Db, row: SaeRow) -> list[ActivationSetRow]:
    """Ready sets of the SAE's model that hold its hooks and have a text, newest first."""
    found = ACTIVATION_SETS.select(
        db, "model_id = ? AND tokenization_id IS NOT NULL AND status IN (?, ?)",
        [row.model_id, *READY],
    )  # fmt: skip
    return [stored for stored in found if not _lacking(stored, row)]


def stored_for(studio: Studio, row: SaeRow, model: ModelRow, wanted: str) -> ActivationSetRow:
    """The named activation set; raises `Mismatch` with the reason if the SAE cannot read it."""
    stored = ACTIVATION_SETS.named(studio.db(), wanted)
    if stored.status not in READY:
        raise InUse(f"Activation set {stored.name!r} is not ready ({stored.status}).")
    if stored.model_id != model.id:
        raise Mismatch(
            f"Activation set {stored.name!r} is not of {model.name}, the model of SAE {row.name!r}."
        )
    lacking = _lacking(stored, row)
    if lacking:
        raise Mismatch(
            f"Activation set {stored.name!r} holds nothing of layer {row.layer}, "
            f"{' and '.join(lacking)}, which SAE {row.name!r} needs."
        )
    return stored


def text_of(studio: Studio, stored: ActivationSetRow, config: HarvestConfig) -> TokenizationRow:
    """The tokenisation a set was made from; raises `Mismatch` if another text is asked for."""
    tokens = TOKENIZATIONS.find(studio.db(), stored.tokenization_id or "")
    if tokens is None or tokens.path is None:
        raise NotFound(
            f"The tokenised text of activation set {stored.name!r} was deleted; read the features "
            "with the model instead."
        )
    if config.dataset and tokens.id != config.dataset:
        named = lookup.tokenization(studio, config.dataset)
        if named is not None or lookup.dataset(studio, config.dataset).id != tokens.dataset_id:
            raise Mismatch(
                f"Activation set {stored.name!r} was made from another text than the one chosen."
            )
    return tokens


def _lacking(stored: ActivationSetRow, row: SaeRow) -> list[str]:
    """Hooks of the SAE that a set does not hold at its layer; all of them if the layer is not."""
    hooks = list(dict.fromkeys(hook for hook in (row.hook_in, row.hook_out) if hook))
    held = (stored.hooks or "").split(",")
    here = str(row.layer) in (stored.layers or "").split(",")
    return [hook for hook in hooks if not here or hook not in held]


def doubts(row: SaeRow, model: ModelRow, stored: ActivationSetRow | None) -> list[str]:
    """What does not fit, as sentences: another model, another format of the weights."""
    found: list[str] = []
    if row.model_name not in (None, "", model.name, model.repo_id) and row.origin == "imported":
        found.append(
            f"SAE {row.name!r} names {row.model_name} as its model; its features are read with "
            f"{model.name}."
        )
    if row.model_format and model.format and row.model_format != model.format:
        found.append(
            f"SAE {row.name!r} was trained on {row.model_format} weights; its features are read "
            f"with {model.format} weights."
        )
    if stored is not None and stored.dtype != "fp32":
        found.append(
            f"Activation set {stored.name!r} is stored in {stored.dtype}: its features differ by "
            "that rounding from those that the model gives."
        )
    return found


def known_ev(row: SaeRow) -> float | None:
    """The SAE's explained variance on held-out text, if it was measured."""
    value = (row.evaluation or {}).get("ev")
    return float(value) if isinstance(value, (int, float)) else None


def at_work(db: Db, row: SaeRow) -> list[JobRow]:
    """Harvests of an SAE that wait or run; what a process that ended left is gone on with."""
    return [j for j in JOBS.select(db, AT_WORK) if j.config.get("sae") in (row.id, row.name)]


def refuse_second(studio: Studio, row: SaeRow) -> None:
    """Raise `InUse` while another harvest of the SAE waits or runs."""
    if at_work(studio.db(), row):
        raise InUse(
            f"The features of {row.name!r} are being found already; wait for that job or cancel it."
        )


def estimated_bytes(row: SaeRow, config: HarvestConfig) -> tuple[int, float]:
    """Bytes of a feature set that reads as much as it may, and the L0 they are computed with.

    Both orders of the entries, ids, masks and the tables of each feature. L0 is the SAE's measured
    one, else its k, else 64.
    """
    measured = (row.evaluation or {}).get("l0")
    l0 = float(measured or (row.config or {}).get("k") or 64)
    tokens = config.rows * config.context
    entry = (2 if row.n_latents <= 1 << 16 else 4) + 2 + 4 + 2
    feature = 12 * config.top_k + 4 * 64 + 8 * 10 + 8 * 5 + 80 + 10 * 16 + 4 * 50 + 24
    return int(tokens * (min(l0, 256.0) * entry + 4 + 1 + 8) + row.n_latents * feature), l0
