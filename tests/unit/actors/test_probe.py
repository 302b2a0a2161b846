"""Rows by which it is proved that weights arrived."""

import pytest

from actors.weight_sync import make_probe
from rlhf.records import Message, Prompt


def prompts(*lengths: int) -> list[Prompt]:
    return [
        Prompt(str(i), (Message("user", "x"),), (i,) * length) for i, length in enumerate(lengths)
    ]


def rows(*lengths: int) -> list[int]:
    """Of which prompt each is."""
    probe = make_probe(prompts(*lengths), 50, 16, longest=5000, seed=1)
    assert all(len(row.completion) == 16 and max(row.completion) < 50 for row in probe)
    assert len({row.completion for row in probe}) == 8
    return [row.prompt[0] for row in probe]


def test_short_prompts_have_a_row_each():
    assert rows(*[128] * 9) == list(range(8))


def test_long_prompts_share_a_thousand_tokens():
    assert rows(*[512] * 9) == [0, 1] * 4
    assert rows(100, 900, 30, *[5] * 6) == [0, 1] * 4
    assert rows(4000, 4000) == [0] * 8


def test_few_prompts_have_several_rows():
    assert rows(12, 12, 12) == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize(
    "longest, sizes",
    [(31, (14, 16)), (30, (13, 16)), (18, (1, 16)), (17, (1, 15)), (4, (1, 2)), (3, (1, 1))],
)
def test_no_row_is_longer_than_the_engines_allow(longest, sizes):
    (row, *_) = make_probe([Prompt("0", (), tuple(range(14)))], 50, 16, longest, seed=1)
    assert (len(row.prompt), len(row.completion)) == sizes
    assert row.prompt == tuple(range(14))[-sizes[0] :]
