"""The rows of pairs: what a model reads once, however many pairs it is in."""

from rlhf.records import Completion, Message, Prompt, Side, Tokens, rows_of

PROMPT = Prompt("p", (Message("user", "?"),), (1, 2))


def side(*token_ids, emphasis=()):
    nats = (-1.0,) * len(token_ids)
    return Side(PROMPT, Completion("p", 0, token_ids, nats, "", False, 0), 1.0, emphasis)


def test_a_side_of_many_pairs_is_one_row_and_so_are_equal_ones():
    best, worst = side(3, 4), side(5)
    rows, places = rows_of([best, worst, best, side(6), side(3, 4)])
    assert rows == [Tokens((1, 2), (3, 4)), Tokens((1, 2), (5,)), Tokens((1, 2), (6,))]
    assert places == [0, 1, 0, 2, 0]
    assert rows_of([]) == ([], [])


def test_rows_that_are_marked_differently_are_two():
    rows, places = rows_of([side(3, 4), side(3, 4, emphasis=((0, 1, 2.0),))])
    assert [row.emphasis for row in rows] == [(), ((0, 1, 2.0),)]
    assert places == [0, 1]
