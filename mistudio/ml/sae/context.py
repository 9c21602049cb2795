"""What a temporal SAE expects of a token from those before it (arXiv 2511.01836).

A layer of attention goes from the latents of earlier tokens to those that it expects of this one.
They say in what direction the token lies, and the token itself how far. Only what they leave over
is read by latents of its own. The operations and their order are those of SAELens 6.54.12.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch.nn import functional

from mistudio.core.errors import InvalidInput, Mismatch, Unsupported


@dataclass(frozen=True)
class Attention:
    """A layer from F latents to F expected ones; keys and queries are E wide, all heads together.

    Weights are as `torch.nn.functional.linear` takes them.
    """

    key_EF: torch.Tensor
    key_bias_E: torch.Tensor
    query_EF: torch.Tensor
    query_bias_E: torch.Tensor
    value_FF: torch.Tensor
    value_bias_F: torch.Tensor
    out_FF: torch.Tensor
    out_bias_F: torch.Tensor

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All of it, in the order of the fields."""
        return [getattr(self, each.name) for each in fields(self)]

    def __call__(self, f_BSF: torch.Tensor, heads: int) -> torch.Tensor:
        """Expected latents [B, S, F]: a token's query meets the keys of those before it, and one
        of no latents at all, which stands before the first."""
        before_BSF = torch.cat((torch.zeros_like(f_BSF[:, :1]), f_BSF[:, :-1]), dim=1)

        def of_heads(weight: torch.Tensor, bias: torch.Tensor, f: torch.Tensor) -> torch.Tensor:
            return functional.linear(f, weight, bias).unflatten(-1, (heads, -1)).transpose(1, 2)

        mixed_BHSF = functional.scaled_dot_product_attention(
            of_heads(self.query_EF, self.query_bias_E, f_BSF),
            of_heads(self.key_EF, self.key_bias_E, before_BSF),
            of_heads(self.value_FF, self.value_bias_F, before_BSF),
            is_causal=True,
        )
        mixed_BSF = mixed_BHSF.transpose(1, 2).contiguous().flatten(2)
        return functional.linear(mixed_BSF, self.out_FF, self.out_bias_F).relu_()


@dataclass(frozen=True)
class Context:
    """How a temporal SAE reads a token: what its layers expect is taken out of it, the rest is
    multiplied by `factor` and encoded. `least` is added to a length before it divides.

    Raises `InvalidInput` for other numbers.
    """

    layers: tuple[Attention, ...]
    heads: int
    factor: float
    least: float = 1e-6

    def __post_init__(self) -> None:
        for layer in self.layers:
            if self.heads < 1 or any(size % self.heads for size in layer.key_EF.shape):
                raise InvalidInput(
                    f"{layer.key_EF.shape[1]:,} latents and keys of width "
                    f"{layer.key_EF.shape[0]:,} cannot be shared out among {self.heads:,} heads."
                )

    def check(self, latents: int) -> None:
        """Raise `Mismatch` unless every layer goes from so many latents to as many."""
        for layer in self.layers:
            keys = layer.key_EF.shape[0]
            wanted = {
                "key": ((keys, latents), (keys,)),
                "query": ((keys, latents), (keys,)),
                "value": ((latents, latents), (latents,)),
                "out": ((latents, latents), (latents,)),
            }
            shapes = [shape for pair in wanted.values() for shape in pair]
            for each, tensor, shape in zip(fields(layer), layer.tensors, shapes, strict=True):
                if tuple(tensor.shape) != shape:
                    raise Mismatch(
                        f"The SAE's {each.name.rpartition('_')[0]} has shape "
                        f"{tuple(tensor.shape)} instead of {shape}."
                    )

    def to(self, device: torch.device | str) -> Context:
        """A copy whose tensors are on `device`."""
        moved = (Attention(*(t.to(device) for t in layer.tensors)) for layer in self.layers)
        return replace(self, layers=tuple(moved))

    def divided(self, scale: float) -> Context:
        """That of x for one of scale * x, whose decoder rows are divided by the scale."""
        return replace(self, least=self.least / scale)

    def expected(
        self, z_BSD: torch.Tensor, W_enc_DF: torch.Tensor, W_dec_FD: torch.Tensor
    ) -> torch.Tensor:
        """What is expected of tokens [B, S, D] from which b_dec is subtracted already.

        Each layer reads what those before it left over. The direction comes from earlier tokens
        alone, the length is the token's own along it.
        """
        left_BSD, found_BSD = z_BSD, torch.zeros_like(z_BSD)
        for layer in self.layers:
            f_BSF = functional.relu((left_BSD * self.factor) @ W_enc_DF)
            given_BSD = layer(f_BSF, self.heads) @ W_dec_FD
            length_BS1 = given_BSD.norm(dim=-1, keepdim=True) + self.least
            along_BS1 = (given_BSD * left_BSD).sum(dim=-1, keepdim=True) / length_BS1.pow(2)
            found_BSD = found_BSD + along_BS1 * given_BSD
            left_BSD = left_BSD - along_BS1 * given_BSD
        return found_BSD


def refuse_single_tokens(architecture: str, what: str) -> None:
    """Raise `Unsupported` if SAEs of this architecture read tokens by those before them."""
    if architecture == "temporal":
        raise Unsupported(
            f"A temporal SAE reads each token by those before it, so that {what}.",
            code="needs_context",
        )
