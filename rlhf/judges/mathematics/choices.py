"""Answers that are words: the letter of a choice, a name, a verdict such as `true`."""

import re

from rlhf.judges.mathematics.answers import final_answer, statement
from rlhf.judges.mathematics.tidying import MATH_NAMES, tidy

_ALONE = r"(?!\W*(?:,|/|\bor\b|\band\b)\W*[A-J]\b)"
"""Not followed by another letter: `B or C` chooses nothing."""
_LETTER = re.compile(
    rf"(?:\(\s*([A-Ja-j])\s*\)[.:]?(?=\s|$)|([A-J])(?:[).:](?=\s|$)|$)|([a-j])\)?$){_ALONE}"
)
_STATED = re.compile(r"(?:(?:the|option|choice)\s+)*", re.IGNORECASE)
_OFFERED = re.compile(
    r"(?<!\bor )(?<!\band )(?<!\), )"
    r"(?:\(([A-J])\)|\b(?:[Oo]ption|[Cc]hoice|choose|pick|select)(?: is)?[ *]+([A-J])\b"
    rf"|\b([A-J]) is (?:correct|right)\b){_ALONE}"
)
_HASHED = re.compile(r"####[ \t]*([^\n#]+)")
_WORDS = re.compile(r"[^\W\d_]+(?:[ .,'’-]+\w+)*")


def choice(reference: str) -> str | None:
    """The letter A to J that a reference is: a capital alone, or in brackets or before a text."""
    match = _LETTER.match(tidy(reference))
    return _letter(match) if match and not match[3] else None


def chosen(text: str) -> str | None:
    """The letter that a text chooses; None if it chooses none, or several."""
    found = final_answer(text)
    if found is None:
        return None
    part, marked = found
    stated = part if marked else statement(part)
    if stated and (match := _LETTER.match(_STATED.sub("", tidy(stated), count=1))):
        return _letter(match)
    if marked:
        return None
    offered = list(_OFFERED.finditer(stated or part))
    if offered or stated:
        return _letter(offered[-1]) if offered else None
    match = _LETTER.match(tidy(_last_line(part)))
    return _letter(match) if match else None


def _letter(match: re.Match[str]) -> str:
    return next(letter for letter in match.groups() if letter).upper()


def wording(reference: str) -> str | None:
    """A reference of words, such as `Evelyn` or `no solution`, in lower case; else None."""
    words = _plain_words(reference)
    first = words.split(" ")[0]
    if not _WORDS.fullmatch(words) or first in MATH_NAMES:
        return None
    return words if len(first) > 2 or first in ("no", "yes") else None


def worded(text: str) -> str | None:
    """What a text answers in words: marked, stated, after `####`, or on its last line."""
    found = final_answer(text)
    if found is None:
        return None
    part, marked = found
    return _plain_words(part if marked else statement(part) or _last_line(part))


def _last_line(text: str) -> str:
    """The last line behind `####`, which is a heading or an answer in words; else the last line."""
    hashed = _HASHED.findall(text)
    return hashed[-1] if hashed else text.strip().rpartition("\n")[2]


def _plain_words(text: str) -> str:
    return " ".join(tidy(text).lower().split())
