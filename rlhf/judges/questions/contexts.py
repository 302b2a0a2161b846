"""What a judge is to judge by: the same for all prompts, or as a prompt's row says."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from rlhf.records import Prompt


class NoContext(Exception):
    """A row does not say what to judge by; and why."""


@dataclass(frozen=True, slots=True)
class Contexts:
    """By name, what to judge by, and how likely each is."""

    texts: Mapping[str, str]
    weights: Mapping[str, float]
    """1 unless given."""
    column: str | None = None
    """Of a row, that says it of its own prompt instead: a name of one of the texts, a text, or
    weights by name."""

    def of(self, prompt: Prompt) -> "Contexts":
        """Those of this prompt; raises NoContext."""
        return self if self.column is None else self._chosen((prompt.row or {}).get(self.column))

    def shares(self) -> list[float]:
        """How likely each is, in order: P(z), which sum to 1."""
        given = [self.weights.get(name, 1.0) for name in self.texts]
        return [weight / sum(given) for weight in given]

    def _chosen(self, value: Any) -> "Contexts":
        if isinstance(value, str) and value.strip():
            return Contexts({value: self.texts.get(value, value)}, {})
        if not isinstance(value, Mapping):
            raise NoContext(f"is {value!r}, and neither a text nor weights by name")
        # Columns of structs have an empty place for every name of other rows.
        given = {name: weight for name, weight in value.items() if weight is not None}
        if why := next(self._faults(given), ""):
            raise NoContext(why)
        return Contexts({name: self.texts[name] for name in given if given[name]}, given)

    def _faults(self, weights: Mapping[str, Any]) -> Iterator[str]:
        there = ", ".join(self.texts) or "none"
        for name, weight in weights.items():
            if name not in self.texts:
                yield f"weighs {name!r}, which is none of judge.contexts; there are {there}"
            elif not isinstance(weight, int | float) or not 0 <= weight < inf:
                yield f"gives {name} the weight {weight!r}, which must be a number, and at least 0"
        if not any(weights.values()):
            yield "gives no context any weight"
