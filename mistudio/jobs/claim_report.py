"""The report of a study of claims as Markdown and as lines for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

EXPLAINED = (
    "A feature's steering counts as doing what its label says if it makes the label's tokens more "
    "probable on a text that every variant reads, and more so than at least 95 % of random "
    "features of like density with a change of the same length at the same tokens (p <= 0.05), "
    "and if its own texts (the greedy one, and samples where there are some) then hold more of "
    "these tokens and most of them do not loop. Among features that "
    "do nothing of their own, 5 % pass the first test by chance. A token counts as the label's if "
    "it has the stem of one of its words (Porter's steps 1 and 5: plurals, -ed, -ing)."
)


def summary(found: Mapping[str, Any]) -> list[str]:
    """The counts in sentences."""
    c = found["counts"]
    how = "drawn at random among the live ones" if found["drawn"] else "named by hand"
    return [
        f"{c['features']} features of {found['sae_name']}, {how}; {c['judged']} could be judged.",
        f"{c['selective']} raise the probability of their label's tokens more than their controls "
        f"do; {c['selective_and_visible']} of these also write more of them in texts that do not "
        f"loop{_written(c)}.",
        f"{c['visible']} write more of their label's tokens at all, whatever the controls do; "
        f"{_reread(c)}{c['looping']} texts loop, {c['repeating']} say a long stretch again.",
        f"The difference of means gives the label's tokens more probability in "
        f"{c['means_higher']}, the words in the prompt in {c['prompt_higher']} of "
        f"{c['judged']}.",
    ]


def _written(counts: Mapping[str, Any]) -> str:
    """Nothing where the controls wrote no texts to compare with."""
    if not counts["reread_judged"]:
        return ""
    return f", {counts['share_selective']} of them more than their controls write"


def _reread(counts: Mapping[str, Any]) -> str:
    """Nothing where the controls wrote no texts that could be read again."""
    if not counts["reread_judged"]:
        return ""
    return (
        f"{counts['reread_selective']} of {counts['reread_judged']} make a text on which they "
        "fire more than on their controls' texts; "
    )


def lines(found: Mapping[str, Any]) -> list[str]:
    """The counts and one line per feature, for a terminal."""
    out = summary(found)
    for e in found["features"]:
        out.append(f"{e['feature']:>7}  {e['outcome']:<26} {_short(e)}{e['label']}")
    return out


def markdown(found: Mapping[str, Any]) -> str:
    """The whole study, with every text."""
    settings = found["settings"]
    parts = [
        "# Does steering do what the labels say?",
        EXPLAINED,
        *summary(found),
        f"Model {found['model']}, layer {found['layer']}; every change added at every token but "
        f"special ones; target KL {settings['target_kl']} nats per token; {settings['controls']} "
        f"controls; {settings['samples']} samples beside each greedy text; seed "
        f"{settings['seed']}. Text on which probabilities are measured:",
        _quoted(found["text"]),
        "| feature | label | outcome | strength | KL | probability, baseline → steered | p | "
        "difference of means | prompt only |",
        "|--:|---|---|--:|--:|---|--:|--:|--:|",
        *[_row(entry) for entry in found["features"]],
    ]
    table = "\n".join(parts[-len(found["features"]) - 2 :])
    text = "\n\n".join([*parts[: -len(found["features"]) - 2], table])
    for entry in found["features"]:
        if "standings" in entry:
            text += "\n\n" + _texts(entry)
    return text + "\n"


def _short(entry: Mapping[str, Any]) -> str:
    if "standings" not in entry:
        return ""
    place = entry["standings"]["probability"]
    before, after = entry["baseline"]["probability"], entry["steered"]["probability"]
    return f"{before:.2g} -> {after:.2g}, p {_number(place['p'])}  "


def _row(entry: Mapping[str, Any]) -> str:
    label = entry["label"].replace("|", "\\|")
    if "standings" not in entry:
        return f"| {entry['feature']} | {label} | {entry['outcome']} | | | | | | |"
    means, prompted = entry["means"], entry["prompted"]
    cells = [
        str(entry["feature"]),
        label,
        entry["outcome"],
        f"{entry['strength']:.3g}",
        _number(entry["kl_measured"]),
        f"{entry['baseline']['probability']:.3g} → {entry['steered']['probability']:.3g}",
        _number(entry["standings"]["probability"]["p"]),
        _number(means and means["probability"]),
        _number(prompted and prompted["probability"]),
    ]
    return "| " + " | ".join(cells) + " |"


def _texts(entry: Mapping[str, Any]) -> str:
    tokens = ", ".join(repr(token) for token in entry["tokens"])
    found = [f"## Feature {entry['feature']}: {entry['label']}", f"Tokens: {tokens}"]
    for name, words in (
        ("baseline", "Unsteered"),
        ("steered", "Steered"),
        ("means", "Difference of means, same length"),
        ("prompted", "Unsteered, label in the prompt"),
    ):
        shown = entry[name]
        if shown:
            figures = f"share {_number(shown['share'])}, re-read {_number(shown['reread'])}"
            looping = ", loops" if shown["loops"] else ""
            again = f", {shown['repeat']:.0%} said again" if shown["repeats"] else ""
            texts = "\n>\n> · · ·\n>\n".join(map(_quoted, (shown["text"], *shown["samples"])))
            found += [f"{words} ({figures}{looping}{again}):", texts]
    places = ", ".join(
        f"{name} p {_number(place['p'])} ({place['controls']} controls)"
        for name, place in entry["standings"].items()
    )
    return "\n\n".join([*found, f"Against random features: {places}."])


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.split("\n"))
