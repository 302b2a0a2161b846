"""Which language model is asked, and how."""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from rlhf.config.texts import from_anywhere, location, text
from rlhf.judges.base import JudgeConfig, Seat
from rlhf.ranges import number

OR_POLICY = ", or judge.policy=true"
"""Where there is a policy."""


@dataclass
class AskedModelConfig(JudgeConfig):
    """A language model that is asked questions; one that thinks before it answers is given
    `rlhf.judges.questions.thoughts.THOUGHT_TOKENS` for that.

    Either `path`, by rollout workers of its own, or `endpoint`.
    """

    path: str | None = location(None)
    """A Hugging Face directory or hub id, run on the engine of `rollout`."""
    endpoint: str | None = text()
    """Base URL of an OpenAI-compatible server, such as http://judge:8000/v1; its key is read from
    the environment variable AGON_JUDGE_API_KEY."""
    model: str | None = text()
    """The model's name at the endpoint."""
    logprobs: bool = True
    """Ask the endpoint how likely each label is. False takes the one that it answers with for
    certain, for servers that refuse to tell."""
    max_tokens: int = number(8192, at_least=1)
    """Of a question; a longer one is a judge failure."""
    concurrency: int = number(64, at_least=1)
    """Requests under way at the endpoint."""
    timeout_s: float = number(60.0, above=0)
    """Of one request to the endpoint."""
    patience_s: float = number(300.0, at_least=0)
    """How long a question is asked again where the endpoint is busy, broken or away, before it
    counts as failed."""

    @property
    def seat(self) -> Seat:
        return Seat.nowhere if self.path is None else Seat.engine

    @property
    def loads(self) -> str | None:
        return self.path

    @property
    def shares(self) -> Hashable:
        return None if self.path is None else ("engine", from_anywhere(self.path))

    def problems(self) -> Iterator[str]:
        if self.path and self.endpoint:
            yield (
                f"judge.path={self.path}: the judge is one model, so it cannot be combined with "
                "judge.endpoint; remove either"
            )
        elif self.endpoint:
            yield from _endpoint_problems(self.endpoint, self.model)
        elif self.path:
            if self.model is not None:
                yield f"judge.model={self.model}: is read with judge.endpoint only; remove it"
        else:
            yield (
                "judge.path, judge.endpoint: one is required; add judge.path=<model> or "
                "judge.endpoint=http://<host>:<port>/v1 judge.model=<name> to the command"
                f"{OR_POLICY}"
            )


def _endpoint_problems(endpoint: str, model: str | None) -> Iterator[str]:
    try:
        url = urlsplit(endpoint)
        is_web = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port that is no number, a bracket too many
        yield "judge.endpoint: is no URL; give one such as http://judge:8000/v1"
        return
    if "@" in endpoint or url.query:
        # Not repeated here: it would end up in logs, as the configuration does in files.
        yield (
            "judge.endpoint: contains a login or a query; set the key as AGON_JUDGE_API_KEY instead"
        )
    elif not is_web or url.fragment:
        yield f"judge.endpoint={endpoint}: must be a URL such as http://judge:8000/v1"
    if not model:
        yield "judge.model: is required with judge.endpoint; add judge.model=<name of its model>"
