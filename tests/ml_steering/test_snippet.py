"""The exported script in a clean interpreter writes the greedy text of the engine in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mistudio.core.control import JobControl
from mistudio.core.errors import InvalidInput, Unsupported
from mistudio.core.events import SilentReporter
from mistudio.core.paths import resources
from mistudio.core.steering_operators import OPERATORS
from mistudio.core.steering_positions import parse_positions
from mistudio.core.steering_spec import Spec, parse_edits
from mistudio.core.steering_words import parse_condition, parse_norm
from mistudio.ml.loading import LoadedModel, load_model
from mistudio.ml.sae.base import SparseAutoencoder
from mistudio.ml.sae.matching_pursuit import Pursuit
from mistudio.ml.steering.generate import generate
from mistudio.ml.steering.sampling import SamplingSettings
from mistudio.ml.steering.snippet import INLINE_BYTES, make_snippet, write_snippet
from mistudio.ml.steering.snippet_script import FORMULAS
from mistudio.ml.steering.snippet_spec import Origin, snippet_spec
from mistudio.ml.steering.sources import Library, Place, PlacedSae, Vector
from mistudio.ml.steering.steered_model import SteeredModel
from mistudio.ml.steering.variants import GenerationRequest, compare_variants, continuation_of

PROMPT = "And the king said unto the people of the land"
NEW = 24
PURSUIT = Pursuit(1.0, 20)
RUN_ALL = """
import contextlib, io, json, runpy, sys
from pathlib import Path
# an editable installation puts its checkout on the path
sys.path[:] = [one for one in sys.path if not (Path(one) / "mistudio/cli.py").exists()]
for script in sys.argv[1:]:
    out = io.StringIO()
    sys.argv = [script, "--ids"]
    with contextlib.redirect_stdout(out):
        runpy.run_path(script, run_name="__main__")
    print("IDS", out.getvalue().strip())
assert not [name for name in sys.modules if name.startswith("mistudio")]
try:
    import mistudio.core.errors
except ImportError:
    print("CLEAN")
"""


def in_clean_interpreter(scripts: Sequence[Path], folder: Path) -> list[list[int]]:
    """What each script writes, with the installed packages only."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", RUN_ALL, *map(str, scripts)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HOME": str(folder), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "CLEAN" in lines, "the program itself can be imported there"
    return [json.loads(line[4:]) for line in lines if line.startswith("IDS ")]


@pytest.fixture(scope="module")
def sample() -> LoadedModel:
    return load_model(resources() / "sample" / "model", torch.device("cpu"))


def random_sae(width: int, architecture: str) -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(len(architecture))
    W_dec_FO = torch.randn(64, width, generator=generator)
    W_dec_FO /= W_dec_FO.norm(dim=1, keepdim=True)
    is_jump = architecture == "jumprelu"
    return SparseAutoencoder(
        W_dec_FO.T.contiguous(),
        0.1 * torch.randn(64, generator=generator),
        W_dec_FO,
        0.2 * torch.randn(width, generator=generator),
        architecture,
        k=None if is_jump else 32,
        threshold_F=torch.full((64,), 0.3) if is_jump else None,
    )


def pursuing(sae: SparseAutoencoder, pursuit: Pursuit = PURSUIT) -> SparseAutoencoder:
    """A matching pursuit with the rows of another SAE."""
    changes = {"W_enc_DF": sae.W_dec_FO.T, "b_enc_F": torch.zeros(64), "k": None}
    changes["b_dec_O"] = sae.b_dec_O.clone()  # of its own, in the files too
    return replace(sae, architecture="matching_pursuit", pursuit=pursuit, **changes)


@pytest.fixture(scope="module")
def library(sample: LoadedModel) -> Library:
    """What compares latents at layer 1, JumpReLUs behind layer 2 and at heads of 1, vectors."""
    width = sample.hidden_dim
    generator = torch.Generator().manual_seed(0)
    v, w = torch.randn(2, width, generator=generator)
    largest = dict.fromkeys(range(64), 5.0)
    topk, jump = random_sae(width, "topk"), random_sae(width, "jumprelu")
    return Library(
        {
            "top": PlacedSae(topk, 1, "resid_post", largest=largest, median_norm=8.0),
            "group": PlacedSae(
                random_sae(width, "groupmax"), 1, "resid_post", largest=largest, median_norm=8.0
            ),
            "pursuit": PlacedSae(pursuing(topk), 1, "resid_post", largest=largest, median_norm=8.0),
            "jump": PlacedSae(jump, 2, "resid_post", largest=largest, median_norm=8.0),
            "heads": PlacedSae(jump, 1, "attn_z", largest=largest, median_norm=8.0),
            "input": PlacedSae(jump, 0, "resid_pre", largest=largest, median_norm=1.0),
        },
        {"v": Vector(v, 1), "w": Vector(w, 2, "mlp_out")},
        {Place(3, "resid_post"): 8.0, Place(4, "resid_post"): 8.0},
    )


def spec(*edits: str, positions: str = "all", norm: str = "", unit: str = "max") -> Spec:
    found = parse_edits(edits)
    assert not found.problems
    rule, cap = parse_norm(norm)
    return Spec(found.edits, parse_positions(positions), rule, cap, unit)


PLAIN = GenerationRequest((PROMPT,), NEW, sampling=SamplingSettings(temperature=0.0))
PENALTIES = SamplingSettings(0.0, 0.9, 50, 1.2, 0, 0.4, 0.3)
CASES: dict[str, tuple[Spec, GenerationRequest]] = {
    "sums": (spec("top#3=1.5", "jump#4=1:clamp", "@v=2raw", "@w=3raw"), PLAIN),
    "factors": (spec("top#5=4:scale", "jump#6:ablate", "@v=3raw", positions="generated"), PLAIN),
    "bounds": (spec("top#7=2:floor", "jump#8=0.1:cap", "@w=2raw", positions="prompt"), PLAIN),
    "groups": (spec("group#3=2.5:clamp", "group#5=4:scale", "jump#8=0.1:cap"), PLAIN),
    "pursuits": (
        spec("pursuit#3=2.5:clamp", "pursuit#5=4:scale", "top#7=2:floor", "jump#8=0.1:cap"), PLAIN
    ),
    "last": (spec("top#9=3:set-if-on", "@v=30raw:add-below", positions="last"), PLAIN),
    "first": (
        spec("top#9=3:clamp?top#3>0.1", "jump#2=3?top#5>0.05max", positions="first:6"), PLAIN
    ),
    "directions": (
        spec(
            "@v=0raw:dir-ablate",
            "top#10=-2:dir-scale",
            "jump#11:swap>jump#12",
            "@v/2.resid_post=2raw",
        ),
        PLAIN,
    ),
    "ranges": (
        spec("@v=2..3raw:dir-clip", "top#12=60%:subspace", "jump#12=1.5", positions="1-3,6-"),
        PLAIN,
    ),
    "keep": (spec("top#3=2", "jump#4=2", positions="text:king said+special", norm="keep"), PLAIN),
    "cap": (spec("@v=20raw", positions="all+special+sinks", norm="cap:0.4"), PLAIN),
    "penalties": (spec("jump#4=0.7", "@v=1raw"), replace(PLAIN, sampling=PENALTIES)),
    "layers": (spec("top#3=1.5:add/3,4", "jump#4=1:clamp"), PLAIN),
    "heads": (spec("heads#3=2", "heads#4=1:clamp", "jump#5=1:scale?heads#6>0.1"), PLAIN),
    "input": (spec("input#3=0.2", "input#4=0.1:clamp", "jump#5=1:scale?input#6>0.1"), PLAIN),
    "stop": (spec("@v=1.5raw"), replace(PLAIN, stop=(" said unto", "!"))),
}  # fmt: skip


def on_jump(found: Spec) -> Spec:
    """The target of a swap in short has no SAE of its own: that of its source."""
    return found.on_sae("jump")


def written(loaded: LoadedModel, known: Library, found: Spec, request: Any) -> list[int]:
    with SteeredModel(loaded, {"steered": found}, known) as model:
        made = generate(model, continuation_of(model, request), JobControl())
    return made.ids[1]


def test_no_script_for_what_no_module_reads(sample: LoadedModel, tmp_path: Path) -> None:
    sae = random_sae(sample.hidden_dim, "jumprelu")
    known = Library({"mid": PlacedSae(sae, 1, "resid_mid")})
    made = snippet_spec(sample, spec("mid#3=2raw"), known, PLAIN)
    with pytest.raises(Unsupported, match="between attention and MLP"):
        write_snippet(tmp_path / "mid.py", made)


def test_every_operator_and_rule(sample: LoadedModel, library: Library, tmp_path: Path) -> None:
    scripts: list[Path] = []
    for name, (found, request) in CASES.items():
        made = snippet_spec(sample, on_jump(found), library, request)
        scripts += write_snippet(tmp_path / f"{name}.py", made)[:1]
    uncached = replace(snippet_spec(sample, CASES["sums"][0], library, PLAIN), is_cached=False)
    scripts += write_snippet(tmp_path / "uncached.py", uncached)[:1]
    expected = [
        written(sample, library, on_jump(found), request) for found, request in CASES.values()
    ]
    texts = in_clean_interpreter(scripts, tmp_path)
    assert dict(zip([*CASES, "uncached"], texts, strict=True)) == dict(
        zip([*CASES, "uncached"], [*expected, expected[0]], strict=True)
    )
    unsteered = written(sample, library, Spec(), PLAIN)
    assert all(text != unsteered for text in texts)
    assert len({tuple(text) for text in texts}) == len(CASES)
    used = {edit.operator for found, _ in CASES.values() for edit in found.edits}
    assert used == set(OPERATORS)


@pytest.mark.parametrize(
    "pursuit",
    [Pursuit(), Pursuit(25.0), Pursuit(0.0, 30, stop_on_duplicate_support=False), Pursuit(0.1, 2)],
)
def test_the_script_pursues_as_we_do(
    sample: LoadedModel, library: Library, pursuit: Pursuit
) -> None:
    top = library.saes["top"].sae
    sae = pursuing(replace(top, b_dec_O=torch.zeros(top.d_in)), pursuit)
    known = Library({"": PlacedSae(sae, 1, "resid_post")})
    script = make_snippet(snippet_spec(sample, spec("1:ablate"), known, PLAIN), "x").script
    source = script[script.index("def pursued(") :].partition("\n\n\n")[0]
    given: dict[str, Any] = {"torch": torch}
    exec(source, given)
    x_TD = 2 * torch.randn(40, sae.d_in, generator=torch.Generator().manual_seed(7))
    told = (pursuit.residual_threshold, pursuit.steps(sae.d_in), pursuit.stop_on_duplicate_support)
    assert repr(told) in script
    assert torch.equal(given["pursued"](x_TD, sae.W_dec_FO, *told), sae.encode(x_TD))


def test_the_script_holds_small_tensors(
    sample: LoadedModel, library: Library, tmp_path: Path
) -> None:
    small = snippet_spec(sample, spec("@v=2raw"), library, PLAIN, Origin("owner/model", "main"))
    assert write_snippet(tmp_path / "a.py", small) == [tmp_path / "a.py"]
    text = (tmp_path / "a.py").read_text(encoding="utf-8")
    assert "MODEL = 'owner/model'\n" in text
    assert "LOADING = {'revision': 'main'}\n" in text
    assert "#if" not in text
    assert " = ...\n" not in text
    assert "topk" not in text, "what is not needed is left out"
    assert "pursu" not in text
    wide = SparseAutoencoder(
        torch.zeros(sample.hidden_dim, 4096), torch.zeros(4096),
        torch.ones(4096, sample.hidden_dim), torch.zeros(sample.hidden_dim), "topk", k=4,
    )  # fmt: skip
    known = Library({"": PlacedSae(wide, 1, "resid_post")})
    large = snippet_spec(sample, spec("1:ablate"), known, PLAIN)
    with pytest.raises(Unsupported, match=r"take .* MB, too much"):
        make_snippet(large)
    assert write_snippet(tmp_path / "b.py", large) == [
        tmp_path / "b.py",
        tmp_path / "b.safetensors",
    ]
    assert (tmp_path / "b.safetensors").stat().st_size > INLINE_BYTES
    write_snippet(tmp_path / "b.py", large)  # its own file may be replaced
    (tmp_path / "c.safetensors").write_text("another's")
    with pytest.raises(InvalidInput, match="there already"):
        write_snippet(tmp_path / "c.py", large)
    assert (tmp_path / "c.safetensors").read_text() == "another's"


def test_what_a_script_cannot_do_is_named(sample: LoadedModel, library: Library) -> None:
    def make(found: Spec) -> None:
        make_snippet(snippet_spec(sample, found, library, PLAIN))

    with pytest.raises(InvalidInput, match="Nothing is steered"):
        make(spec("top#3=0"))
    with pytest.raises(Unsupported, match=r"\(abort\)"):
        make(replace(spec("top#3=1"), abort=parse_condition("top#3>1")))
    with pytest.raises(Unsupported, match=r"\(replace\)"):
        make(replace(spec("top#3=1"), replace=("top",)))
    placed = library.saes["top"]
    elsewhere = Library({"top": replace(placed, hook="mlp_out", hook_in="mlp_in")})
    assert make_snippet(snippet_spec(sample, spec("top#3=1"), elsewhere, PLAIN)).script
    with pytest.raises(Unsupported, match="transcoder"):
        make_snippet(snippet_spec(sample, spec("top#3=1:clamp"), elsewhere, PLAIN))


def test_formulas_are_those_of_the_operators() -> None:
    generator = np.random.default_rng(0)
    own = generator.normal(size=200)
    assert FORMULAS.keys() == OPERATORS.keys()
    for name, formula in FORMULAS.items():
        for value, high in ((-0.5, 0.25), (0.0, 0.0), (0.7, 1.5)):
            expected = OPERATORS[name].change(own, value, high)
            np.testing.assert_array_equal(eval(formula, {"own": own, "value": value, "high": high}),
                                          expected)  # fmt: skip


def test_a_prompt_cannot_break_out_of_its_place(sample: LoadedModel, library: Library) -> None:
    text = 'end """ + \'x\' \nHOOKS = ...\nCHANGES = ...\n #end \\'
    request = replace(PLAIN, prompts=(text,))
    script = make_snippet(snippet_spec(sample, spec("@v=2raw"), library, request)).script
    found: dict[str, object] = {}
    for line in script.splitlines():
        if line.startswith(("PROMPT = ", "MODEL = ")):
            exec(line, found)
    assert found["PROMPT"] == text
    compile(script, "steer.py", "exec")
    assert compare_variants(
        sample, {"s": spec("@v=2raw")}, request, library, SilentReporter(), JobControl()
    ).greedy("s").ids  # fmt: skip
