"""A general preference model: an embedding per completion, and a skew score of any two.

Zhang et al. 2024, arXiv 2410.02197. It can hold cycles, and K completions take K rows.
"""

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, ClassVar

from rlhf.judges.base import ModelJudgeConfig
from rlhf.judges.groups import Group
from rlhf.objectives.late import Tensor, torch
from rlhf.options import Fact
from rlhf.ranges import number
from rlhf.records import Comparison


@dataclass
class GPMConfig(ModelJudgeConfig):
    """A general preference model: its labels are an embedding of prompt and completion."""

    name: ClassVar[str] = "gpm"
    labels: ClassVar[str] = "a general preference model has an even number of them"

    temperature: float = number(0.1, above=0)
    """Of the score in P = σ(score / temperature); that of its training."""

    @staticmethod
    def fits(num_labels: int) -> bool:
        return num_labels >= 2 and num_labels % 2 == 0

    def differences(self, trained: dict[str, Any]) -> Iterator[str]:
        if trained["temperature"] != self.temperature:
            yield (
                f"it was trained with temperature={trained['temperature']}, and "
                f"judge.temperature={self.temperature}; they must be equal"
            )

    def gives(self) -> Set[Fact]:
        return {Fact.verdicts, Fact.matrix}

    def build(self) -> "GPM":
        return GPM(self)


class GPM:
    """Compares completions by a sequence-classification model with an even number of labels.

    On the GPU if there is one. Raises InputError if the model cannot be used.
    """

    def __init__(self, config: GPMConfig) -> None:
        # Where it is needed: both bring large libraries along.
        from rlhf.judges.models.classifiers import Classifier
        from rlhf.models.files import fingerprint

        directory = config.folder()
        self._classifier = Classifier.load(directory, config.dtype, config.max_tokens)
        self._temperature = config.temperature
        self._micro_batch_tokens = config.micro_batch_tokens
        self._name = f"gpm/{directory.name}@{fingerprint(directory)}"

    def judge(self, groups: Sequence[Group]) -> list[Comparison]:
        """P = σ(score / temperature) of unit embeddings.

        None in the row and the column of a completion that is too long, that the template refuses,
        or whose embedding is not finite or has no direction.
        """
        rows = [
            self._classifier.encode(group.prompt.messages, completion.text)
            for group in groups
            for completion in group.completions
        ]
        found = iter(self._classifier.read(rows, self._micro_batch_tokens))
        return [self._comparison([next(found) for _ in group.completions]) for group in groups]

    def _comparison(self, embeddings: Sequence[list[float] | None]) -> Comparison:
        size = len(embeddings)
        matrix: list[list[float | None]] = [[None] * size for _ in range(size)]
        known = {i: numbers for i, numbers in enumerate(embeddings) if numbers and any(numbers)}
        unit_KD = unit(torch.tensor(list(known.values()), dtype=torch.float64))
        score_KK = skew_score(unit_KD[:, None], unit_KD[None, :])
        win_prob = (score_KK / self._temperature).sigmoid().tolist()
        for i, row in zip(known, win_prob, strict=True):
            for j, value in zip(known, row, strict=True):
                matrix[i][j] = value
        return Comparison(tuple(map(tuple, matrix)), self._name)


def unit(embedding_BD: Tensor) -> Tensor:
    """Divided by the L2 norm; not a number where that is 0."""
    return embedding_BD / embedding_BD.norm(dim=-1, keepdim=True)


def skew_score(first_BD: Tensor, second_BD: Tensor) -> Tensor:
    """Σ_k (a_2k b_2k+1 - a_2k+1 b_2k): positive where the first is preferred, and so that
    exchanging the two sides negates it. Leading dimensions broadcast.
    """
    turned_BD = (
        first_BD[..., 0::2] * second_BD[..., 1::2] - first_BD[..., 1::2] * second_BD[..., 0::2]
    )
    return turned_BD.sum(-1)
