"""Judges that ask other judges: who is asked, and where each stands in the configuration."""

import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from rlhf.judges.base import JudgeConfig
from rlhf.judges.groups import GroupJudge
from rlhf.options import Fact
from rlhf.problems import InputError
from rlhf.stages import Judge


class Placed(NamedTuple):
    """A judge, and where it stands."""

    key: str
    """`judge`, or `judge.members.taste`."""
    role: str
    """Of its workers: `judge`, or `judge.taste`."""
    config: JudgeConfig

    @property
    def is_leaf(self) -> bool:
        """Whether it asks nobody else, and so may have workers."""
        return not self.config.asks()


def everyone(key: str, role: str, config: JudgeConfig) -> Iterator[Placed]:
    """The judge itself, and whoever it asks, members of members too."""
    yield Placed(key, role, config)
    for name, member in config.asks().items():
        yield from everyone(f"{key}.members.{name}", f"{role}.{name}", member)


def joined(placed: Placed, judges: Mapping[str, Judge | None]) -> Judge | None:
    """One judge of them all; `judges`: those that ask nobody, by role.

    Raises InputError if something of it cannot be used.
    """
    key, role, config = placed
    if placed.is_leaf:
        return judges[role]
    found = {
        name: joined(Placed(f"{key}.members.{name}", f"{role}.{name}", member), judges)
        for name, member in config.asks().items()
    }
    with told_at(key):
        return config.over({name: judge for name, judge in found.items() if judge is not None})


def seated(first: Placed) -> list[list[Placed]]:
    """Whoever asks nobody, of the judge and all that it asks; those that share workers together,
    who have the role of the first of them."""
    found: dict[Hashable, list[Placed]] = {}
    for one in everyone(*first):
        if one.is_leaf:
            found.setdefault(one.config.shares or one.role, []).append(one)
    return list(found.values())


def needs_of(members: Mapping[str, JudgeConfig]) -> Mapping[Fact, str]:
    """What they need, told by their keys."""
    return {
        fact: as_told_at(f"judge.members.{name}", line)
        for name, member in members.items()
        for fact, line in member.needs().items()
    }


def member_problems(members: Mapping[str, JudgeConfig]) -> Iterator[str]:
    """What cannot be of any of them, told by their keys."""
    for name, member in members.items():
        key = f"judge.members.{name}"
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            yield f"{key}: a member's name has letters, digits and _ only"
        elif type(member) is JudgeConfig:
            yield f"{key}: no judge is chosen; add +judge@{key}=NAME, such as verifier"
        elif Fact.verdicts not in member.gives():
            yield f"+judge@{key}={member.name}: judges nothing; remove it"
        else:
            yield from (as_told_at(key, line) for line in member.problems())


def failure_limits(config: JudgeConfig, name: str = "") -> Iterator[tuple[str, float]]:
    """The share that may fail, of the judge itself as the part without a name, and of each member
    by the name of its part."""
    yield name, config.max_failure_rate
    for member, one in config.asks().items():
        yield from failure_limits(one, f"{name}.{member}" if name else member)


_ITSELF = re.compile(r"(?<![\w./=@-])judge=(?=\w)|(?<![\w./=-])judge\.(?=[a-z])")
"""`judge=NAME` or a key of it, and no part of a file's name."""


def as_told_at(key: str, line: str) -> str:
    """What a judge says of itself, as if it stood at `judge`, where it stands at `key`."""
    if key == "judge":
        return line
    return _ITSELF.sub(lambda one: f"+judge@{key}=" if one[0][-1] == "=" else f"{key}.", line)


@contextmanager
def told_at(key: str) -> Iterator[None]:
    """Within it, what an InputError says of `judge` is said of what stands at `key`."""
    try:
        yield
    except InputError as error:
        raise InputError([as_told_at(key, line) for line in error.problems]) from error


@dataclass(frozen=True)
class Builder:
    """Builds a judge in a worker, wherever it stands."""

    key: str
    build: Callable[[], GroupJudge | Judge]

    def __call__(self) -> GroupJudge | Judge:
        with told_at(self.key):
            return self.build()
