"""The exported script in a clean interpreter gives the greedy text of a hook in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.paths import resources
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.steering.snippet import (
    Positions,
    SnippetFeature,
    SnippetHook,
    SnippetSpec,
    write_snippet,
)
from tests.helpers.tiny import tiny_loaded
from tests.ml_steering.conftest import random_sae

PROMPT = "Every morning the fox went out"
NEW = 12


def in_clean_interpreter(script: Path, folder: Path) -> list[int]:
    """Run it with the installed packages only; -I keeps this checkout off the path."""
    code = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--ids']; "
        "runpy.run_path(sys.argv[0], run_name='__main__'); "
        "assert not [name for name in sys.modules if name.startswith('mistudio')]"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(script)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def greedy(
    loaded: LoadedModel,
    edits: dict[int, Callable[[torch.Tensor], torch.Tensor]],
    allowed: Callable[[torch.Tensor, int], torch.Tensor],
) -> list[int]:
    """Greedy ids without a cache: the whole text goes through the model for each token."""
    ids = loaded.tokenizer(PROMPT)["input_ids"]
    length = len(ids)
    handles = []
    for layer, edit in edits.items():

        def hook(_m: object, _i: object, out: object, edit=edit) -> object:
            x = out[0] if isinstance(out, tuple) else out
            may = allowed(torch.arange(x.shape[1]), length)
            may &= torch.tensor([i not in (0, 1) for i in ids])
            changed = torch.where(may[:, None], x[0] + edit(x[0]), x[0])[None]
            return (changed, *out[1:]) if isinstance(out, tuple) else changed

        handles.append(loaded.blocks.modules[layer].register_forward_hook(hook))
    try:
        for _ in range(NEW):
            with torch.no_grad():
                token = int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == loaded.tokenizer.eos_token_id:
                break
            ids = [*ids, token]
    finally:
        for handle in handles:
            handle.remove()
    return ids[length:]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return tiny_loaded(tmp_path_factory.mktemp("model"), add_bos=True)


def spec_of(
    loaded: LoadedModel, hooks: tuple[SnippetHook, ...], positions: Positions
) -> SnippetSpec:
    return SnippetSpec(
        str(loaded.path.resolve()),
        hooks,
        PROMPT,
        NEW,
        positions=positions,
        skip_ids=(0, 1),
        end_ids=(loaded.tokenizer.eos_token_id,),
    )


def expected_delta(sae: SparseAutoencoder, vector: torch.Tensor) -> Callable[..., torch.Tensor]:
    """Each operator written out, from one whole encode."""

    def delta(x: torch.Tensor) -> torch.Tensor:
        f, d = sae.encode(x), sae.W_dec_FO
        total = vector + 1.5 * d[3]
        total = total + (4.0 - f[:, 7, None]) * d[7]
        total = total + 2.0 * f[:, 9, None] * d[9]
        total = total - f[:, 11, None] * d[11]
        basis = torch.linalg.qr(d[[20, 30]].T.double())[0]
        return total - (x.double() @ basis @ basis.T).float()

    return delta


EVERY = (
    SnippetFeature(11, "ablate"),
    SnippetFeature(3, "add", 1.5),
    SnippetFeature(30, "directional_ablate"),
    SnippetFeature(7, "clamp", 4.0),
    SnippetFeature(9, "multiply", 3.0),
    SnippetFeature(20, "directional_ablate"),
)


def test_every_operator_at_two_layers(tiny: LoadedModel, tmp_path: Path) -> None:
    """TopK at one block, JumpReLU at another, generated tokens only."""
    vector = torch.randn(32, generator=torch.Generator().manual_seed(0))
    topk = random_sae()
    jump = SparseAutoencoder(
        topk.W_enc_DF, topk.b_enc_F + 0.1, topk.W_dec_FO, topk.b_dec_O + 0.2, "jumprelu",
        threshold_F=torch.full((40,), 0.5),
    )  # fmt: skip
    hooks = (
        SnippetHook("model.layers.1", vector, topk, EVERY),
        SnippetHook("model.layers.2", 2 * vector, jump, EVERY),
    )
    script = write_snippet(tmp_path / "out", spec_of(tiny, hooks, Positions("generated")))
    edits = {1: expected_delta(topk, vector), 2: expected_delta(jump, 2 * vector)}
    expected = greedy(tiny, edits, lambda position, length: position >= length)
    assert in_clean_interpreter(script, tmp_path) == expected
    assert expected != greedy(tiny, {}, lambda position, length: position >= 0)
    assert expected != greedy(tiny, edits, lambda position, length: position >= 0)
    assert sorted(p.name for p in script.parent.iterdir()) == ["steer.py", "steering.safetensors"]


def test_the_bundled_sample_along_a_vector(tmp_path: Path) -> None:
    loaded = load_model(resources() / "sample" / "model", torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    vector = 8 * torch.randn(loaded.hidden_dim, generator=generator)
    hooks = (SnippetHook(f"{loaded.blocks.path}.2", vector),)
    script = write_snippet(tmp_path / "out", spec_of(loaded, hooks, Positions("range", 1, 9)))
    rule = lambda position, length: (position >= 1) & (position < 9)  # noqa: E731
    expected = greedy(loaded, {2: lambda _x: vector}, rule)
    assert in_clean_interpreter(script, tmp_path) == expected
    assert expected != greedy(loaded, {}, rule)


def test_specs_that_cannot_be_written(tiny: LoadedModel, tmp_path: Path) -> None:
    sae = random_sae()

    def write(*features: SnippetFeature, rule: str = "all") -> None:
        hooks = (SnippetHook("model.layers.1", None, sae, features),)
        write_snippet(tmp_path / "out", spec_of(tiny, hooks, Positions(rule)))

    with pytest.raises(InvalidInput, match="Nothing is steered"):
        write()
    with pytest.raises(InvalidInput, match="named twice"):
        write(SnippetFeature(1), SnippetFeature(1, "ablate"))
    with pytest.raises(Unsupported, match="'swap'"):
        write(SnippetFeature(1, "swap"))
    with pytest.raises(InvalidInput, match="does not exist"):
        write(SnippetFeature(40))
    with pytest.raises(InvalidInput, match="position rule"):
        write(SnippetFeature(1), rule="odd")
    assert not list(tmp_path.iterdir())


def test_a_prompt_cannot_break_out_of_its_place(tiny: LoadedModel, tmp_path: Path) -> None:
    hooks = (SnippetHook("model.layers.1", torch.ones(32)),)
    text = 'end """ + \'x\' \n HOOKS = ...\n \\'
    spec = SnippetSpec("m", hooks, text)
    script = write_snippet(tmp_path / "out", spec).read_text(encoding="utf-8")
    found: dict[str, object] = {}
    for line in script.splitlines():
        if line.startswith(("PROMPT = ", "MODEL = ")):
            exec(line, found)
    assert found["PROMPT"] == text
    compile(script, "steer.py", "exec")
