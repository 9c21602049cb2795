"""From the engine's specification to that of a script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mistudio.core.errors import Unsupported
from mistudio.core.memory import QUANTISED
from mistudio.core.steering_spec import Spec
from mistudio.ml.hooks import hook_path
from mistudio.ml.loading import LoadedModel
from mistudio.ml.quantization import quantisation_config
from mistudio.ml.steering.generate import end_ids
from mistudio.ml.steering.positions import ranges_of
from mistudio.ml.steering.snippet import SnippetHook, SnippetSpec
from mistudio.ml.steering.sources import Library
from mistudio.ml.steering.steered_model import SteeredModel
from mistudio.ml.steering.variants import GenerationRequest, continuation_of

_OPEN_RULES = ("all", "prompt", "generated", "last")  # mean the same for every prompt
_STEERED = "steered"


class Origin(NamedTuple):
    """Where a script gets the model from: a repository with its revision, else a folder or file."""

    repo: str = ""
    revision: str = ""


def snippet_spec(
    loaded: LoadedModel,
    spec: Spec,
    library: Library,
    request: GenerationRequest,
    origin: Origin | None = None,
) -> SnippetSpec:
    """What a script needs to write the greedy text of `spec` for the first prompt of a request.

    Units are resolved to numbers, rules to tokens. Raises as `SteeredModel`, `read_prompt` and
    `ranges_of`, and `Unsupported`, naming the part, for what a script cannot do.
    """
    if spec.abort is not None:
        raise Unsupported(
            "A script cannot end the text where a feature is above a level (abort); leave that out."
        )
    steered = SteeredModel(loaded, {_STEERED: spec}, library)
    continuation = continuation_of(steered, request)
    prompt, drawn = continuation.prompts[0], request.sampling
    rule = spec.positions
    is_open = rule.rule in _OPEN_RULES
    is_about = rule.rule in ("text", "regex", "role")
    return SnippetSpec(
        **_model(loaded, origin or Origin()),
        hooks=tuple(
            SnippetHook(hook_path(loaded, *site.place), site) for site in steered.prepared.sites
        ),
        prompt=request.prompts[0],
        variant=steered.index(_STEERED),
        max_tokens=continuation.max_tokens,
        rule=rule.rule if is_open else "ranges",
        ranges=() if is_open else ranges_of(rule, prompt),
        about=rule.written() if is_about else "",
        steers_sinks=rule.sinks,
        skip_ids=() if rule.special else tuple(steered.special),
        end_ids=tuple(end_ids(loaded)),
        norm=spec.norm,
        cap=spec.cap,
        is_chat=request.chat,
        is_cached=steered.cached,
        repetition_penalty=drawn.repetition_penalty,
        presence_penalty=drawn.presence_penalty,
        frequency_penalty=drawn.frequency_penalty,
        stop=request.stop,
    )


def _model(loaded: LoadedModel, origin: Origin) -> Mapping[str, Any]:
    """How a script loads the model in the same precision."""
    facts = loaded.facts
    path = Path(loaded.path).resolve()
    loading: dict[str, Any] = {}
    is_gguf = getattr(facts, "origin", "folder") == "gguf"
    if is_gguf:
        loading["gguf_file"] = path.name
        if loaded.format in QUANTISED:
            raise Unsupported(
                f"{facts.name} is a GGUF file that was quantised to {loaded.format.upper()} after "
                "it was read, which a script cannot do; load it in 16 or 32 bit."
            )
    elif origin.repo and origin.revision:
        loading["revision"] = origin.revision
    if getattr(facts, "needs_code", False):
        loading["trust_remote_code"] = True
    is_prequantised = bool(getattr(facts, "prequantised", ""))
    quantised: dict[str, Any] = {}
    if loaded.format in QUANTISED and not is_prequantised:
        made = quantisation_config(loaded.format, loaded.device).to_diff_dict()
        quantised = {name: value for name, value in made.items() if not name.startswith("_")}
    return {
        "model": origin.repo
        if origin.repo and not is_gguf
        else str(path.parent if is_gguf else path),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "loading": loading,
        "quantised": quantised,
        "is_prequantised": is_prequantised,
    }
