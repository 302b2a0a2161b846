"""Labels English turns by phrases, without any model: a start where a log has no labels.

Only what a turn begins with is read (`OPENING_CHARS`, code blocks left out): a complaint comes
first, and what follows is often a text to work on. Phrases that only look like a complaint or
like praise ("not wrong", "no thanks", "tell me if it is wrong") are struck out before. What such
rules find is incomplete; measure them on your own labels (`label=rules` prints the agreement).
"""

import re

from rlhf.conversations.labels import Satisfaction, Verdict, judging_turns
from rlhf.records import Message

OPENING_CHARS = 300
REPEATED_OVERLAP = 0.8
"""Shared words over all words of two requests, from which on the second repeats the first."""
REPEATED_WORDS = 5
"""Shorter requests are alike by chance."""

_IT = r"(?:that|this|it|these|those|which|you|(?:the|your) (?:\w+ )?\w+)"
_IS = r"(?:'s|'re| is| are| was| were)"
_VERY = r"(?: (?:still|just|all|completely|totally|also|simply|really|so|very|quite|way|far|much))*"
_WRONG = r"(?:wrong|incorrect|mistaken|inaccurate|false|useless|terrible|awful|nonsense|unhelpful)"
_RIGHT = r"(?:right|correct|true|good|helpful|enough|working)"
_GOOD = (
    r"(?:perfect|great|excellent|awesome|amazing|fantastic|wonderful|brilliant|beautiful|good|nice"
    r"|helpful|right|correct|exactly (?:right|it|what i \w+))"
)
_NEGATED = r"(?:\b(?:not|never|nothing|hardly)|n't)"

_HARMLESS = re.compile(
    "|".join(
        (
            r"\bno,? (?:thanks|thank you)(?! to)\b",
            r"\b(?:thanks|thank you)(?: \w+)? in advance\b",
            r"\b(?:no|not a) (?:problem|problems|worries|doubt|mistakes|errors|issues|issue)\b",
            rf"{_NEGATED}{_IS}?(?: \w+)? {_WRONG}\b",
            rf"\bnothing{_IS} {_WRONG}\b",
            rf"\b(?:why|if|whether|what|where|when|which|explain)\b[^.,!?;\n]{{0,40}}\b{_WRONG}\b",
            r"\b(?:if|when|whether) (?:you|it|this|that)\b[^.,!?;\n]{0,40}",
        )
    )
)

_COMPLAINTS = {
    "wrong": rf"\b{_IT}{_IS}{_VERY} {_WRONG}\b|^{_WRONG}\b|\byou made (?:a|an|the same) "
    r"(?:mistake|error)|\bsame (?:mistake|error|problem|issue)\b",
    "not_right": rf"\b{_IT}{_IS}(?: still)? not {_RIGHT}\b"
    rf"|\b(?:isn't|wasn't|aren't|ain't) {_RIGHT}\b",
    "not_asked": r"\bnot what i\b|\b(?:isn't|wasn't) what i\b"
    r"|\bi (?:didn't|did not|never) (?:ask|mean|say|want|request)\b"
    r"|\bi (?:already |specifically |explicitly )?(?:asked|told) (?:you )?(?:for|to|not)\b"
    r"|\bi(?:'ve| have)? (?:already |just )?(?:said|told you)\b",
    "meant": r"\bi meant\b|^no,? i mean\b",
    "again": r"^again\b|\b(?:try|do|write|read|check|look|redo|answer|think|rewrite|generate)"
    r"(?: (?:it|that|this|them))? again\b|\bonce more\b|\bredo (?:it|this|that)\b",
    "forgot": r"\byou(?:'ve| have)?(?: still| just| again| completely| also)?"
    r" (?:forgot|missed|ignored|misunderstood|skipped|left out|omitted|failed|keep|kept"
    r"|didn't|did not|haven't|have not|are not|aren't)\b",
    "broken": r"^(?:still )?(?:doesn't|does not|didn't|did not|not) work"
    rf"|\b{_IT}(?: still)? (?:doesn't|does not|didn't|did not|won't) (?:work|compile|run|help|make)"
    r"|\bstill (?:wrong|not|doesn't|getting|the same|broken|fails|no)\b",
    "too": rf"\b{_IT}{_IS}{_VERY}(?: a bit)? too \w+|^too \w+",
}
_REFUSAL = re.compile(r"^(?:no|nope|nah)\b[,.! ]+(?:i|that|it|you|this|not|wrong|the|use|make)\b")
_PRAISES = {
    "thanks": r"\b(?:thanks|thank you|thx|many thanks|tysm)\b(?! for nothing)",
    "praise": rf"^(?:ok(?:ay)?,? )?{_GOOD}(?= *(?:[,.!;:)\n]|$|job|work|answer|one|now|thank|but))"
    rf"|\b(?:that|this|it|you)(?:'s|'re| is| are| was| looks| sounds){_VERY} {_GOOD}\b"
    r"(?! (?:if|to|when))"
    r"|\b(?:good|great|nice|excellent) (?:job|work|answer)\b|\bwell done\b"
    r"|\bi (?:really )?(?:love|like) (?:it|this|that)(?= *(?:[,.!;\n]|$|very|so|a lot))",
    "not_bad": rf"{_NEGATED} bad\b",
    "works": r"\b(?:it|that|this) (?:works|worked|helps|helped)(?= *(?:[,.!;\n]|$|now|great|well"
    r"|fine|perfectly|a lot))",
}
_COMPLAINT_RULES = {name: re.compile(rule) for name, rule in _COMPLAINTS.items()}
_PRAISE_RULES = {name: re.compile(rule) for name, rule in _PRAISES.items()}
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_WORD = re.compile(r"\w+")
_LATIN = re.compile(r"[a-z]")


def label(messages: tuple[Message, ...]) -> tuple[Verdict, ...]:
    """One verdict for each user's turn that has a reply before it.

    It is `unknown` where the turn has no Latin letter, for the rules cannot read it.
    """
    return tuple(_verdict(messages, turn) for turn in judging_turns(messages))


def _verdict(messages: tuple[Message, ...], turn: int) -> Verdict:
    text = _opening(messages[turn].content)
    if not _LATIN.search(messages[turn].content.lower()):
        return Verdict(turn, Satisfaction.unknown, "no Latin letters")
    complaints = _complaints(text, messages[turn - 1].content)
    praises = [name for name, rule in _PRAISE_RULES.items() if rule.search(text)]
    earlier = [message for message in messages[: turn - 1] if message.role == "user"]
    if not praises and earlier and _repeats(messages[turn].content, earlier[-1].content):
        complaints.append("repeated")
    reason = ", ".join(complaints + praises)
    if complaints and praises:
        return Verdict(turn, Satisfaction.mixed, reason)
    if complaints:
        return Verdict(turn, Satisfaction.dissatisfied, reason)
    if praises:
        return Verdict(turn, Satisfaction.satisfied, reason)
    return Verdict(turn, Satisfaction.neither, "no rule matched")


def _opening(content: str) -> str:
    """Lower case, straight apostrophes, no code, and without what is harmless."""
    text = _CODE.sub(" ", content)[:OPENING_CHARS].lower().replace("’", "'")
    return _HARMLESS.sub(" ", text).strip()


def _complaints(text: str, reply: str) -> list[str]:
    found = [name for name, rule in _COMPLAINT_RULES.items() if rule.search(text)]
    # After a question, a "no" is its answer.
    if _REFUSAL.search(text) and not reply.rstrip().endswith("?"):
        found.append("no")
    return found


def _repeats(request: str, earlier: str) -> bool:
    words, before = (set(_WORD.findall(text.lower())) for text in (request, earlier))
    if min(len(words), len(before)) < REPEATED_WORDS:
        return False
    return len(words & before) >= REPEATED_OVERLAP * len(words | before)
