"""Trains a classifier to judge, in one process: rows in, weights that changed and numbers out.

Dimensions: B examples, R rows of an example (two, or one where only scores are fitted), L labels.
For kind=steps, B counts comparisons of steps, those of all examples in order, and R is 2.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlhf.config.models import DType, PolicyConfig
from rlhf.config.reward import Balance, Kind, Margin, RewardTrainingConfig
from rlhf.judges.models.classifiers import Classifier, distinct
from rlhf.learning.schedules import learning_rate
from rlhf.models.batching import Shape, micro_batches, optimizer_steps
from rlhf.problems import RunFailed
from rlhf.reward import losses as reward_losses
from rlhf.reward.balance import SourceBalance
from rlhf.reward.contrast import Contrast
from rlhf.reward.encoding import Encoded
from rlhf.reward.losses import skew_score, unit
from rlhf.seeds import derive_seed
from rlhf.watching.terminal import Terminal


class TrainingDiverged(RunFailed):
    """A loss, a gradient or a logit is not finite."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a training came to."""

    before: dict[str, float]
    """As `evaluate` measures held-out examples."""
    after: dict[str, float]
    losses: list[float]
    """Of every optimizer step."""
    source_weights: dict[str, float] = field(default_factory=dict)
    """With balance=more, each source's mean weight."""


def fit(
    config: RewardTrainingConfig,
    classifier: Classifier,
    examples: Sequence[Encoded],
    heldout: Sequence[Encoded],
    terminal: Terminal,
) -> Outcome:
    """Trains, between two measurements on held-out examples, and shows how it goes."""
    before = evaluate(config, classifier, heldout)
    terminal.print(_line("before training", before))
    balance = None
    if config.balance is Balance.more:
        balance = SourceBalance(classifier, config.balance_memory)
    history = train(
        config,
        classifier,
        examples,
        balance,
        lambda done, total, loss: terminal.advance("step", done, total, f"loss {loss:.4f}"),
    )
    terminal.close()
    after = evaluate(config, classifier, heldout)
    terminal.print(_line("after training", after))
    return Outcome(before, after, history, balance.mean_weights if balance else {})


def _line(when: str, metrics: Mapping[str, float]) -> str:
    return f"held-out {when}: " + " | ".join(f"{n} {v:.4f}" for n, v in metrics.items())


def losses(config: RewardTrainingConfig, logits_BRL: Tensor, examples: Sequence[Encoded]) -> Tensor:
    """The loss of each example."""
    found_B = _as_labelled(config, logits_BRL, examples)
    labels = [example.label for example in examples]
    if config.kind is Kind.steps or all(label == 1 for label in labels):
        return found_B
    opposite_B = _as_labelled(config, logits_BRL.flip(1), examples, -1)
    return reward_losses.soft(found_B, opposite_B, logits_BRL.new_tensor(labels))


def _as_labelled(
    config: RewardTrainingConfig,
    logits_BRL: Tensor,
    examples: Sequence[Encoded],
    side: int = 1,
) -> Tensor:
    """If the chosen side is the better one for sure; `side`: -1 where the two are exchanged, and
    what the chosen one is to be ahead the other is behind."""
    chosen_BL, rejected_BL = logits_BRL[:, 0], logits_BRL[:, -1]
    if config.kind is Kind.gpm:
        return reward_losses.gpm(chosen_BL, rejected_BL, config.temperature)
    if config.kind is Kind.attributes:
        targets_BL = logits_BRL.new_tensor([example.targets for example in examples])
        if config.data.vote_columns:
            return reward_losses.votes(chosen_BL, rejected_BL, targets_BL)
        return reward_losses.attributes(chosen_BL, targets_BL)
    chosen_B, rejected_B = chosen_BL[:, 0], rejected_BL[:, 0]
    if config.kind is Kind.steps:
        num_steps = [len(example.places) // 2 for example in examples]
        return reward_losses.steps(chosen_B, rejected_B, num_steps)
    if config.kind is Kind.pair:
        return reward_losses.pair(chosen_B, rejected_B)
    if config.kind is Kind.regression:
        targets_BR = logits_BRL.new_tensor([example.targets for example in examples])
        return reward_losses.regression(logits_BRL[..., 0], targets_BR).mean(-1)
    margins = [example.margin for example in examples if example.margin is not None]
    if not margins:
        return reward_losses.bradley_terry(chosen_B, rejected_B)
    margin_B = logits_BRL.new_tensor(margins)
    if config.margin is Margin.scale:
        return reward_losses.scaled_bradley_terry(chosen_B, rejected_B, margin_B)
    return reward_losses.bradley_terry(chosen_B, rejected_B, side * margin_B)


def lead(kind: Kind, logits_BRL: Tensor) -> Tensor:
    """Above 0 where the chosen side is preferred, `(B,)`; needs two rows per example."""
    chosen_BL, rejected_BL = logits_BRL[:, 0], logits_BRL[:, 1]
    if kind is Kind.gpm:
        return skew_score(unit(chosen_BL), unit(rejected_BL))
    return (chosen_BL - rejected_BL)[:, 0]


def evaluate(
    config: RewardTrainingConfig, classifier: Classifier, examples: Sequence[Encoded]
) -> dict[str, float]:
    """Mean loss, and the share of examples whose chosen side is preferred, a tie being half; for
    kind=steps, the share of comparisons of steps.
    """
    logits_BRL = _heldout_logits(config, classifier, examples)
    num_bad = int((~logits_BRL.isfinite()).any(-1).sum())
    if num_bad:
        raise TrainingDiverged(
            f"{num_bad} of {logits_BRL[..., 0].numel()} held-out scores are not finite; lower "
            "learning_rate"
        )
    metrics = {"loss": losses(config, logits_BRL, examples).mean().item()}
    if logits_BRL.shape[1] != 2:
        return metrics
    if config.data.vote_columns and config.kind is Kind.attributes:
        return metrics | _by_criterion(config.data.vote_columns, logits_BRL, examples)
    lead_B = lead(config.kind, logits_BRL)
    metrics["accuracy"] = _share_right(lead_B)
    sources = sorted({example.source for example in examples} - {""})
    if config.kind is not Kind.steps:
        for source in sources:
            own_B = torch.tensor([example.source == source for example in examples])
            metrics[f"accuracy_{source}"] = _share_right(lead_B[own_B])
    return metrics


def _share_right(lead_B: Tensor) -> float:
    """A tie is half."""
    return (lead_B.sign().double().mean().item() + 1) / 2


def _by_criterion(
    names: Sequence[str], logits_BRL: Tensor, examples: Sequence[Encoded]
) -> dict[str, float]:
    """Of each criterion, over the examples in which one side was voted for; and of all of these."""
    ahead_BL = logits_BRL[:, 0] - logits_BRL[:, 1]
    voted_BL = 2 * logits_BRL.new_tensor([example.targets for example in examples]) - 1
    right_BL, known_BL = ahead_BL * voted_BL, voted_BL.nan_to_num() != 0
    found = {}
    if known_BL.any():
        found["accuracy"] = _share_right(right_BL[known_BL])
    for place, name in enumerate(names):
        if (known_B := known_BL[:, place]).any():
            found[f"accuracy_{name}"] = _share_right(right_BL[known_B, place])
    return found


@torch.inference_mode()
def _heldout_logits(
    config: RewardTrainingConfig, classifier: Classifier, examples: Sequence[Encoded]
) -> Tensor:
    """As `_logits`, of any number of examples."""
    found: dict[int, Tensor] = {}
    for batch in micro_batches(_shapes(examples), config.micro_batch_tokens):
        logits_BRL = _logits(classifier, [examples[i] for i in batch]).cpu()
        sizes = [max(1, len(examples[i].places) // 2) for i in batch]
        found |= dict(zip(batch, logits_BRL.split(sizes), strict=True))
    return torch.cat([found[i] for i in range(len(examples))])


def train(
    config: RewardTrainingConfig,
    classifier: Classifier,
    examples: Sequence[Encoded],
    balance: SourceBalance | None,
    show: Callable[[int, int, float], None],
) -> list[float]:
    """The loss of every optimizer step; `show(step, steps, loss)` after each.

    Dropout stays off, and weights are fp32 until the end; with dtype=bfloat16 forward passes are in
    bfloat16, and so are the weights at the end.
    """
    parameters = [p for p in classifier.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
    rate = PolicyConfig(
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        lr_warmup_ratio=config.lr_warmup_ratio,
    )
    prompts = [example.prompt for example in examples]
    seed = derive_seed(config.seed, "reward")
    steps = optimizer_steps(prompts, config.batch_size, config.epochs, seed)
    contrast = Contrast(config.contrast, config.seed) if config.contrast.weight else None
    history = []
    for done, step in enumerate(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(rate, (done + 0.5) / len(steps))
        loss = _backward(config, classifier, [examples[i] for i in step], balance, contrast)
        norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingDiverged(
                f"step {done + 1} of {len(steps)} has loss {loss} and gradient norm {norm}; lower "
                "learning_rate"
            )
        optimizer.step()
        optimizer.zero_grad()
        history.append(loss)
        show(done + 1, len(steps), loss)
    classifier.model.to(getattr(torch, config.model.dtype.value))
    return history


def _backward(
    config: RewardTrainingConfig,
    classifier: Classifier,
    step: Sequence[Encoded],
    balance: SourceBalance | None,
    contrast: Contrast | None,
) -> float:
    """Adds the gradient of the step's loss, which it returns: the mean of its examples', or their
    sum by the weights of their sources, and the mean of what keeps them apart."""

    def losses_of(examples: Sequence[Encoded]) -> Tensor:
        with _precision(config, classifier):
            logits_BRL = _logits(classifier, examples)
        return losses(config, logits_BRL, examples)

    packed = micro_batches(_shapes(step), config.micro_batch_tokens)
    batches = [[step[i] for i in batch] for batch in packed]
    weights = dict.fromkeys({example.source for example in step}, 1 / len(step))
    if balance is not None:
        counts = Counter(example.source for example in step)
        found = balance.weights(batches, losses_of)
        # K · Σ λ_k · (mean loss of source k), of the K sources that the step has
        weights = {name: len(found) * found[name] / counts[name] for name in found}
    total = 0.0
    for examples in batches:
        if contrast is None:
            loss_B, apart = losses_of(examples), 0.0
        else:
            with _precision(config, classifier):
                logits_BRL, states_BRD = _logits_and_states(classifier, examples)
            loss_B = losses(config, logits_BRL, examples)
            apart = contrast.losses(states_BRD).sum() / len(step)
        weights_B = loss_B.new_tensor([weights[one.source] for one in examples])
        loss = (loss_B * weights_B).sum() + apart
        loss.backward()
        total += loss.item()
    return total


def _shapes(examples: Sequence[Encoded]) -> list[Shape]:
    """Tokens of all rows of each example."""
    return [Shape(len(one.rows) * max(map(len, one.rows)), 0) for one in examples]


def _logits(classifier: Classifier, examples: Sequence[Encoded]) -> Tensor:
    """`(B, R, L)`, in one forward pass."""
    rows, numbers = distinct([row for example in examples for row in example.rows])
    if not examples[0].places:
        logits_NL = classifier.logits(rows)[numbers]
        return logits_NL.view(len(examples), len(examples[0].rows), -1)
    number = iter(numbers)
    places = []
    for example in examples:
        own = [next(number) for _ in example.rows]
        places += [(own[row], token) for row, token in example.places]
    logits_NL = classifier.logits_at(rows, places)
    return logits_NL.view(len(places) // 2, 2, -1)


def _logits_and_states(
    classifier: Classifier, examples: Sequence[Encoded]
) -> tuple[Tensor, Tensor]:
    """`(B, R, L)` and `(B, R, D)`, in one forward pass over whole rows."""
    rows, numbers = distinct([row for example in examples for row in example.rows])
    shape = len(examples), len(examples[0].rows), -1
    logits_NL, states_ND = classifier.logits_and_states(rows)
    return logits_NL[numbers].view(shape), states_ND[numbers].view(shape)


def _precision(config: RewardTrainingConfig, classifier: Classifier) -> Any:
    enabled = config.model.dtype is DType.bfloat16
    return torch.autocast(classifier.device.type, torch.bfloat16, enabled=enabled)
