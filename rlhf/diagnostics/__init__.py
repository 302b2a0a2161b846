"""What is logged of the pairs that a policy is trained on: one file per panel of metrics.

A file holds the metrics' names, what they mean, how they are measured, and how they are drawn. To
add one: its file here, a test, and the rows of `python -m rlhf.watching.metric_names`.
"""

from rlhf.diagnostics.base import Diagnostic, TrainedPairs
from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.options import found_in

DIAGNOSTICS = dict(sorted(found_in(__name__, Diagnostic).items(), key=lambda found: found[1].place))
"""By name, in the order in which they are drawn."""
PAIR_METRICS = {metric.name: metric for one in DIAGNOSTICS.values() for metric in one.metrics}
"""By name without `policy/`."""


def names_for(objective: ObjectiveConfig) -> list[str]:
    """The metrics of PAIR_METRICS that pairs have under this objective."""
    return [name for name, metric in PAIR_METRICS.items() if metric.is_of(objective)]


def pair_metrics(pairs: TrainedPairs) -> dict[str, Tensor]:
    """One number per pair, `(B,)`, for each of the objective's names; nothing of it is learnt."""
    return {name: PAIR_METRICS[name].measure(pairs).detach() for name in names_for(pairs.objective)}
