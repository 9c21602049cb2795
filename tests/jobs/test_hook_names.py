"""Hook names of other programs, with the off-by-one of resid_pre."""

from __future__ import annotations

import pytest

from mistudio.jobs.sae_places import read_hook_name


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("blocks.3.hook_resid_post", (3, "resid_post")),
        ("blocks.3.hook_resid_pre", (2, "resid_post")),
        ("blocks.0.hook_mlp_out", (0, "mlp_out")),
        ("blocks.11.hook_attn_out", (11, "attn_out")),
        ("model.layers.9", (9, "resid_post")),
        ("transformer.h.4.mlp", (4, "mlp_out")),
        ("gpt_neox.layers.2.attention", (2, "attn_out")),
        ("model.layers.5.self_attn", (5, "attn_out")),
        ("model.layers.5.input_layernorm", (5, None)),
        ("blocks.3.attn.hook_z", (3, "attn_z")),
        ("model.layers.3.self_attn.o_proj.input", (3, "attn_z")),
        ("transformer.h.3.attn.c_proj.input", (3, "attn_z")),
        ("transformer.h.3.attn.attention.out_proj.input", (3, "attn_z")),
        ("gpt_neox.layers.3.attention.dense.input", (3, "attn_z")),
        ("model.layers.3.mlp.down_proj.input", (3, None)),
        ("blocks.3.ln2.hook_normalized", (3, "ln2.normalized")),
        ("layers.3", (3, "resid_post")),
        ("model.layers.3.output", (3, "resid_post")),
        ("model.layers.3.mlp.input", (3, "mlp_in")),
        ("model.layers.3.pre_feedforward_layernorm.output", (3, "mlp_in")),
        ("model.layers.3.post_feedforward_layernorm.output", (3, "mlp_out")),
        ("blocks.3.mlp.hook_in", (3, "mlp_in")),
        ("blocks.3.mlp.hook_out", (3, "mlp_out")),
        ("blocks.3.hook_mlp_in", (3, "mlp_in (the stream before the norm)")),
        ("gpt_neox.layers.3.mlp.input", (3, "mlp_in")),
        ("", (None, None)),
        ("embed", (None, None)),
        ("blocks.0.hook_resid_pre", (0, "resid_pre")),
        ("hook_embed", (0, "resid_pre")),
        ("blocks.3.hook_resid_mid", (3, "resid_mid")),
        ("model.layers.3.post_attention_layernorm.input", (3, "resid_mid")),
        ("model.layers.3.pre_feedforward_layernorm.input", (3, "resid_mid")),
        ("transformer.h.3.ln_2.input", (3, "resid_mid")),
        ("model.layers.0.input", (0, "resid_pre")),
        ("model.layers.3.input", (2, "resid_post")),
    ],
)
def test_a_name_means_one_place(name: str, found: tuple[int | None, str | None]) -> None:
    assert read_hook_name(name) == found
