"""Numbers of a round, of an evaluation and of a run, worked by hand."""

import math
from dataclasses import replace
from itertools import combinations

import pytest

from rlhf.records import (
    LOGGED,
    Collected,
    Comparison,
    Completion,
    Dropped,
    DropReason,
    Judgement,
    Message,
    Preference,
    Prompt,
)
from rlhf.watching.metrics import (
    ACCURACY,
    SATISFACTION,
    Group,
    collection_metrics,
    completion_metrics,
    evaluation_metrics,
    pass_at,
    run_summary,
)


def prompt(id: str) -> Prompt:
    return Prompt(id=id, messages=(Message("user", f"{id}?"),), token_ids=(1, 2))


def completion(
    id: str, sample: int, text: str, *logprobs: float, truncated: bool = False, version: int = 3
) -> Completion:
    return Completion(
        prompt_id=id,
        sample=sample,
        token_ids=tuple(range(len(logprobs))),
        logprobs=logprobs,
        text=text,
        truncated=truncated,
        policy_version=version,
    )


def preferred(over: Prompt, chosen: Completion, rejected: Completion, *scores: float) -> Preference:
    return Preference.over(over, chosen, rejected, *scores, judge="fake@1")


@pytest.fixture
def collected() -> list[Collected]:
    a, b, c = prompt("a"), prompt("b"), prompt("c")
    a0 = completion("a", 0, "12", -0.1, -0.2, -0.3)
    a1 = completion("a", 1, "7", -1.0)
    b0 = completion("b", 0, "5", -0.5, -0.5, version=2)
    b1 = completion("b", 1, "5", -0.4, -0.6, version=2)
    c0 = completion("c", 0, "99", -1.0, -1.0, -1.0, -0.4, truncated=True)
    return [
        Collected(
            a, (a0, a1), Judgement((1.0, 0.25), "fake@1"), (preferred(a, a0, a1, 1.0, 0.25),), ()
        ),
        Collected(
            b, (b0, b1), Judgement((0.0, None), "fake@1"), (), (Dropped(DropReason.TIE, b0, b1),)
        ),
        Collected(
            c,
            (c0,),
            Judgement((math.nan,), "fake@1"),
            (),
            (
                Dropped(DropReason.TRUNCATED, rejected=c0),
                Dropped(DropReason.SHORT_GROUP),
            ),
        ),
    ]


def test_collection_metrics_worked_by_hand(collected: list[Collected]) -> None:
    assert collection_metrics(collected, policy_version=3) == pytest.approx(
        {
            "rollout/num_prompts": 3,
            "rollout/num_completions": 5,
            "rollout/num_tokens": 12,
            "rollout/length_mean": 12 / 5,
            "rollout/truncated_rate": 1 / 5,
            "rollout/failed_rate": 0,
            "rollout/unique_rate": (1 + 1 / 2 + 1) / 3,
            "rollout/entropy": (0.6 + 1.0 + 1.0 + 1.0 + 3.4) / 12,
            "judge/score_mean": (1.0 + 0.25 + 0.0) / 3,
            "judge/invalid_rate": 2 / 5,
            "judge/tie_rate": 1 / 2,
            "preference/count": 1,
            **{f"preference/dropped_{reason}": 0 for reason in DropReason},
            "preference/dropped_tie": 1,
            "preference/dropped_truncated": 1,
            "preference/dropped_short_group": 1,
            "preference/margin_mean": 0.75,
            "preference/length_gap": 2,
            "preference/similarity": 0,
            "staleness/mean": (0 + 0 + 1 + 1 + 0) / 5,
        }
    )


def test_parts_have_means_of_their_own_without_what_is_missing(collected) -> None:
    first, *rest = collected
    parts = {"right": (1.0, 0.0), "short": (None, 0.5)}
    judged = replace(first, judgement=replace(first.judgement, parts=parts))
    metrics = collection_metrics([judged, *rest], policy_version=3)
    found = {name: value for name, value in metrics.items() if "part_" in name}
    assert found == {"judge/part_right": 0.5, "judge/part_short": 0.5}
    group = (judged.prompt, judged.completions, judged.judgement)
    held_out = evaluation_metrics([group], [], None)
    assert (held_out["part_right"], held_out["part_short"]) == (0.5, 0.5)


def test_failures_of_members_are_shares_of_what_each_was_asked(collected) -> None:
    first, *rest = collected
    failures = {"pair": (True, False, False), "pair.in": (False, False)}
    judged = replace(first, judgement=replace(first.judgement, member_failures=failures))
    metrics = collection_metrics([judged, *rest], policy_version=3)
    found = {name: value for name, value in metrics.items() if "failed_" in name[:13]}
    assert found == {"judge/failed_pair": pytest.approx(1 / 3), "judge/failed_pair.in": 0}
    group = (judged.prompt, judged.completions, judged.judgement)
    assert evaluation_metrics([group], [group], None)["failed_pair"] == pytest.approx(1 / 3)


def test_the_order_of_prompts_does_not_matter(collected: list[Collected]) -> None:
    forth = collection_metrics(collected, policy_version=3)
    assert collection_metrics(collected[::-1], policy_version=3) == pytest.approx(forth)


def test_a_mean_over_nothing_is_left_out_and_a_count_is_not() -> None:
    metrics = collection_metrics([], policy_version=0)
    assert set(metrics.values()) == {0}
    assert set(metrics) == {
        "rollout/num_prompts",
        "rollout/num_completions",
        "rollout/num_tokens",
        "preference/count",
        *(f"preference/dropped_{reason}" for reason in DropReason),
    }


def test_no_metric_is_nan_where_the_judge_failed_throughout(collected: list[Collected]) -> None:
    metrics = collection_metrics(collected[2:], policy_version=3)
    assert "judge/score_mean" not in metrics
    assert "judge/tie_rate" not in metrics
    assert metrics["judge/invalid_rate"] == 1.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_ties_that_are_trained_on_count_too_and_equal_texts_say_nothing_of_the_judge() -> None:
    prompt = Prompt("d", (), (1,))
    one, two, three, four = (
        Completion("d", i, (i,), (), text, False, 3) for i, text in enumerate("xyzx")
    )
    pairs = [
        Preference.over(prompt, *sides, 0.5, 0.5, "pair@1", 1 / 3, win_prob)
        for sides, win_prob in (((one, two), 0.5), ((one, three), 0.9), ((one, four), 0.5))
    ]
    level = Comparison(((0.5,) * 4,) * 4, "pair@1")
    group = Collected(prompt, (one, two, three, four), level, tuple(pairs), ())
    metrics = collection_metrics([group], policy_version=3)
    assert metrics["judge/tie_rate"] == pytest.approx(1 / 3)
    assert metrics["judge/win_prob_mean"] == pytest.approx((0.5 + 0.9) / 2)


@pytest.fixture
def sampled() -> list[Group]:
    return [
        (
            prompt("a"),
            (completion("a", 0, "x", -1.0), completion("a", 1, "y", -1.0, -1.0, truncated=True)),
            Judgement((1.0, 0.0), "fake@1"),
        ),
        (
            prompt("b"),
            (completion("b", 0, "x", -1.0), completion("b", 1, "y", -1.0, -1.0)),
            Judgement((0.5, None), "fake@1"),
        ),
    ]


@pytest.fixture
def greedy() -> list[Group]:
    return [
        (prompt("a"), (completion("a", 0, "x", -1.0),), Judgement((1.0,), "fake@1")),
        (prompt("b"), (completion("b", 0, "y", -1.0),), Judgement((None,), "fake@1")),
    ]


def test_evaluation_metrics_worked_by_hand(sampled: list[Group], greedy: list[Group]) -> None:
    # Tokens 0, 0 1, 0, 0 1: two of six are different, and one of two pairs of neighbours.
    assert evaluation_metrics(sampled, greedy, ACCURACY) == pytest.approx(
        {
            "sampled_accuracy": 1 / 3,
            "greedy_accuracy": 1.0,
            "best_of_n": 1 / 2,
            # Of one prompt one in two; of the other none in the only one that is judged.
            "pass_at_1": 1 / 4,
            "pass_at_2": 1.0,
            "unique_rate": 1.0,
            "distinct_1": 2 / 6,
            "distinct_2": 1 / 2,
            "score_mean": 0.5,
            "length_mean": 1.5,
            "truncated_rate": 1 / 4,
            "invalid_rate": 2 / 6,
        }
    )


def test_only_a_verifier_gives_shares_and_users_are_satisfied(sampled, greedy) -> None:
    shares = {"sampled_accuracy", "greedy_accuracy", "best_of_n", "pass_at_1", "pass_at_2"}
    verified = evaluation_metrics(sampled, greedy, ACCURACY)
    unverified = evaluation_metrics(sampled, greedy, None)
    assert set(verified) - set(unverified) == shares
    assert unverified == {name: value for name, value in verified.items() if name not in shares}
    by_users = evaluation_metrics(sampled, greedy, SATISFACTION)
    assert by_users["satisfied_rate"] == verified["sampled_accuracy"]
    assert by_users["greedy_satisfied_rate"] == verified["greedy_accuracy"]
    assert by_users["best_of_n"] == verified["best_of_n"]
    assert not {"sampled_accuracy", "pass_at_1"} & set(by_users)


def test_passing_among_so_many_draws_is_estimated_without_bias() -> None:
    assert pass_at(4, 10, 3) == pytest.approx(0.833333, abs=1e-6)
    assert (pass_at(1, 8, 2), pass_at(8, 8, 1), pass_at(3, 8, 0)) == (0.25, 1, 0)
    for num_drawn in range(1, 7):
        drawn = list(combinations([True, True, False, False, False, False], num_drawn))
        assert pass_at(num_drawn, 6, 2) == pytest.approx(sum(map(any, drawn)) / len(drawn))


def test_the_best_of_one_is_not_told(sampled: list[Group], greedy: list[Group]) -> None:
    metrics = evaluation_metrics(greedy, greedy, ACCURACY)
    assert not {"best_of_n", "pass_at_1", "unique_rate"} & set(metrics)
    assert evaluation_metrics([*sampled, *greedy], [], ACCURACY)["best_of_n"] == 1 / 2
    # One token each, so that nobody has neighbours.
    assert "distinct_2" not in metrics


def test_how_varied_completions_are_worked_by_hand() -> None:
    groups = [
        (completion("a", 0, "x", -1.0, -1.0, -1.0), completion("a", 1, "x", -1.0, -1.0, -1.0)),
        (completion("b", 0, "x", -1.0, -1.0), completion("b", 1, "y", -1.0, -1.0, truncated=True)),
        (completion("c", 0, "z", -1.0, -1.0),),
    ]
    # Tokens 012, 012, 01, 01, 01: of groups of several, half and all texts are different.
    assert completion_metrics(groups) == pytest.approx(
        {
            "length_mean": 12 / 5,
            "truncated_rate": 1 / 5,
            "unique_rate": 3 / 4,
            "distinct_1": 3 / 12,
            "distinct_2": 2 / 7,
        }
    )
    assert completion_metrics([]) == {}


def test_pairs_of_a_log_without_a_judge() -> None:
    a = prompt("a")
    fresh = completion("a", 0, "new", -1.0, -1.0, -1.0)
    logged = replace(completion("a", 0, "old", version=LOGGED), token_ids=(0, 1, 5))
    pair = Preference.over(a, fresh, logged, 1.0, 0.0, judge="user")
    metrics = collection_metrics([Collected(a, (fresh,), None, (pair,), ())], policy_version=3)
    # The pair 0 1 is in both, of two on either side; only what was drawn counts as such.
    assert metrics["preference/similarity"] == 1 / 2
    assert (metrics["rollout/num_tokens"], metrics["staleness/mean"]) == (3, 0)
    assert not {"judge/score_mean", "judge/invalid_rate"} & set(metrics)


def test_summary_worked_by_hand() -> None:
    before = {"round": -1, "policy_version": 0, "eval/score_mean": 0.25, "time/evaluate_s": 1.0}
    first = {
        "round": 0,
        "policy_version": 1,
        "rollout/num_prompts": 4,
        "rollout/num_completions": 8,
        "rollout/num_tokens": 80,
        "preference/count": 3,
        "preference/dropped_tie": 1,
        "time/collect_s": 1.5,
        "time/round_s": 2.0,
        "time/elapsed_s": 9.0,
        "policy/loss": None,
    }
    second = first | {"round": 1, "eval/score_mean": 0.5, "time/evaluate_s": 0.5}
    second["cluster/restarts_judge"] = 2.0
    third = first | {"round": 2}
    assert run_summary([before, first, second, third], "stopped", total_s=20.0) == {
        "status": "stopped",
        "rounds": 3,
        "eval": {"before": {"score_mean": 0.25}, "after": {"score_mean": 0.5}},
        "throughput": {
            "rounds_per_s": 3 / 6,
            "completions_per_s": 24 / 6,
            "tokens_per_s": 240 / 6,
        },
        "counts": {
            "prompts": 12,
            "completions": 24,
            "tokens": 240,
            "preferences": 9,
            **{f"dropped_{reason}": 0 for reason in DropReason},
            "dropped_tie": 3,
        },
        "restarts": {"judge": 2},
        "time_s": {
            "collect": 4.5,
            "anchor": 0,
            "update": 0,
            "publish": 0,
            "evaluate": 1.5,
            "checkpoint": 0,
            "round": 6.0,
            "total": 20.0,
        },
    }


def test_a_run_that_did_nothing_has_a_summary() -> None:
    summary = run_summary([], "failed", total_s=1.0)
    assert summary["rounds"] == 0
    assert summary["eval"] == {"before": {}, "after": {}}
    assert summary["throughput"] == {}
