"""Sentences of prose in any script.

English marks end a sentence only before white space. The marks of other scripts (``。``, ``।``,
``؟``, ...) end it wherever they stand. They are the characters with the Unicode property
Sentence_Break (UAX #29), which the library ``regex`` knows. A text without such marks is split as
English alone. What is too long for a sentence is cut, so that a text without marks has places
between its sentences too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import regex

# A full stop after one of these does not end a sentence.
ABBREVIATIONS = frozenset(
    {"mr", "mrs", "ms", "dr", "st", "messrs", "mme", "mlle", "rev", "hon", "prof", "esq", "jr"}
    | {"capt", "col", "gen", "lieut", "lt", "sergt", "vol", "chap", "fig", "pp", "viz", "vs"}
    | {"e.g", "i.e"}
)
# Bytes of UTF-8. The King James text has sentences of up to 2,314, and all end with a mark.
LONGEST, LONGEST_WITHOUT_MARK = 2400, 288
PIECE = 144  # bytes of a part of what is too long: a mean sentence of the King James text

# Possessive (++, *+): a run of marks is read once, also where it ends nothing.
_END = regex.compile(
    r"""(?:
        (?P<english>[.!?]++["'”’)\]]*+)
      | [\p{SB=STerm}--[!?]]++ [\p{Pe}\p{Pf}"']*+      # UAX #29: SB9 to SB11
      | [\p{SB=ATerm}--[.]]++ (?!\p{SB=Numeric}) [\p{Pe}\p{Pf}"']*+      # and SB6
    )""",
    regex.VERBOSE | regex.VERSION1,
)
_ENDED = regex.compile(r"[\p{SB=STerm}\p{SB=ATerm}][\p{Pe}\p{Pf}\"']*+$", regex.VERSION1)
_LAST_WORD = re.compile(r"[\w.]*$")


def split_sentences(text: str) -> list[str]:
    """Cut prose at the marks that end a sentence, and at blank lines.

    Runs of white space become one space. Of ``.``, ``!`` and ``?``, known abbreviations and single
    capitals ("J. Smith") do not end a sentence, nor does a mark before a lower-case word ("Oh! said
    he"). What is longer than any sentence is cut further, if possible at white space.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return [
        piece
        for paragraph in paragraphs
        for sentence in _split_paragraph(paragraph)
        for piece in _pieces(sentence)
    ]


def sentence_ends(text: str, first: int = 0) -> Iterator[re.Match[str]]:
    """The marks that may end a sentence, from the character number ``first`` on."""
    for match in _END.finditer(text, first):
        if match["english"] is None or text[match.end() : match.end() + 1].isspace():
            yield match


def _split_paragraph(paragraph: str) -> Iterator[str]:
    start = 0
    for match in sentence_ends(paragraph):
        end = match.end()
        if match["english"] is not None:
            following = paragraph[end + 1 : end + 2]
            if following.islower() or _is_abbreviation(paragraph, start, match):
                continue
        yield paragraph[start:end]
        start = end + (paragraph[end : end + 1] == " ")
    if start < len(paragraph):
        yield paragraph[start:]


def _is_abbreviation(paragraph: str, start: int, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    word = _LAST_WORD.search(paragraph[max(start, match.start() - 12) : match.start()]).group()
    return (len(word) == 1 and word.isupper() and word != "I") or word.lower() in ABBREVIATIONS


def _pieces(sentence: str) -> list[str]:
    """The sentence, or parts of at most about `PIECE` bytes of one that is too long.

    A part ends before white space, after a comma of any script, or before a whole character.
    """
    size = len(sentence.encode())
    if size <= LONGEST_WITHOUT_MARK or (size <= LONGEST and _ENDED.search(sentence)):
        return [sentence]
    most = max(2, PIECE * len(sentence) // size)
    counts = f"{{{most // 2},{most}}}"
    ends = rf".{counts}(?=\s|$)|.{counts}(?<=\p{{SB=SContinue}})|.{{1,{most}}}(?!\p{{M}})"
    parts = regex.findall(rf"{ends}|.{{1,{most}}}", sentence, regex.DOTALL)
    return [part.strip() for part in parts if part.strip()]
