"""What users' functions are given, by name: whoever changes it changes what others have written,
and this test on purpose. Adding is harmless; renaming and taking away are not.
"""

import dataclasses
import inspect

from rlhf.algorithms import function as algorithm
from rlhf.algorithms.base import Services
from rlhf.judges import function as judge
from rlhf.objectives import Judged, PairLogprobs, Pairs, Peers, SideLogprobs
from rlhf.objectives import function as objective
from rlhf.records import (
    Asked,
    Collected,
    Comparison,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Message,
    Preference,
    Prompt,
    Sampling,
    Side,
)
from rlhf.stages import Judge, Rollout
from rlhf.tools import function as tool
from rlhf.watching import tracking_function as tracking


def test_what_functions_are_called_with_by_position():
    assert judge.PARAMETERS == ("prompt", "completions", "row")
    assert objective.PARAMETERS == ("pairs",)
    assert algorithm.PARAMETERS == ("asked", "services")
    assert tool.PARAMETERS == ("text",)
    assert tracking.PARAMETERS == ("round", "metrics")


FIELDS = {
    Message: "role content",
    Prompt: "id messages token_ids answer prefix num_prefix_tokens row",
    Asked: "prompt seed progress",
    Sampling: "num_completions max_tokens temperature top_p mixture stop",
    Completion: "prompt_id sample token_ids logprobs text truncated policy_version mixture stopped "
    "num_cached_tokens observed reward failure",
    Judgement: "scores judge parts reasons member_failures additions num_written_tokens",
    Comparison: "win_prob judge order_disagreement parts reasons member_failures "
    "num_written_tokens",
    Side: "prompt completion score emphasis",
    Preference: "chosen rejected judge weight win_prob",
    Dropped: "reason chosen rejected",
    Collected: "prompt completions judgement preferences dropped tree num_more_tokens said",
    Services: "rollout judge sampling feedback learns_from_ties store self_evaluation "
    "completion_ids",
    Pairs: "policy anchors judged tokens memory",
    PairLogprobs: "chosen_B rejected_B chosen_tokens_B rejected_tokens_B",
    SideLogprobs: "chosen_B rejected_B",
    Judged: "win_prob_B chosen_score_B rejected_score_B chosen_mixture_B rejected_mixture_B peers",
    Peers: "list_B side_SB distance noise",
}
"""In the order in which they are given by position."""


def test_what_they_are_given_and_return_has_these_fields():
    for kind, names in FIELDS.items():
        named = getattr(kind, "_fields", None)
        found = named or tuple(field.name for field in dataclasses.fields(kind))
        assert found == tuple(names.split()), kind


PROPERTIES = {
    Prompt: "text",
    Completion: "num_own_tokens",
    Judgement: "failed",
    Comparison: "failed scores",
    Preference: "prompt margin sides",
    Side: "text tokens",
    PairLogprobs: "both_SB",
    SideLogprobs: "both_SB",
    Judged: "wins_SB scores_SB mixtures_SB others",
}


def test_and_these_properties():
    for kind, names in PROPERTIES.items():
        for name in names.split():
            assert isinstance(inspect.getattr_static(kind, name), property), (kind, name)


def test_and_these_methods():
    methods = {
        Rollout.generate: "self prompt sampling seed",
        Judge.judge: "self prompt completions",
        Pairs.log_ratios: "self anchor",
        Preference.over: "prompt chosen rejected chosen_score rejected_score judge weight win_prob "
        "emphasis",
    }
    for method, names in methods.items():
        assert tuple(inspect.signature(method).parameters) == tuple(names.split()), method


def test_and_prompts_can_be_dropped_for_these_reasons():
    known = "tie identical truncated short_group judge_failed empty"
    assert set(known.split()) <= {reason.value for reason in DropReason}
