"""Which worker goes where: what fits is placed, what does not is refused, on simulated nodes."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cluster.placement import Node, Plan, Role, format_bytes, make_plan, table
from rlhf.problems import InputError


def node(name: str, gpus: float = 0, cpus: float = 64, memory_gib: float = 512) -> Node:
    return Node(name, name, {"GPU": gpus, "CPU": cpus, "memory": memory_gib * 2**30})


def nodes(count: int, gpus: float, cpus: float = 64) -> list[Node]:
    return [node(f"n{i:02}", gpus, cpus) for i in range(count)]


def where(plan: Plan, role: str) -> list[str]:
    return [node.id for node in plan.nodes(role)]


def refusal(roles: list[Role], there: list[Node]) -> list[str]:
    with pytest.raises(InputError) as caught:
        make_plan(roles, there)
    return caught.value.problems


# --- what fits ----------------------------------------------------------------------------------


def test_every_role_on_gpus_of_its_own_on_two_nodes_and_judges_away_from_them():
    roles = [
        Role("policy", 8, 1, 1),
        Role("rollout", 3, 1, 2),
        Role("reference", 2, 1, 1),
        Role("judge", 4, 1, 0),
    ]
    plan = make_plan(roles, [*nodes(2, 8), node("cpu")])
    assert where(plan, "policy") == ["n00"] * 8
    assert where(plan, "rollout") == ["n01"] * 3
    assert where(plan, "reference") == ["n01"] * 2
    assert where(plan, "judge") == ["cpu"] * 4


def test_ranks_fill_the_largest_nodes_one_after_another():
    plan = make_plan([Role("policy", 10, 1, 1)], [node("a", 2), node("b", 8), node("c", 4)])
    assert where(plan, "policy") == ["b"] * 8 + ["c"] * 2


def test_policy_and_rollout_that_share_a_gpu_share_a_seat():
    roles = [Role("policy", 4, 1, 0.5), Role("rollout", 4, 1, 0.5, beside="policy")]
    plan = make_plan(roles, nodes(2, 2))
    assert where(plan, "policy") == where(plan, "rollout") == ["n00", "n00", "n01", "n01"]
    assert plan.seat_indices["policy"] == plan.seat_indices["rollout"] == (0, 1, 2, 3)
    assert all(seat.needs == {"GPU": 1, "CPU": 2, "memory": 0} for seat in plan.seats)


def test_workers_without_gpus_are_spread_by_the_cpus_that_are_free():
    roles = [Role(name, 1, 1, 0) for name in ("policy", "rollout", "reference", "judge")]
    plan = make_plan(roles, [node("a", cpus=2), node("b", cpus=2), node("c", cpus=1)])
    taken = Counter(where(plan, role.name)[0] for role in roles)
    assert taken == {"a": 2, "b": 1, "c": 1}
    assert where(plan, "policy") != where(plan, "rollout")


def test_large_workers_come_first_where_small_ones_would_leave_gaps_only():
    # In the order of the roles, three ranks would leave one GPU of the first node's four.
    roles = [Role("policy", 3, 1, 1), Role("rollout", 2, 1, 2)]
    plan = make_plan(roles, [node("a", 4), node("b", 3)])
    assert where(plan, "rollout") == ["a", "a"] and where(plan, "policy") == ["b"] * 3
    assert _used(plan, "GPU") == {"a": 4, "b": 3}


def _used(plan: Plan, resource: str) -> dict[str, float]:
    used: Counter[str] = Counter()
    for seat in plan.seats:
        used[seat.node.id] += seat.needs[resource]
    return dict(used)


def test_64_nodes_of_8_gpus_are_filled_to_the_last():
    roles = [
        Role("policy", 256, 1, 1),
        Role("rollout", 24, 1, 8),
        Role("reference", 48, 1, 1),
        Role("judge", 16, 1, 1),
    ]
    plan = make_plan(roles, nodes(64, 8))
    assert _used(plan, "GPU") == {f"n{i:02}": 8 for i in range(64)}
    assert len(set(where(plan, "policy"))) == 32
    assert len(set(where(plan, "rollout"))) == 24
    assert refusal([*roles, Role("extra", 1, 1, 1)], nodes(64, 8)) == [
        "placement: 513 GPUs are needed (policy 256, rollout 192, reference 48, judge 16, extra 1) "
        "and 512 are free; start fewer workers or add nodes"
    ]


# --- what does not ------------------------------------------------------------------------------


def test_one_gpu_is_not_enough_for_three_roles_but_for_two_that_share_it():
    apart = [Role("policy", 1, 1, 1), Role("rollout", 1, 1, 1), Role("reference", 1, 1, 1)]
    assert refusal(apart, nodes(1, 1)) == [
        "placement: 3 GPUs are needed (policy 1, rollout 1, reference 1) and 1 are free; start "
        "fewer workers or add nodes"
    ]
    shared = [Role("policy", 1, 1, 0.5), Role("rollout", 1, 1, 0.5, beside="policy")]
    assert where(make_plan(shared, nodes(1, 1)), "rollout") == ["n00"]


def test_a_worker_larger_than_any_node_is_refused_though_the_sum_is_enough():
    (problem,) = refusal([Role("rollout", 2, 1, 8)], nodes(4, 4))
    assert "each of 2 rollout workers needs 8 GPUs, 1 CPUs on one node" in problem
    assert "room for 0 such (4 with 4 GPUs, 64 CPUs, 512.0 GiB of memory)" in problem


def test_gaps_that_only_together_are_large_enough_are_refused():
    roles = [Role("policy", 2, 1, 3), Role("rollout", 1, 1, 2)]
    (problem,) = refusal(roles, nodes(2, 4))
    assert "2 policy of 3 GPUs, 1 rollout of 2 GPUs do not fit on the nodes together" in problem


def test_every_lacking_resource_is_told_at_once():
    weights = 40 * 2**30
    roles = [Role("policy", 4, 8, 1), Role("rollout", 4, 8, 0, weights)]
    problems = refusal(roles, [Node("a", "a", {"GPU": 2.0, "CPU": 32.0, "memory": 100.0 * 2**30})])
    assert [problem.split(" are needed")[0] for problem in problems] == [
        "placement: 4 GPUs",
        "placement: 64 CPUs",
        "placement: 160.0 GiB of memory",
    ]


def test_memory_counts_on_nodes_only_for_workers_without_gpus():
    large = 600 * 2**30
    make_plan([Role("policy", 1, 1, 1, large)], nodes(1, 1))
    assert "600.0 GiB of memory" in refusal([Role("policy", 1, 1, 0, large)], nodes(1, 1))[0]


def test_no_nodes_at_all():
    assert len(refusal([Role("policy", 1, 1, 1)], [])) == 2


# --- always -------------------------------------------------------------------------------------

small_roles = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 4])), min_size=1, max_size=3
)


@settings(max_examples=300)
@given(small_roles, st.lists(st.integers(0, 6), min_size=1, max_size=4))
@example([(3, 1), (1, 2)], [3, 2])
def test_what_fits_in_any_way_is_placed_and_nothing_is_taken_twice(sizes, gpus):
    roles = [Role(f"r{i}", count, 1, size) for i, (count, size) in enumerate(sizes)]
    there = [node(f"n{i}", number) for i, number in enumerate(gpus)]
    seats = sorted((size for count, size in sizes for _ in range(count)), reverse=True)
    if fits(tuple(seats), tuple(sorted(gpus))):
        plan = make_plan(roles, there)
        assert all(len(plan.nodes(role.name)) == role.count for role in roles)
        for name, used in _used(plan, "GPU").items():
            assert used <= gpus[int(name[1:])]
    else:
        refusal(roles, there)


@cache
def fits(seats: tuple[int, ...], free: tuple[int, ...]) -> bool:
    """Whether there is any way at all, by trying every one."""
    if not seats:
        return True
    first, *rest = seats
    return any(
        fits(tuple(rest), tuple(sorted((*free[:i], left - first, *free[i + 1 :]))))
        for i, left in enumerate(free)
        if left >= first
    )


# --- what people read ---------------------------------------------------------------------------


def test_the_table_has_a_line_per_role_and_says_where():
    roles = [
        Role("policy", 10, 1, 1, 21 * 2**30, "weights 15.0 GiB, gradients 6.0 GiB"),
        Role("judge", 2, 1, 0),
    ]
    lines = make_plan(roles, [*nodes(2, 8), node("cpu")]).table().splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "role workers GPUs CPUs memory where for",
        "policy 10 1 1 21.0 GiB n00 ×8, n01 ×2 weights 15.0 GiB, gradients 6.0 GiB",
        "judge 2 0 1 - cpu ×2",
    ]


def test_many_nodes_are_not_all_named():
    text = make_plan([Role("policy", 64, 1, 1)], nodes(8, 8)).table()
    assert "n00 ×8, n01 ×8, n02 ×8, 5 more nodes" in text


def test_a_table_of_what_does_not_fit_has_no_places():
    (_, line) = table([Role("policy", 1, 1, 1)], {}).splitlines()
    assert " ".join(line.split()) == "policy 1 1 1 -"


@pytest.mark.parametrize(
    "count, text", [(0, "0 MiB"), (3 * 2**20, "3 MiB"), (2**30, "1.0 GiB"), (5 * 2**29, "2.5 GiB")]
)
def test_bytes_in_words(count, text):
    assert format_bytes(count) == text
