"""Reads the weights of a model from its files, quantised on the way if that is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, modeling_gguf_pytorch_utils
from transformers.utils import logging as transformers_logging

from mistudio.core.errors import (
    Cancelled,
    Damaged,
    OutOfMemory,
    StudioError,
    means_out_of_memory,
)
from mistudio.core.memory import BYTES_PER_WEIGHT, QUANTISED, next_smaller
from mistudio.core.units import format_bytes
from mistudio.ml.device import half_dtype, memory_of
from mistudio.ml.facts import ModelFacts, quiet_transformers
from mistudio.ml.quantization import (
    leave_unpacked,
    quantisation_config,
    quantise_in_place,
    silence_bitsandbytes,
)

transformers_logging.disable_progress_bar()

TORCH_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

Step = Callable[[float], None]
"""called with the share that is done, often; may raise to end the work"""


def no_step(_done: float) -> None:
    """A step that nobody follows."""


def read_weights(
    path: Path, facts: ModelFacts, form: str, device: torch.device, step: Step = no_step
) -> Any:
    """The model on the device in a concrete format, in eval mode, without gradients.

    Raises `Damaged` if the weights are not those of the configuration and `OutOfMemory` if the
    device is too small.
    """
    _refuse_without_room(facts, form, device)
    try:
        model = _read(path, facts, form, device, step)
        model.requires_grad_(False)
        model.eval()
        if form not in QUANTISED:
            model.to(device)
    except (MemoryError, RuntimeError) as error:
        if not means_out_of_memory(error):
            raise
        raise _out_of_memory(facts, form, details=str(error)) from error
    return model


def _read(path: Path, facts: ModelFacts, form: str, device: torch.device, step: Step) -> Any:
    gguf = facts.origin == "gguf"
    quantised = form in QUANTISED
    how: dict[str, Any] = {"gguf_file": path.name} if gguf else {"use_safetensors": True}
    if quantised:
        silence_bitsandbytes()
        if not gguf:
            how["device_map"] = {"": str(device) if device.type == "cpu" else device}
            if not facts.prequantised:
                how["quantization_config"] = quantisation_config(form, device)
    try:
        with quiet_loading(step):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent if gguf else path,
                dtype=half_dtype(device) if quantised else TORCH_TYPES[form],
                trust_remote_code=facts.needs_code,
                local_files_only=True,
                output_loading_info=True,
                **how,
            )
    except (Cancelled, StudioError):
        raise
    except Exception as error:
        if means_out_of_memory(error):
            raise
        raise Damaged(
            f"The weights of {facts.name} do not fit its configuration; get the model again.",
            details=str(error),
        ) from error
    model, loading_report = loaded
    missing = sorted(loading_report["missing_keys"])
    if missing:
        raise Damaged(
            f"The weights of {facts.name} are incomplete: {len(missing)} tensors are missing.",
            details=", ".join(missing[:20]),
        )
    if gguf:
        _forget_quantisation(model)
        if quantised:
            quantise_in_place(model, form, device, step)
            model.to(device)
    elif quantised:
        leave_unpacked(model)
    return model


def _refuse_without_room(facts: ModelFacts, form: str, device: torch.device) -> None:
    """A machine that runs out of memory ends the program, so what cannot fit is not begun.

    Counts all weights in the format, which is less than what is needed in the end.
    """
    least = round(facts.params_count * BYTES_PER_WEIGHT[form])
    free, _total = memory_of(device)
    if least > free:
        raise _out_of_memory(facts, form, free=free)


def _out_of_memory(
    facts: ModelFacts, form: str, *, free: int | None = None, details: str = ""
) -> OutOfMemory:
    needed = format_bytes(facts.params_count * BYTES_PER_WEIGHT[form])
    room = f", {format_bytes(free)} are free" if free is not None else " and does not fit"
    smaller = next_smaller(form)
    advice = f"Load it in {smaller.upper()}, or free" if smaller else "Free"
    return OutOfMemory(
        f"{facts.name} needs more than {needed} in {form.upper()}{room}. {advice} memory.",
        details=details,
    )


def _forget_quantisation(model: nn.Module) -> None:
    """The weights are plain floats after loading, although transformers calls them quantised."""
    for owner, name in (
        (getattr(model, "config", None), "quantization_config"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if owner is not None and name in vars(owner):
            delattr(owner, name)
    vars(model)["is_quantized"] = False


class _Bar:
    """Stands for a progress bar: counts what is taken from it and tells nobody but `step`."""

    def __init__(self, step: Step, items: Iterable[Any] | None, total: int | None) -> None:
        self._step = step
        self._items = items
        known = cast(Any, items)
        self._total = total or (len(known) if hasattr(known, "__len__") else 0)
        self._done = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items or ():
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self._done += count
        self._step(min(1.0, self._done / self._total) if self._total else 0.0)

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args, **_named: None


@contextmanager
def quiet_loading(step: Step = no_step) -> Iterator[None]:
    """No advice on the log, no Python warnings, no progress bar on the terminal.

    The bars that the libraries would show call `step` instead, once per tensor.
    """

    def bar(
        items: Iterable[Any] | None = None, *_: Any, total: int | None = None, **__: Any
    ) -> Any:
        return _Bar(step, items, total)

    def hook(_factory: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return bar(*positional, **named)

    reader: Any = modeling_gguf_pytorch_utils
    gguf_bar = reader.tqdm
    reader.tqdm = bar
    set_hook = getattr(transformers_logging, "set_tqdm_hook", lambda _hook: None)
    before = set_hook(hook)
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        set_hook(before)
        reader.tqdm = gguf_bar
