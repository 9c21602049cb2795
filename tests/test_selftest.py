"""The check of an installation: its lines, its exit code, and that its parts can fail."""

from __future__ import annotations

import json
import sys
import warnings

import pytest
import torch

from mistudio import cli, selftest, selftest_libraries
from mistudio.core.errors import Damaged
from tests.helpers.tiny import tiny_tokenizer


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_small_checks_pass_and_say_their_time(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["database", "tokenizer", "safetensors", "training", "hub"]
    words = [word for name in names for word in ("--only", name)]
    assert cli.main(["selftest", *words, "--json"]) == 0
    *checks, result = lines(capsys)
    assert [line["check"] for line in checks] == names
    assert all(line["ok"] and line["seconds"] >= 0 for line in checks)  # type: ignore[operator]
    assert result["checks"] == len(names)


def test_a_model_in_a_gguf_file_is_read() -> None:
    assert selftest_libraries.gguf_file().endswith("4 tokens read")


def test_failures_are_sentences_and_the_others_still_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> str:
        sys.stderr.write("a library says something\n")
        warnings.warn("a library warns", stacklevel=1)
        raise Damaged("It is broken.", details="by hand")

    def missing() -> str:
        raise ModuleNotFoundError("No module named 'x'")

    def noisy() -> str:
        sys.stdout.write("noise\n")
        return "fine"

    monkeypatch.setattr(selftest, "CHECKS", {"a": broken, "b": missing, "c": noisy})
    assert cli.main(["selftest"]) == 1
    said = capsys.readouterr()
    shown = said.out.splitlines()
    assert [line.split()[:2] for line in shown] == [["FAILED", "a"], ["FAILED", "b"], ["ok", "c"]]
    assert shown[0].endswith(" s  It is broken.")
    assert shown[1].endswith(" s  ModuleNotFoundError: No module named 'x'")
    assert said.err.startswith("2 of 3 checks failed: a, b. `mistudio doctor`")
    assert cli.main(["selftest", "--json"]) == 1
    found = lines(capsys)
    assert found[0]["details"] == "by hand\na library says something"
    assert "in missing" in str(found[1]["details"])  # where it broke
    assert found[-1]["code"] == "selftest"


def test_an_unknown_check_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["selftest", "--only", "nothing"]) == cli.USAGE
    assert "there are database, torch" in capsys.readouterr().err


def test_wrong_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = torch.nn.Linear.forward
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: right(self, x) + 0.01)
    with pytest.raises(Damaged, match="multiplies matrices wrongly"):
        selftest_libraries.torch_forward()


def test_another_tokenizer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_tokenizer(add_bos=True)
    monkeypatch.setattr(made, "decode", lambda ids: "something else")
    monkeypatch.setattr("mistudio.ml.loading.load_tokenizer", lambda folder: made)
    with pytest.raises(Damaged, match="does not give a text back"):
        selftest_libraries.tokenizer()
