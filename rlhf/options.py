"""Options: each is a schema in a file of its own, found by its folder, that says what it needs of
the others and what it gives them; one rule compares that."""

from collections.abc import Iterable, Iterator, Mapping, Set
from enum import Enum
from importlib import import_module
from pkgutil import iter_modules
from typing import ClassVar, TypeVar


class Fact(Enum):
    """What one option may need, and another give."""

    answers = "every prompt has the answer that is right"
    demonstrations = "prompts have a model answer"
    feedback = "what users said of logged replies"
    user_replies = "pairs have sides that users said something of"
    wishes = "what each user wanted, in their own words"
    simulated_wishes = "what each simulated user wants"
    praised_replies = "the log has replies that satisfied, of whatever is in it"
    verdicts = "somebody judges completions"
    outcomes = "whole answers are right or wrong"
    partial_scores = "a number for how an answer begins"
    additions = "tests that belong behind programs"
    matrix = "win probabilities of every two completions"
    games = "completions play each other, so that there are win probabilities to learn from"
    ranked_lists = "a ranked list per prompt"
    one_turn = "an answer is one turn of the policy"
    rewards = "an environment rewards answers"
    initial_policy = "the initial policy can be sampled beside the policy"


class Option:
    """A subclass is an option of a group such as `judge`; its fields are its keys."""

    name: ClassVar[str]
    """As people choose it: `group=NAME`."""

    def gives(self) -> Set[Fact]:
        """What others may count on."""
        return frozenset()

    def needs(self) -> Mapping[Fact, str]:
        """What somebody has to give, each with what is told where nobody does: key, value, why,
        what to set instead."""
        return {}

    def problems(self) -> Iterator[str]:
        """What cannot be of its own keys, one line each."""
        return iter(())

    def try_out(self) -> None:
        """Tries a user's own code that is among its keys, before anything starts.

        Raises InputError if it cannot be used.
        """


TURNS = (
    "in an environment an answer has several turns; set environment=none, or algorithm=online_dpo"
)
"""What is told where an answer of one turn is needed."""
PRESUPPOSED = {Fact.praised_replies: Fact.feedback}
"""What is told only where the other is given: else that says enough."""


def unmet(options: Iterable[Option]) -> Iterator[str]:
    """What one of them needs and none of them gives, in words."""
    options = list(options)
    given = {fact for option in options for fact in option.gives()}
    lines = [
        line
        for one in options
        for fact, line in one.needs().items()
        if fact not in given and (fact not in PRESUPPOSED or PRESUPPOSED[fact] in given)
    ]
    yield from dict.fromkeys(lines)


Schema = TypeVar("Schema")


def found_in(package: str, base: type[Schema]) -> dict[str, type[Schema]]:
    """Every schema in the package's files that is a `base` and has a `name` of its own, by it.

    Packages within it are not searched.
    """
    found = iter_modules(import_module(package).__path__)
    names = [one.name for one in found if not one.ispkg and one.name != "__main__"]
    modules = [import_module(f"{package}.{name}") for name in names]
    schemas = [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, base)
        and value.__module__ == module.__name__
        and "name" in vars(value)
    ]
    options = {vars(schema)["name"]: schema for schema in schemas}
    assert len(options) == len(schemas), f"two options of one name in {package}"
    return options
