"""How often a verifier errs: by appeals to one who knows better, or as somebody has found out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rlhf.problems import InputError, RunFailed

MEMBER = "of"
"""The part that has what the verifier itself said."""
OVERTURNED, CONFIRMED = "overturned", "confirmed"
"""Parts: whether the appeal calls right what did not pass, and what passed."""
PRIOR_ANSWERS = 20
"""As many wrong ones, and right ones, as the rates that a run begins with count for, beside those
that appeals have found."""


class Rates(NamedTuple):
    """How often a verifier errs."""

    false_positive: float
    """How often a wrong answer passes."""
    false_negative: float
    """How often a right one does not."""


class WorthNothing(RunFailed):
    """By its appeals a verifier errs so often that its verdict says less than a guess."""


class Seen(NamedTuple):
    """Answers of so many rounds."""

    judged: int = 0
    passed: int = 0
    failed_appealed: int = 0
    overturned: float = 0.0
    passed_appealed: int = 0
    confirmed: float = 0.0


def rates_by_appeals(passed: float, overturned: float, confirmed: float) -> Rates:
    """Of shares: of answers that passed, of those that failed that the appeal calls right, and of
    those that passed.

    What the appeal says is taken for true; the share overturned alone is not how often right
    answers fail. A rate over nothing is 0.
    """
    wrongly_failed, rightly_passed = (1 - passed) * overturned, passed * confirmed
    wrongly_passed, rightly_failed = passed * (1 - confirmed), (1 - passed) * (1 - overturned)
    right, wrong = wrongly_failed + rightly_passed, wrongly_passed + rightly_failed
    return Rates(wrongly_passed / wrong if wrong else 0.0, wrongly_failed / right if right else 0.0)


def seen(groups: Sequence[Mapping[str, Sequence[float | None]]], prefix: str) -> Seen:
    """What the parts of verdicts tell of one whose own begin with that prefix."""

    def known(name: str) -> list[float]:
        values = (value for parts in groups for value in parts.get(prefix + name, ()))
        return [value for value in values if value is not None]

    judged, overturned, confirmed = map(known, (MEMBER, OVERTURNED, CONFIRMED))
    shares = (len(overturned), sum(overturned), len(confirmed), sum(confirmed))
    return Seen(len(judged), sum(one == 1 for one in judged), *shares)


def running(prior: Rates, total: Seen) -> Rates:
    """The rates by all appeals so far, and by `prior` as if by as many answers of its own.

    Raises WorthNothing if their sum is 1 or more.
    """
    if not total.judged:
        return prior
    found = rates_by_appeals(
        total.passed / total.judged,
        total.overturned / total.failed_appealed if total.failed_appealed else 0.0,
        total.confirmed / total.passed_appealed if total.passed_appealed else 1.0,
    )
    right = total.overturned + total.confirmed
    wrong = total.failed_appealed + total.passed_appealed - right
    rates = Rates(
        *(
            (PRIOR_ANSWERS * before + count * rate) / (PRIOR_ANSWERS + count)
            for before, count, rate in zip(prior, (wrong, right), found, strict=True)
        )
    )
    if sum(rates) >= 1:
        raise WorthNothing(
            f"judge=corrected: by {wrong + right:g} appeals {rates.false_positive:.3f} of wrong "
            f"answers pass and {rates.false_negative:.3f} of right ones do not; that says less "
            "than a guess, so take another verifier"
        )
    return rates


def rates_in(file: str) -> Rates:
    """Raises InputError if the file has no such."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        rates = Rates(float(found["false_positive"]), float(found["false_negative"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            [
                f'judge.rates_file={file}: is no JSON such as {{"false_positive": 0.1, '
                f'"false_negative": 0.2}} ({error!r})'
            ]
        ) from error
    if not all(0 <= rate < 1 for rate in rates):
        raise InputError([f"judge.rates_file={file}: has {rates}; a rate is at least 0, below 1"])
    return rates
