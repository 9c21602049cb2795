"""Running only the blocks behind a hook gives what a whole pass with the change gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mistudio.core.errors import Unsupported
from mistudio.ml.features.rerun import Rerun
from mistudio.ml.hooks import first_tensor, hook_place
from mistudio.ml.loading import LoadedModel
from tests.ml_steering.conftest import FAMILIES, WIDTH, loaded_model

LAYER = 1
HOOKS = ("resid_post", "mlp_out", "attn_out", "attn_z", "resid_pre", "resid_mid")
AT_ONCE = "neox"  # whose attention and MLP read the same stream
CASES = [(f, hook) for f in FAMILIES for hook in HOOKS if (f, hook) != (AT_ONCE, "resid_mid")]


def whole_pass(
    loaded: LoadedModel, layer: int, hook: str, ids_BS: torch.Tensor, delta_BSD: torch.Tensor
) -> torch.Tensor:
    """Logits of an ordinary pass with the change added at the hook."""

    def add(_module: Any, _inputs: Any, output: Any) -> Any:
        x = first_tensor(output)
        fresh = (x.view(*ids_BS.shape, -1) + delta_BSD).view_as(x)
        return (fresh, *output[1:]) if isinstance(output, tuple) else fresh

    def add_before(_module: Any, inputs: Any) -> Any:
        changed = (inputs[0].view(*ids_BS.shape, -1) + delta_BSD).view_as(inputs[0])
        return (changed, *inputs[1:])

    # the stream between attention and MLP moves with what attention gives
    module = hook_place(loaded, layer, "attn_out" if hook == "resid_mid" else hook).module
    if hook in ("attn_z", "resid_pre"):
        handle = module.register_forward_pre_hook(add_before)
    else:
        handle = module.register_forward_hook(add)
    try:
        with torch.inference_mode():
            return loaded.model(input_ids=ids_BS, use_cache=False).logits
    finally:
        handle.remove()


def some_ids(rows: int = 3, length: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(2, 400, (rows, length), generator=generator)


def logits_of(rerun: Rerun, end_RSE: torch.Tensor) -> torch.Tensor:
    return rerun.logits(end_RSE.flatten(0, 1)).view(*end_RSE.shape[:2], -1)


@pytest.mark.parametrize(("family", "hook"), CASES)
@pytest.mark.parametrize("start", [0, 5])
def test_a_repetition_equals_a_whole_pass(family: str, hook: str, start: int) -> None:
    loaded = loaded_model(family)
    try:
        rerun = Rerun(loaded, LAYER, hook, most_tokens=12)
    except Unsupported as refusal:
        # OPT has no module for its MLP whose output is what is added
        assert refusal.code == "hook_not_additive"  # noqa: PT017
        assert family == "opt"
        return
    ids_BS = some_ids()
    clean = rerun.clean(ids_BS)
    untouched_BSV = whole_pass(loaded, LAYER, hook, ids_BS, torch.zeros(1))
    torch.testing.assert_close(logits_of(rerun, clean.end_BSE), untouched_BSV)
    rows_R = torch.tensor([2, 0])
    delta_RSD = torch.zeros(2, 12, WIDTH)
    delta_RSD[:, start:] = torch.randn(
        2, 12 - start, WIDTH, generator=torch.Generator().manual_seed(1)
    )
    wanted = whole_pass(loaded, LAYER, hook, ids_BS[rows_R], delta_RSD)
    end = rerun.again(clean, rows_R, delta_RSD, start)
    if start and rerun.resumes:
        assert end.shape[1] == 12 - start
    got = logits_of(rerun, end[:, -(12 - start) :])
    torch.testing.assert_close(got, wanted[:, start:], rtol=1e-4, atol=1e-4)
    # the model is as it was
    again = whole_pass(loaded, LAYER, hook, ids_BS, torch.zeros(1))
    assert torch.equal(again, whole_pass(loaded, LAYER, hook, ids_BS, torch.zeros(1)))
    assert not any("forward" in vars(block) for block in loaded.blocks.modules)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_matrix_runs_on_chosen_positions_only(family: str) -> None:
    loaded = loaded_model(family)
    rerun = Rerun(loaded, LAYER, "resid_post", most_tokens=5)  # ends are put into rows of 5
    assert rerun.ends_early
    seen: list[int] = []
    matrix = loaded.blocks.unembedding
    assert matrix is not None
    ids_BS = some_ids()
    whole_BSV = whole_pass(loaded, LAYER, "resid_post", ids_BS, torch.zeros(1))
    handle = matrix.register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0].numel() // inputs[0].shape[-1])
    )
    clean = rerun.clean(ids_BS)
    assert seen == [3]  # one position of each row
    chosen = (torch.tensor([0, 0, 1, 2, 2, 2, 0]), torch.tensor([3, 11, 0, 5, 6, 7, 3]))
    got_TV = rerun.logits(clean.end_BSE[chosen])
    handle.remove()
    assert seen == [3, 8]  # seven positions in two rows
    torch.testing.assert_close(got_TV, whole_BSV[chosen], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2", "neox"])
def test_these_families_repeat_from_within_a_row(family: str) -> None:
    assert Rerun(loaded_model(family), LAYER, "resid_post").resumes


def test_a_cache_that_forgets_is_not_cut() -> None:
    gemma = loaded_model("gemma2")  # its sliding window is 16
    assert Rerun(gemma, LAYER, "resid_post", most_tokens=12).resumes
    rerun = Rerun(gemma, LAYER, "resid_post", most_tokens=24)
    assert not rerun.resumes
    ids_BS = some_ids(2, 24)
    delta_BSD = torch.zeros(2, 24, WIDTH)
    delta_BSD[:, 9:] = 0.5
    got = logits_of(rerun, rerun.again(rerun.clean(ids_BS), torch.arange(2), delta_BSD, 9))
    wanted = whole_pass(gemma, LAYER, "resid_post", ids_BS, delta_BSD)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_only_what_lies_behind_the_hook_runs() -> None:
    loaded = loaded_model("llama")
    rerun = Rerun(loaded, LAYER, "resid_post")
    clean = rerun.clean(some_ids())
    ran: list[int] = []
    handles = [
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))  # type: ignore[union-attr]
        for i, block in enumerate(loaded.blocks.modules)
    ]
    rerun.again(clean, torch.arange(3), torch.zeros(3, 12, WIDTH))
    for handle in handles:
        handle.remove()
    assert ran == [2]


@pytest.mark.parametrize("layer", [0, 2])
def test_first_and_last_layer(layer: int) -> None:
    loaded = loaded_model("llama")
    rerun = Rerun(loaded, layer, "resid_post")
    ids_BS = some_ids()
    clean = rerun.clean(ids_BS)
    delta_BSD = torch.ones(3, 12, WIDTH)
    got = logits_of(rerun, rerun.again(clean, torch.arange(3), delta_BSD))
    wanted = whole_pass(loaded, layer, "resid_post", ids_BS, delta_BSD)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_a_hook_that_adds_nothing_to_the_stream_is_refused() -> None:
    with pytest.raises(Unsupported, match="mlp_in cannot be ablated"):
        Rerun(loaded_model("llama"), LAYER, "mlp_in")


def test_a_model_whose_blocks_do_not_run_alone_is_refused(monkeypatch: Any) -> None:
    loaded = loaded_model("llama")
    block = loaded.blocks.modules[2]
    ran = {"times": 0}
    original = block.forward

    def moody(*inputs: Any, **named: Any) -> Any:
        ran["times"] += 1  # gives something else each time, as one that keeps a state would
        x = first_tensor(original(*inputs, **named)).clone()
        x[..., 0] += ran["times"]
        return x
        return first_tensor(original(*inputs, **named)) * ran["times"]

    monkeypatch.setattr(block, "forward", moody)
    with pytest.raises(Unsupported, match="do not give the model's own output"):
        Rerun(loaded, LAYER, "resid_post")
