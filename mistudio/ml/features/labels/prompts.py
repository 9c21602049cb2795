"""What a language model is asked about a feature, and how its answers are read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mistudio.ml.features.labels.windows import Window, Windows

ANSWER_TOKENS = 12
LONGEST = 80  # characters of a name
PROMOTED = 10

_NAME_SYSTEM = (
    "You name what a feature of a language model stands for. You are given texts in which the "
    "tokens that activate it are marked with << and >>. Answer with a short name only: at most "
    "eight words, no sentence, no quotes."
)
_NAME_TASK = (
    "Name the feature. Look in this order and take the first that has a clear pattern:\n"
    "1. the marked tokens: if they are alike, name them;\n"
    '2. the tokens after them: if they are alike, write say "..." with them;\n'
    "3. the tokens that the feature promotes: if they are alike, name them;\n"
    "4. the theme of the texts."
)
_DETECT_SYSTEM = (
    "You judge whether a description fits a text. Answer 1 if some part of the text is an example "
    "of the description, otherwise 0. Answer with the digit only."
)
_FUZZ_SYSTEM = (
    "You judge marks in a text. Answer 1 if the parts between << and >> are examples of the "
    "description, otherwise 0. Answer with the digit only."
)


class Prompt(NamedTuple):
    """An instruction and a question; a model without a chat format reads both as one text."""

    system: str
    user: str

    def plain(self) -> str:
        """One text that ends where the answer is to begin."""
        return f"{self.system}\n\n{self.user}\nAnswer:"


def name_prompt(windows: Windows, promoted: Sequence[str], suppressed: Sequence[str]) -> Prompt:
    """Asks for the name of a feature: marked texts with levels, tokens at the maximum and after it,
    tokens that the direction promotes."""
    largest = max((window.value for window in windows.to_name), default=0.0)
    texts = [
        f"({level(window.value, largest)}) {one_line(window.marked(windows.least))}"
        for window in windows.to_name
    ]
    parts = [
        "Texts, each with the strength of its strongest token from 1 to 10:",
        *texts,
        f"Marked tokens: {listed(peak_tokens(windows.to_name))}",
        f"Tokens after them: {listed(tokens_after(windows.to_name))}",
    ]
    if promoted:
        parts.append(f"Tokens that the feature promotes: {listed(promoted)}")
        parts.append(f"Tokens that it suppresses: {listed(suppressed)}")
    return Prompt(_NAME_SYSTEM, "\n".join([*parts, "", _NAME_TASK, "", "Name of the feature:"]))


def level(value: float, largest: float) -> int:
    """ceil(10 a / max)."""
    return math.ceil(10 * value / largest) if largest > 0 else 0


def peak_tokens(windows: Sequence[Window]) -> list[str]:
    """The tokens that windows are about, commonest first."""
    return _common(window.spans[window.peak][0] for window in windows if window.spans)


def tokens_after(windows: Sequence[Window]) -> list[str]:
    """The tokens after those, commonest first."""
    return _common(
        window.spans[window.peak + 1][0]
        for window in windows
        if window.peak + 1 < len(window.spans)
    )


def _common(texts: object) -> list[str]:
    counted = Counter(text.strip() or "↵" for text in texts)  # type: ignore[attr-defined]
    return [text for text, _ in counted.most_common(PROMOTED)]


def listed(texts: Sequence[str]) -> str:
    """Texts in quotes on one line."""
    return ", ".join(f'"{one_line(text)}"' for text in texts[:PROMOTED])


def one_line(text: str) -> str:
    """A text with its line breaks as signs."""
    return text.replace("\r", "").replace("\n", "↵")


def detection_prompt(label: str, text: str) -> Prompt:
    """Whether a text fits a label; one text, so that texts tell nothing of each other."""
    return Prompt(_DETECT_SYSTEM, f"Description: {label}\nText: {one_line(text)}")


def fuzzing_prompt(label: str, marked: str) -> Prompt:
    """Whether marked tokens fit a label."""
    return Prompt(_FUZZ_SYSTEM, f"Description: {label}\nText: {one_line(marked)}")


def name_of(answer: str, fallback: str) -> str:
    """A name from an answer: its first line without quotes, numbering or a full stop.

    The fallback where there is none, or where a small model repeats what it was told to do.
    """
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = re.sub(r"^(?:[-*•]|\d+[.)]|(?:name|answer|label|feature)\s*:)\s*", "", text, flags=re.I)
    text = text.strip("*_` ").rstrip(".").strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    repeats = text.casefold() in f"{_NAME_SYSTEM}\n{_NAME_TASK}".casefold()
    return text[:LONGEST] if re.search(r"\w", text) and not repeats else fallback


def judged(answer: str) -> float:
    """An answer 0 or 1 as a score; 0.5 for anything else."""
    found = re.search(r"[01]", answer)
    return float(found.group()) if found else 0.5
