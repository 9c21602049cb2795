"""Sets of words by what they do in an English sentence, for token-set enrichment.

Only classes whose words can be listed in full, or nearly: a tagger would be a guess for a token
that stands alone. A word may be of several.
"""

from __future__ import annotations

WORD_LISTS = {
    "pronouns": "i me my mine myself you your yours yourself he him his himself she her hers "
    "herself it its itself we us our ours ourselves they them their theirs themselves thou thee "
    "thy thine ye one someone somebody anyone anybody everyone everybody nobody something anything "
    "everything nothing",
    "articles and determiners": "the a an this that these those each every either neither some any "
    "no all both few many much several such another other",
    "prepositions": "of in to for with on at by from about into through during including until "
    "against among throughout despite towards toward upon concerning within without behind beyond "
    "beneath beside besides above across after along around before below between down inside "
    "near off onto out outside over past since under up via amid",
    "conjunctions": "and or but nor yet so because although though while whereas unless if whether "
    "than as since once lest",
    "auxiliary verbs": "am is are was were be been being do does did have has had having will "
    "would shall should can could may might must ought shalt hath doth didst canst wilt",
    "question words": "who whom whose which what when where why how whence whither wherefore",
    "number words": "zero one two three four five six seven eight nine ten eleven twelve thirteen "
    "fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy "
    "eighty ninety hundred thousand million billion first second third fourth fifth sixth "
    "seventh eighth ninth tenth",
    "months and days": "january february march april may june july august september october "
    "november december monday tuesday wednesday thursday friday saturday sunday",
}
LETTERS, AFTER_A_BLANK, NAMES = (
    "tokens of letters alone",
    "words after a blank",
    "words only written with a capital",
)
WORD_SETS = (*WORD_LISTS, LETTERS, AFTER_A_BLANK, NAMES)
_OF_WORD: dict[str, list[str]] = {}
for _name, _words in WORD_LISTS.items():
    for _word in _words.split():
        _OF_WORD.setdefault(_word, []).append(_name)


def sets_of(text: str, small_words: set[str] | frozenset[str]) -> list[str]:
    """The sets of `WORD_SETS` that one token's text is of.

    A word is only written with a capital if its small form is none of `small_words`, those of the
    vocabulary.
    """
    bare = text.strip()
    if not bare.isalpha():
        return []
    found = [*_OF_WORD.get(bare.lower(), ()), LETTERS]
    if text[:1] == " ":
        found.append(AFTER_A_BLANK)
    if len(bare) > 2 and bare.istitle() and bare.lower() not in small_words:
        found.append(NAMES)
    return found
