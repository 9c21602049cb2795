"""Neuronpedia's bulk layout: rows, their fields, and how they are read.

Bulk: `{model}/{layer}-{set}/` holds release, model, sourceset and source `.jsonl` and, gzipped in
batches of 128 features, `features/`, `activations/` and `explanations/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from mistudio.core.errors import Damaged
from mistudio.ml.features.token_windows import WindowGroup
from mistudio.ml.formats.peer_features import PeerFeature, PeerFeatures, Source
from mistudio.ml.formats.row_schema import (
    Schema,
    flag,
    many,
    maybe,
    real,
    share,
    text,
    whole,
)

RELEASE: Schema = {
    "name": text,
    "description": text,
    "descriptionShort": maybe(text),
    "creatorName": text,
    "creatorNameShort": maybe(text),
    "creatorEmail": maybe(text),
    "creatorId": text,
    "visibility": text,
    "isNewUi": flag,
    "featured": flag,
    "urls": many(text),
    "defaultSourceSetName": maybe(text),
    "defaultSourceId": maybe(text),
    "defaultUmapSourceIds": many(text),
    "createdAt": text,
}
MODEL: Schema = {
    "id": text,
    "instruct": flag,
    "creatorId": text,
    "displayNameShort": text,
    "displayName": text,
    "tlensId": maybe(text),
    "dimension": maybe(whole),
    "visibility": text,
    "defaultSourceSetName": maybe(text),
    "defaultSourceId": maybe(text),
    "inferenceEnabled": flag,
    "layers": whole,
    "neuronsPerLayer": whole,
    "owner": text,
    "website": maybe(text),
    "createdAt": text,
    "updatedAt": text,
}
SOURCE_SET: Schema = {
    "modelId": text,
    "name": text,
    "creatorId": text,
    "hasDashboards": flag,
    "visibility": text,
    "description": text,
    "type": text,
    "creatorName": text,
    "creatorEmail": maybe(text),
    "urls": many(text),
    "releaseName": maybe(text),
    "defaultOfModelId": maybe(text),
    "defaultRange": whole,
    "defaultShowBreaks": flag,
    "showDfa": flag,
    "showCorrelated": flag,
    "showHeadAttribution": flag,
    "showUmap": flag,
    "createdAt": text,
}
SOURCE: Schema = {
    "id": text,
    "modelId": text,
    "setName": text,
    "creatorId": text,
    "hasDashboards": flag,
    "inferenceEnabled": flag,
    "inferenceHosts": many(text),
    "saelensConfig": maybe(text),
    "saelensRelease": maybe(text),
    "saelensSaeId": maybe(text),
    "hfRepoId": maybe(text),
    "hfFolderId": maybe(text),
    "visibility": text,
    "defaultOfModelId": maybe(text),
    "hasUmap": flag,
    "hasUmapLogSparsity": flag,
    "hasUmapClusters": flag,
    "num_prompts": maybe(whole),
    "num_tokens_in_prompt": maybe(whole),
    "dataset": maybe(text),
    "notes": maybe(text),
    "createdAt": text,
}
FEATURE: Schema = {
    "modelId": text,
    "layer": text,
    "index": text,
    "creatorId": text,
    "createdAt": text,
    "maxActApprox": real,
    "hasVector": flag,
    "vector": many(real),
    "vectorLabel": maybe(text),
    "vectorDefaultSteerStrength": maybe(real),
    "hookName": maybe(text),
    "topkCosSimIndices": many(whole),
    "topkCosSimValues": many(real),
    "neuron_alignment_indices": many(whole),
    "neuron_alignment_values": many(real),
    "neuron_alignment_l1": many(real),
    "correlated_neurons_indices": many(whole),
    "correlated_neurons_pearson": many(real),
    "correlated_neurons_l1": many(real),
    "correlated_features_indices": many(whole),
    "correlated_features_pearson": many(real),
    "correlated_features_l1": many(real),
    "neg_str": many(text),
    "neg_values": many(real),
    "pos_str": many(text),
    "pos_values": many(real),
    "frac_nonzero": share,
    "freq_hist_data_bar_heights": many(real),
    "freq_hist_data_bar_values": many(real),
    "logits_hist_data_bar_heights": many(real),
    "logits_hist_data_bar_values": many(real),
    "decoder_weights_dist": many(real),
    "sourceSetName": maybe(text),
}
ACTIVATION: Schema = {
    "id": text,
    "tokens": many(text, 1),
    "values": many(real, 1),
    "maxValue": real,
    "maxValueTokenIndex": whole,
    "minValue": real,
    "binMin": maybe(real),
    "binMax": maybe(real),
    "binContains": maybe(real),
    "qualifyingTokenIndex": maybe(whole),
    "dfaValues": many(real),
    "dfaTargetIndex": maybe(whole),
    "dfaMaxValue": maybe(real),
    "modelId": text,
    "layer": text,
    "index": text,
    "creatorId": text,
    "createdAt": text,
    "dataIndex": maybe(text),
    "dataSource": maybe(text),
    "lossValues": many(real),
    "logitContributions": maybe(text),
}
EXPLANATION: Schema = {
    "id": text,
    "modelId": text,
    "layer": text,
    "index": text,
    "description": text,
    "authorId": text,
    "typeName": maybe(text),
    "explanationModelName": maybe(text),
    "notes": maybe(text),
    "createdAt": text,
}


def head_rows(source: Source, instruct: bool, width: int | None) -> dict[str, dict[str, Any]]:
    """The one row of each of the four small files, by file name without ending."""
    made, who = source.created_at, source.creator
    release = f"{source.model_id}-{source.set_name}"
    told = f"Features found with miStudio on {source.dataset}, {source.hook_name}"
    return {
        "release": {
            **dict.fromkeys(RELEASE),
            "name": release,
            "description": told,
            "descriptionShort": told,
            "creatorName": who,
            "creatorNameShort": who,
            "creatorId": who,
            "visibility": "PRIVATE",
            "isNewUi": False,
            "featured": False,
            "urls": [],
            "defaultSourceSetName": source.set_name,
            "defaultSourceId": source.id,
            "defaultUmapSourceIds": [],
            "createdAt": made,
        },
        "model": {
            **dict.fromkeys(MODEL),
            "id": source.model_id,
            "instruct": instruct,
            "creatorId": who,
            "displayNameShort": source.model_id,
            "displayName": source.model_id,
            "dimension": width,
            "visibility": "PRIVATE",
            "inferenceEnabled": False,
            "layers": 0,
            "neuronsPerLayer": 0,
            "owner": who,
            "createdAt": made,
            "updatedAt": made,
        },
        "sourceset": {
            **dict.fromkeys(SOURCE_SET),
            "modelId": source.model_id,
            "name": source.set_name,
            "creatorId": who,
            "hasDashboards": True,
            "visibility": "PRIVATE",
            "description": told,
            "type": source.hook_name,
            "creatorName": who,
            "urls": [],
            "releaseName": release,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": False,
            "showHeadAttribution": False,
            "showUmap": False,
            "createdAt": made,
        },
        "source": {
            **dict.fromkeys(SOURCE),
            "id": source.id,
            "modelId": source.model_id,
            "setName": source.set_name,
            "creatorId": who,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "visibility": "PRIVATE",
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "num_prompts": source.rows,
            "num_tokens_in_prompt": source.row_length,
            "dataset": source.dataset,
            "createdAt": made,
        },
    }


HEADS: dict[str, Schema] = {
    "release": RELEASE,
    "model": MODEL,
    "sourceset": SOURCE_SET,
    "source": SOURCE,
}


def feature_row(source: Source, found: PeerFeature, vector: list[float]) -> dict[str, Any]:
    """A row of `features/`. Correlations are left empty: they are found on demand, not for all."""
    tables = dict(found.tables)
    nearest = tables.pop("nearest_indices"), tables.pop("nearest_values")
    return {
        "modelId": source.model_id,
        "layer": source.id,
        "index": str(found.number),
        "creatorId": source.creator,
        "createdAt": source.created_at,
        "maxActApprox": found.maximum,
        "hasVector": bool(vector),
        "vector": vector,
        "vectorLabel": None,
        "vectorDefaultSteerStrength": found.maximum if vector else None,
        "hookName": source.hook_name,
        "topkCosSimIndices": nearest[0],
        "topkCosSimValues": nearest[1],
        **{
            f"correlated_{kind}_{part}": []
            for kind in ("neurons", "features")
            for part in ("indices", "pearson", "l1")
        },
        "frac_nonzero": found.fraction,
        **tables,
        "decoder_weights_dist": [],
        "sourceSetName": source.set_name,
    }


class ActivationLines:
    """Lines of `activations/`, written by hand: there are dozens to a feature.

    Tokens come as JSON from the reader, without NUL; raises `Damaged` for a value that is no
    finite number, which JSON cannot hold.
    """

    def __init__(self, source: Source, reader: PeerFeatures, key: str) -> None:
        """`key` makes the ids of the rows: the same store gives the same ids."""
        self._reader, self._key, self._count = reader, key[:12].rjust(12, "0"), 0
        self._end = json.dumps(
            {
                "modelId": source.model_id,
                "layer": source.id,
                "creatorId": source.creator,
                "createdAt": source.created_at,
                "dfaValues": [],
                "dfaTargetIndex": None,
                "dfaMaxValue": None,
                "dataIndex": None,
                "dataSource": None,
                "lossValues": [],
                "logitContributions": None,
            },
            ensure_ascii=False,
        )[1:]

    def of(self, found: PeerFeature) -> list[str]:
        """The lines of a feature: the strongest examples, then those of each interval."""
        return [line for group in found.groups for line in self._group(found.number, group)]

    def _group(self, index: int, group: WindowGroup) -> list[str]:
        lines, texts = [], self._reader.json_texts.__getitem__
        # a sum over an infinity or a NaN is none of the finite numbers
        numbers = [value for window in group.windows for value in window.values]
        if not math.isfinite(sum(numbers, group.low + group.high + group.share)):
            raise Damaged(f"The activations of feature {index:,} hold values that are no numbers.")
        bins = f'"binMin":{group.low!r},"binMax":{group.high!r},"binContains":{group.share!r}'
        start, middle = f'{{"id":"c{self._key}', f'","index":"{index}","tokens":['
        bins, count = f',{bins},"qualifyingTokenIndex":', self._count
        for ids, places, active, peak in group.windows:
            count += 1
            values = ["0"] * len(ids)
            for at, value in zip(places, active, strict=True):
                values[at] = repr(value)
            most, place = max(active, default=0.0), 0
            if most > 0:
                place = places[active.index(most)]
            else:
                most = 0.0
            least = 0.0 if len(places) < len(ids) else min(active)
            lines.append(
                f"{start}{count:012x}{middle}{','.join(map(texts, ids))}],"
                f'"values":[{",".join(values)}],"maxValue":{most!r},"maxValueTokenIndex":{place},'
                f'"minValue":{least!r}{bins}{peak},{self._end}\n'
            )
        self._count = count
        return lines


def explanation_row(source: Source, index: int, label: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `explanations/` from a label: id, text, source, method, model, created_at."""
    return {
        "id": label["id"],
        "modelId": source.model_id,
        "layer": source.id,
        "index": str(index),
        "description": label["text"].replace("\0", " "),
        "authorId": source.creator,
        "typeName": label["method"] or label["source"],
        "explanationModelName": label["model"],
        "notes": None if label["score"] is None else f"score {label['score']!r}",
        "createdAt": label["created_at"],
    }
