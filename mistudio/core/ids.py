"""Identifiers of stored objects: a prefix that names the kind, then a UUID."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone

PREFIXES = {
    "dataset": "ds_",
    "tokenization": "tok_",
    "model": "m_",
    "activation_set": "act_",
    "training": "tr_",
    "sweep": "sw_",
    "checkpoint": "cp_",
    "sae": "sae_",
    "feature_set": "fs_",
    "steering_run": "st_",
    "steering_vector": "sv_",
    "vector_group": "svg_",
    "template": "tpl_",
    "job": "job_",
    "label": "lab_",
    "feature_list": "fl_",
    "feature_view": "fv_",
}


def new_id(kind: str) -> str:
    """A fresh id such as `sae_0f3c…`; raises KeyError for an unknown kind."""
    return PREFIXES[kind] + uuid.uuid4().hex


def now() -> str:
    """The current time as ISO 8601 UTC with microseconds; sorts as text."""
    return datetime.now(timezone.utc).isoformat(timespec="microseconds")
