r"""Where a text says its answer: what it marks, else what it states last.

Marks are `####`, as in GSM8K, `\boxed{}`, as in MATH, and `<answer>`; whichever comes last counts.
"""

import re

from rlhf.judges.mathematics.quantities import read
from rlhf.judges.mathematics.tidying import MATH_NAMES

MAX_ANSWER_CHARS = 1000
"""A longer marked answer is wrong; of text without a mark, no more than this is searched."""

_BOX = re.compile(r"\\(?:boxed|fbox)[ \t]*(?:\{|(-?\w[\w.,/]*))")
_TAG, _TAG_END = "<answer>", "</answer>"
_HASH = re.compile(r"#{4,}([^\n#]*)")
_STEP = re.compile(r"[0-9]+[.)][ \t]+[A-Za-z*]")
_ABOUT = re.compile(r"(?:about|approximately|around|roughly|nearly|USD|EUR|GBP)\s*(?=[$€£]?[0-9.])")
_VERDICT = re.compile(r"(?:true|false|yes|no|none)\b\W*$", re.IGNORECASE)
_BOUND = re.compile(r"(?:not|at (?:least|most)|(?:more|less|fewer|greater) than|between)\b", re.I)
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_STATES = re.compile(r"answer\b[^\n.:=]{0,40}?(?:\bis\b[ ]?:?|:|=)[\s*]{0,9}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\n|(?<! sq)(?<!\b[ap]\.m)(?<!\b[ap])[.!?](?=[\s*]|$)")
_ASIDE = re.compile(
    r",?\s(?:because|since|as|so|which|where|if|when|for|after)\b|,\s(?!and\b|or\b)[a-z]{2,}"
)
_FORMULA = re.compile(
    r"\$\$(.+?)\$\$|\$((?! )(?:\\\$|[^$\n])*[^$\s\\])\$(?!\d)|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_MORE = re.compile(
    r"(?:\s(?:\d+/\d+\b|[x×*]\s10\S*|and\sa\s(?:half|quarter)\b|(?:percent|hundred|thousand|million"
    r"|billion|trillion|dozen|squared|cubed|half|halves|thirds|fifths|tenths|[AaPp]\.?[Mm])\b|%))*"
)
_NUMBER = re.compile(
    r"(?<![\w.,:^/\\])(?<!\bnot )[-+−~≈]?[$€£¥₹]?-?"
    rf"(?:\d{{1,3}}(?:[ \u00a0\u2009\u202f]\d{{3}})+(?![\d.,]?\d)|\.?\d\S*){_MORE.pattern}"
)


def final_answer(text: str) -> tuple[str, bool] | None:
    r"""The part of a text to compare, and whether the text marks it as its answer.

    Marked is what follows `####` on its line, or stands in `\boxed{}` or `<answer>`, whichever
    comes last. Without a mark it is the end of the text, cut at white space. None if there is no
    answer, or one of more than `MAX_ANSWER_CHARS`.
    """
    start, answer = max(_hashed(text), _boxed(text), _tagged(text))
    if start >= 0:
        return (answer, True) if answer.strip() and len(answer) <= MAX_ANSWER_CHARS else None
    if len(text) <= MAX_ANSWER_CHARS:
        return (text, False) if text.strip() else None
    # The first word of the cut may lack its beginning: 1018 would become 18.
    _, space, rest = text[-MAX_ANSWER_CHARS:].partition(" ")
    return (rest, False) if space and rest.strip() else None


def _boxed(text: str) -> tuple[int, str]:
    """Where the last box begins, and what is in it."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return -1, ""
    return boxes[-1].start(), boxes[-1][1] or _braced(text, boxes[-1].end())


def _tagged(text: str) -> tuple[int, str]:
    """Where the last tag begins, and what follows it; a text often stops at the closing one."""
    start = text.rfind(_TAG)
    if start < 0:
        return -1, ""
    return start, _behind_statement(text[start + len(_TAG) :].partition(_TAG_END)[0])


def _hashed(text: str) -> tuple[int, str]:
    """Where the last `####` begins that is no heading, and the answer on its line."""
    for match in reversed(list(_HASH.finditer(text))):
        line = _behind_statement(match[1].lstrip(" \t"))
        if line.strip() and not _heading(line[: MAX_ANSWER_CHARS + 1]):
            return match.start(), line
    return -1, ""


def _behind_statement(part: str) -> str:
    """A marked part without a leading `The answer is`."""
    states = list(_STATES.finditer(part[:MAX_ANSWER_CHARS]))
    return part[states[-1].end() :] if states else part


def _heading(line: str) -> bool:
    """Whether a line is words, such as `Step 3` or `2. So`, and no answer such as `x+1`."""
    line = _ABOUT.sub("", line.lstrip("*_ "), count=1)
    if _STEP.match(line) or not line:
        return True
    if not line[0].isalpha() or _VERDICT.match(line) or _BOUND.match(line):
        return False
    return not _words(line) <= MATH_NAMES


def _words(text: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(text)}


def _braced(text: str, start: int) -> str:
    """What stands before the brace that closes one opened before `start`; else all that follows."""
    depth = 1
    for end in range(start, min(len(text), start + MAX_ANSWER_CHARS + 1)):
        depth += (text[end] == "{") - (text[end] == "}")
        if depth == 0:
            return text[start:end]
    return text[start:]


# --- what an unmarked text states ----------------------------------------------------------------


def statement(text: str) -> str | None:
    """What follows the last `answer is` or `answer:`, to the end of its sentence."""
    states = list(_STATES.finditer(text))
    if not states:
        return None
    rest = text[states[-1].end() :]
    end = _SENTENCE_END.search(rest)
    rest = rest[: end.start()] if end else rest
    return _ASIDE.split(rest, maxsplit=1)[0].strip() or None


def said(text: str, equation: bool) -> str:
    """The formula or number that an unmarked text states, that is its last line, or the last one in
    it; `""` if none.

    Of an equation only what follows the last `=`, unless an equation is what is asked for.
    """
    stated, line = statement(text), text.strip().rpartition("\n")[2]
    if stated is not None:
        part = _stated(stated)
    elif any(map(str.isalnum, line)) and _words(_FORMULA.sub(" ", line)) <= MATH_NAMES:
        part = _stated(line)
    else:
        found = _found(text)
        part = found[-1][1] if found else ""
    return part if equation else part.rpartition("=")[2]


def _stated(stated: str) -> str:
    """All of a statement that is a formula or quantity, else the one in it; of several the first,
    if it stands first, or the last."""
    words = _words(_FORMULA.sub(" ", stated))
    if words - MATH_NAMES <= {"and", "or"} or read(stated):
        return _FORMULA.sub(lambda match: f" {_content(match)} ", stated)
    found = _found(stated)
    if not found or ("or" in words and len(found) > 1):
        return ""
    return found[0][1] if found[0][0] == 0 else found[-1][1]


def _found(text: str) -> list[tuple[int, str]]:
    """Where formulas and numbers of a text begin, and what they are, in their order."""
    formulas = [
        (match.start(), _content(match) + _more(text, match.end()))
        for match in _FORMULA.finditer(text)
        if not text[: match.start()].endswith("not ")
    ]
    others = _FORMULA.sub(lambda match: " " * len(match[0]), text)
    numbers = [
        (match.start(), match[0].rstrip(".,;:!?)]}\"'*_`")) for match in _NUMBER.finditer(others)
    ]
    return sorted(formulas + numbers)


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _more(text: str, start: int) -> str:
    """Words behind a formula that change it, such as `million`."""
    match = _MORE.match(text, start)
    return match[0] if match else ""
