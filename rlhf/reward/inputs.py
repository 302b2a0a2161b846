"""What `python -m rlhf.reward` reads, and all that can be wrong with it without any weights."""

from collections.abc import Iterator
from pathlib import Path

from rlhf.config.models import TinyModelConfig
from rlhf.config.reward import Balance, Kind, Margin, RewardTrainingConfig
from rlhf.data.preference_files import Examples, read_examples
from rlhf.launching.checks import out_of_range, unknown_keys
from rlhf.problems import InputError
from rlhf.reward.labels import vote_weight_problems
from rlhf.reward.new_head import check_start
from rlhf.seeds import derive_seed
from rlhf.storage.output_folder import output_problems
from rlhf.toys.tiny import build_tiny_model


def read_inputs(config: RewardTrainingConfig, scratch: Path) -> tuple[Path, Examples]:
    """The model to start from and all examples; a tiny model is made in `scratch`.

    Raises InputError with everything that is wrong with configuration, model and files.
    """
    problems = list(config_problems(config))
    start, examples = scratch / "model", None
    try:
        if isinstance(config.model, TinyModelConfig) and config.model.path == "tiny":
            build_tiny_model(config.model, start, derive_seed(config.seed, "tiny"))
        else:
            start = check_start(config.model.path)
    except InputError as error:
        problems += error.problems
    try:
        examples = read_examples(config.data, in_steps=config.kind is Kind.steps)
    except InputError as error:
        problems += error.problems
    if problems or examples is None:
        raise InputError(problems)
    return start, examples


def config_problems(config: RewardTrainingConfig) -> Iterator[str]:
    """One line for each thing that cannot be: key, value, what is allowed, how to fix it."""
    yield from (*unknown_keys(config, ""), *out_of_range(config, ""))
    data, kind = config.data, config.kind
    if kind is Kind.gpm and config.embedding_size % 2:
        yield f"embedding_size={config.embedding_size}: must be even"
    if kind is Kind.attributes and not (data.score_columns or data.vote_columns):
        yield (
            "data.score_columns=[]: kind=attributes fits scores; name the columns that have them, "
            "or data.vote_columns, those that say by each criterion which side is better"
        )
    if data.score_columns and data.vote_columns:
        yield "data.vote_columns: data.score_columns fits scores of one side; remove either"
    if kind is Kind.attributes and data.rejected_column is not None and not data.vote_columns:
        yield (
            f"data.rejected_column={data.rejected_column}: kind=attributes reads one side; set it "
            "to null, and data.chosen_column to the column with the answers"
        )
    if kind is not Kind.attributes and data.score_columns:
        yield f"data.score_columns={data.score_columns}: only kind=attributes fits several scores"
    if len(set(data.score_columns)) < len(data.score_columns):
        yield f"data.score_columns={data.score_columns}: names a column twice; remove one"
    yield from _label_problems(config)
    if config.contrast.weight and kind is not Kind.bradley_terry:
        yield (
            f"contrast.weight={config.contrast.weight:g}: only kind=bradley_terry has one "
            "difference per pair to keep apart; set it to 0"
        )
    if config.keep_head and config.model.is_made:
        yield "keep_head=true: a model made from nothing has no head; give model.path=JUDGE"
    if kind is not Kind.bradley_terry and data.margin_column is not None:
        yield f"data.margin_column={data.margin_column}: only kind=bradley_terry takes margins"
    for side in ("chosen", "rejected"):
        column, score_column = (
            getattr(data, f"{side}_column"),
            getattr(data, f"{side}_score_column"),
        )
        key = f"data.{side}_score_column={'null' if score_column is None else score_column}"
        one_side = kind in (Kind.regression, Kind.attributes) and not data.vote_columns
        if column is None and not one_side:
            yield f"data.{side}_column=null: kind={kind.value} compares two sides; name the column"
        if score_column is not None and (kind is not Kind.regression or column is None):
            yield f"{key}: only kind=regression fits scores, and only of sides that it reads"
        if score_column is None and kind is Kind.regression and column is not None:
            yield f"{key}: kind=regression fits scores; name the column that has the {side} side's"
    yield from output_problems("output", config.output)


_COMPARING = (Kind.bradley_terry, Kind.pair, Kind.gpm)


def _label_problems(config: RewardTrainingConfig) -> Iterator[str]:
    """Of what says how sure labels are, where rows come from, and what they are judged by."""
    data, kind = config.data, config.kind
    labels = {
        f"data.label_column={data.label_column}": data.label_column,
        f"data.strength_column={data.strength_column}": data.strength_column,
        f"data.vote_columns={data.vote_columns}": data.vote_columns,
    }
    given = [key for key, value in labels.items() if value]
    kinds = ", ".join(one.value for one in _COMPARING)
    for key in given:
        if kind not in _COMPARING and not (kind is Kind.attributes and "vote" in key):
            yield f"{key}: only kinds that compare whole answers learn from it ({kinds})"
    if len(given) > 1:
        yield f"{given[1]}: {given[0]} says how sure a label is already; remove either"
    if given and data.margin_column is not None:
        yield f"data.margin_column={data.margin_column}: {given[0]} goes without; remove either"
    if config.margin is Margin.strength and data.strength_column is None:
        yield "margin=strength: needs an ensemble's preferences; name data.strength_column"
    if config.margin is Margin.strength and kind is not Kind.bradley_terry:
        yield "margin=strength: only kind=bradley_terry takes margins"
    if len(set(data.vote_columns)) < len(data.vote_columns):
        yield f"data.vote_columns={data.vote_columns}: names a column twice; remove one"
    yield from vote_weight_problems(data.vote_columns, data.vote_weights)
    if kind is Kind.attributes and data.vote_weights:
        yield "data.vote_weights: kind=attributes keeps criteria apart; weigh them in judge.weights"
    if config.repair.flip + config.repair.smooth > 1:
        yield (
            f"repair.smooth={config.repair.smooth}: with repair.flip={config.repair.flip} it is "
            "more than all rows"
        )
    if config.balance is Balance.more and data.source_column is None:
        yield "balance=more: needs to know where rows come from; name data.source_column"
    if data.criterion_column is not None and kind is not Kind.pair:
        yield f"data.criterion_column={data.criterion_column}: only kind=pair reads a criterion"
