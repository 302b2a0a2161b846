"""Seeds: numbers that never change, since runs of older versions are repeated by them."""

import pytest

from rlhf.seeds import derive_seed, seeds_after


@pytest.mark.parametrize(
    "parts, seed",
    [
        ((0, 0, "p0"), 1_017_655_740_718_890_095),
        ((7, "order", 3), 1_947_440_663_567_386_288),
        (("only",), 1_493_131_005_977_336_685),
        ((1, 11), 570_673_553_625_252_636),
        ((11, 1), 3_000_194_067_195_170_562),
        ((1, "11"), 3_725_879_834_450_812_644),
    ],
)
def test_a_seed_is_of_all_its_parts_and_their_order_and_kinds(parts, seed):
    assert derive_seed(*parts) == seed
    assert seeds_after(*parts[:-1])(parts[-1]) == seed


def test_many_last_parts_do_not_know_of_each_other():
    seed_of = seeds_after(5, "round")
    assert [seed_of(one) for one in "aba"] == [derive_seed(5, "round", one) for one in "aba"]
