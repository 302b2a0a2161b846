"""What is told of errors is a line that a terminal shows and does not obey."""

import io

import pytest
from rich.console import Console

from rlhf.launching.command_line import report
from rlhf.problems import InputError, one_line, printable
from rlhf.watching.terminal import Terminal

HOSTILE = "a\x1b]0;owned\x07\x1b[2Jb\u202ec\u2066d\x00e\ud800f\x9bg"
SPELLED = r"a\x1b]0;owned\x07\x1b[2Jb\u202ec\u2066d\x00e\ud800f\x9bg"


def test_what_a_terminal_would_obey_is_spelled_out_and_the_rest_stays() -> None:
    assert printable(HOSTILE) == SPELLED
    plain = "ü 和 \u00a0 \u3000 🙂\n\tx \\n <b>"
    assert printable(plain) == plain
    assert one_line(ValueError(HOSTILE)) == f"ValueError: {SPELLED}"


def test_neither_an_error_nor_a_line_of_a_run_moves_the_cursor(capsys) -> None:
    assert report(InputError([f"data.path={HOSTILE}: is not there"])) == 2
    assert capsys.readouterr().err == f"error: data.path={SPELLED}: is not there\n"
    shown = io.StringIO()
    Terminal(3, console=Console(file=shown, width=200)).print(HOSTILE)
    assert shown.getvalue() == f"{SPELLED}\n"


@pytest.mark.parametrize("text", ["", "\n", "x" * 100_000])
def test_any_length_will_do(text) -> None:
    assert printable(text) == text
