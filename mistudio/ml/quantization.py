"""Weights of 8 and 4 bits by bitsandbytes: whether that works here, and how layers become such.

The library can import and then fail at its first kernel (a GPU that its binaries hold no code
for), so a device is judged by one small product before any model is loaded.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mistudio.core.memory import QUANTISED
from mistudio.core.model_configs import format_of
from mistudio.ml.device import half_dtype

log = logging.getLogger(__name__)

PROBE_SIDE = 32
BLOCK_4BIT = 64  # values that share a scale in 4 bit
PACKED_ROWS = 32  # outputs that a processor's 4-bit kernel takes together
PROBE_BLOCK = BLOCK_4BIT  # also the least rows tried
_PROBE_ERROR = {"int8": 0.05, "nf4": 0.25, "fp4": 0.35}  # relative; a broken kernel is far off


def working_format(form: str, device: torch.device) -> tuple[str, str]:
    """The format to load in, and a sentence if it is another one than asked for.

    A quantised format whose kernels fail on this device becomes the device's 16-bit one.
    """
    if form not in QUANTISED or not probe_failure(form, device):
        return form, ""
    half = format_of(str(half_dtype(device)).removeprefix("torch."))
    bits = "8-bit" if form == "int8" else "4-bit"
    return half, f"{bits} does not work on this device; {half.upper()} is used."


def probe_failure(form: str, device: torch.device) -> str:
    """Why a quantised format does not work on a device, "" if it does; asked once per process."""
    return _probe(form, str(device))


@functools.cache
def _probe(form: str, device: str) -> str:
    try:
        silence_bitsandbytes()
        error = _probe_error(form, torch.device(device))
    except Exception as failure:  # noqa: BLE001  # the library raises anything, ImportError to RuntimeError
        log.warning("%s does not work on %s: %s", form, device, failure)
        return f"{type(failure).__name__}: {failure}"
    if not error <= _PROBE_ERROR[form]:
        log.warning("%s is wrong on %s: relative error %.3g", form, device, error)
        return f"The product of a probe is off by {100 * error:.0f} %."
    return ""


def _probe_error(form: str, device: torch.device) -> float:
    """Relative error of one quantised 32 × 64 layer on 32 rows."""
    generator = torch.Generator().manual_seed(0)
    half = half_dtype(device)
    linear = nn.Linear(PROBE_BLOCK, PROBE_SIDE, bias=False, dtype=half)
    x_BD = torch.randn(PROBE_SIDE, PROBE_BLOCK, generator=generator).to(device, half)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(PROBE_SIDE, PROBE_BLOCK, generator=generator))
        wanted_BF = x_BD.float() @ linear.weight.to(device).float().T
        # in eval mode, in which a CPU may use a kernel of its own
        got_BF = quantised_linear(linear, form, device).eval()(x_BD).float()
        return float((got_BF - wanted_BF).norm() / wanted_BF.norm())


def quantisation_config(form: str, device: torch.device) -> Any:
    """What makes transformers quantise while it loads: double quantisation, 16-bit arithmetic."""
    from transformers import BitsAndBytesConfig

    if form == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=form,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=half_dtype(device),
    )


def quantised_linear(linear: nn.Linear, form: str, device: torch.device) -> nn.Module:
    """A linear layer of that format on the device, with the given one's weights."""
    import bitsandbytes

    bnb: Any = bitsandbytes  # its modules assign what their annotations do not allow
    has_bias = linear.bias is not None
    new: Any
    if form == "int8":
        new = bnb.nn.Linear8bitLt(
            linear.in_features,
            linear.out_features,
            has_bias,
            has_fp16_weights=False,
            threshold=6.0,
            device="meta",
        )
        new.weight = bnb.nn.Int8Params(
            linear.weight.data, requires_grad=False, has_fp16_weights=False
        )
    else:
        new = bnb.nn.Linear4bit(
            linear.in_features,
            linear.out_features,
            has_bias,
            half_dtype(device),
            compress_statistics=True,
            quant_type=form,
            device="meta",
        )
        new.weight = bnb.nn.Params4bit(
            linear.weight.data,
            requires_grad=False,
            compress_statistics=True,
            quant_type=form,
            module=new,
        )
    if has_bias:
        new.bias = nn.Parameter(linear.bias.data, requires_grad=False)
    new.weight = new.weight.to(device)
    leave_unpacked(new)
    if has_bias:
        new.bias = nn.Parameter(new.bias.data.to(device), requires_grad=False)
    return new


def leave_unpacked(model: nn.Module) -> None:
    """Keep 4-bit layers of odd sizes as they are stored.

    On processors with bf16 arithmetic bitsandbytes packs the weights anew before their first use on
    the CPU, and breaks on sizes that its kernel does not take.
    """
    for module in model.modules():
        if not getattr(module, "support_avx512bf16_for_cpu", False):
            continue
        layer: Any = module
        block = getattr(getattr(layer.weight, "quant_state", None), "blocksize", BLOCK_4BIT)
        if layer.in_features % block or layer.out_features % PACKED_ROWS:
            layer.support_avx512bf16_for_cpu = False


def quantise_in_place(
    model: nn.Module,
    form: str,
    device: torch.device,
    step: Callable[[float], None] = lambda _done: None,
) -> None:
    """Quantise every linear layer but the output matrix, one after the other, on the device.

    For weights that cannot be quantised while they are read (GGUF). `step` gets the share done.
    """
    skipped = getattr(model, "get_output_embeddings", lambda: None)()
    linears = [
        (name, module)
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or is_transposed_linear(module)) and module is not skipped
    ]
    for done, (name, module) in enumerate(linears):
        step(done / len(linears))
        model.set_submodule(name, quantised_linear(_as_linear(module), form, device))


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether a module is GPT-2's kind of linear layer, whose weight is [in, out]."""
    return type(module).__name__ == "Conv1D"


def _as_linear(module: Any) -> nn.Linear:
    if not is_transposed_linear(module):
        return module
    rows, columns = module.weight.shape
    linear = nn.Linear(rows, columns, device="meta")
    linear.weight = nn.Parameter(module.weight.data.T.contiguous(), requires_grad=False)
    linear.bias = nn.Parameter(module.bias.data, requires_grad=False)
    return linear


def quantised_format(model: nn.Module) -> str:
    """The format of the first quantised layer, "" if there is none."""
    for parameter in model.parameters():
        kind = type(parameter).__name__
        if kind == "Int8Params":
            return "int8"
        if kind == "Params4bit":
            return str(getattr(parameter, "quant_type", "nf4"))
    return ""


def linear_weights(module: Any) -> int:
    """Weights of one linear layer, packed or not."""
    return int(module.in_features) * int(module.out_features)


def parameter_count(parameter: Any) -> int:
    """Weights that a parameter stands for; two 4-bit ones share a byte."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None)
    if shape is not None:
        return int(torch.Size(shape).numel())
    return int(parameter.numel())


def parameter_shape(parameter: Any) -> list[int]:
    """The shape that a parameter stands for, packed or not."""
    state = getattr(parameter, "quant_state", None)
    shape = getattr(state, "shape", None)
    return list(shape) if shape is not None else list(parameter.shape)


def memory_bytes(model: nn.Module) -> int:
    """Bytes of parameters, buffers and quantisation scales; shared tensors count once."""
    seen: dict[int, int] = {}

    def add(tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            seen[tensor.data_ptr() or id(tensor)] = tensor.numel() * tensor.element_size()

    for tensor in (*model.parameters(), *model.buffers()):
        add(tensor)
        add(getattr(tensor, "SCB", None))
        _add_state(getattr(tensor, "quant_state", None), add)
    for module in model.modules():
        state = getattr(module, "state", None)  # of an 8-bit layer, after its first forward pass
        add(getattr(state, "SCB", None))
        add(getattr(state, "CB", None))
    return sum(seen.values())


def _add_state(state: Any, add: Callable[[Any], None]) -> None:
    if state is None:
        return
    for name in ("absmax", "code", "offset"):
        add(getattr(state, name, None))
    _add_state(getattr(state, "state2", None), add)


@torch.no_grad()
def plain_weight(module: Any) -> torch.Tensor:
    """The weight [out, in] of a linear layer as numbers, dequantised if need be."""
    weight = module.weight
    if type(weight).__name__ not in ("Int8Params", "Params4bit"):
        return weight
    if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
        # After a forward pass on a CPU 4-bit weights lie in the order of the processor's kernel,
        # which alone can read them: it is asked for one column after the other.
        eye = torch.eye(module.in_features, dtype=torch.bfloat16, device=weight.device)
        columns = module(eye)
        return (columns if module.bias is None else columns - module.bias).T
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    return dequantize_bnb_weight(weight, getattr(module, "state", None))


def silence_bitsandbytes() -> None:
    """8-bit layers log a warning on every forward pass that inputs are cast; hold those back."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
