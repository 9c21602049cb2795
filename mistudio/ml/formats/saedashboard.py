"""SAEDashboard's files: batch-N.json, run_settings.json, skipped_indexes.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mistudio.ml.formats.peer_features import PeerFeature, PeerFeatures, Source
from mistudio.ml.formats.row_schema import Schema, many, maybe, real, row, share, text, whole

ACTIVATION: Schema = {
    "bin_min": real,
    "bin_max": real,
    "bin_contains": real,
    "tokens": many(text, 1),
    "values": many(real, 1),
    "qualifying_token_index": whole,
}
FEATURE: Schema = {
    "feature_index": whole,
    "neuron_alignment_indices": many(whole),
    "neuron_alignment_values": many(real),
    "neuron_alignment_l1": many(real),
    "correlated_neurons_indices": many(whole),
    "correlated_neurons_l1": many(real),
    "correlated_neurons_pearson": many(real),
    "correlated_features_indices": many(whole),
    "correlated_features_l1": many(real),
    "correlated_features_pearson": many(real),
    "neg_str": many(text),
    "neg_values": many(real),
    "pos_str": many(text),
    "pos_values": many(real),
    "frac_nonzero": share,
    "freq_hist_data_bar_values": many(real),
    "freq_hist_data_bar_heights": many(real),
    "logits_hist_data_bar_heights": many(real),
    "logits_hist_data_bar_values": many(real),
    "n_prompts_total": whole,
    "n_tokens_in_prompt": whole,
    "dataset": text,
    "decoder_weights_dist": many(real),
    "activations": many(row(ACTIVATION)),
}
BATCH_FILE: Schema = {
    "model_id": text,
    "layer": whole,
    "sae_set": text,
    "sae_id_suffix": maybe(text),
    "features": many(row(FEATURE), 1),
}
SKIPPED_FILE: Schema = {
    "model_id": text,
    "layer": text,
    "sae_set": text,
    "log_sparsity": maybe(real),
    "skipped_indexes": many(whole),
}


def batch_file(source: Source, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The content of one batch-N.json."""
    return {
        "model_id": source.model_id,
        "layer": source.layer,
        "sae_set": source.set_name,
        "sae_id_suffix": None,
        "features": list(features),
    }


def feature(source: Source, reader: PeerFeatures, found: PeerFeature) -> dict[str, Any]:
    """A feature of a batch; correlations are left empty: they are found on demand, not for all."""
    tables = {
        name: value
        for name, value in found.tables.items()
        if name not in ("nearest_indices", "nearest_values")
    }
    return {
        "feature_index": found.number,
        **tables,
        **{
            f"correlated_{kind}_{part}": []
            for kind in ("neurons", "features")
            for part in ("indices", "l1", "pearson")
        },
        "frac_nonzero": found.fraction,
        "n_prompts_total": source.rows,
        "n_tokens_in_prompt": source.row_length,
        "dataset": source.dataset,
        "decoder_weights_dist": [],
        "activations": [
            {
                "bin_min": group.low,
                "bin_max": group.high,
                "bin_contains": group.share,
                "tokens": [reader.text(token) for token in window.ids],
                "values": window.dense(),
                "qualifying_token_index": window.peak,
            }
            for group in found.groups
            for window in group.windows
        ],
    }


def skipped_file(source: Source, skipped: Sequence[int]) -> dict[str, Any]:
    """The content of skipped_indexes.json: latents without a dashboard."""
    return {
        "model_id": source.model_id,
        "layer": str(source.layer),
        "sae_set": source.set_name,
        "log_sparsity": None,
        "skipped_indexes": list(skipped),
    }
