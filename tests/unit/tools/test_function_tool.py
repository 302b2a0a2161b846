"""tools=function: your own tool, whose failures are what the policy reads."""

import asyncio
from pathlib import Path

import pytest

from rlhf.problems import InputError
from rlhf.records import Completion, Prompt, Sampling
from rlhf.tools.function import FunctionToolConfig
from rlhf.tools.rollout import ToolRollout, with_tools

EXAMPLE = Path(__file__).parents[3] / "examples" / "own_tool" / "tool.py"


class Once:
    """A `Rollout` that calls the tool once, and then ends its answer."""

    async def generate(self, prompt: Prompt, sampling: Sampling, seed: int):
        text = "." if prompt.prefix else "<<12="
        ids = tuple(map(ord, text))
        stopped = not prompt.prefix
        return (Completion("p", 0, ids, (-1.0,) * len(ids), text, False, 0, stopped=stopped),)


async def test_what_the_example_returns_is_part_of_an_answer_and_marked():
    config = FunctionToolConfig(function=f"{EXAMPLE}:use")
    config.try_out()
    rollout = with_tools(Once(), config, lambda text: tuple(map(ord, text)), 64)
    assert isinstance(rollout, ToolRollout)
    (answer,) = await rollout.generate(Prompt("p", (), (1,)), Sampling(1, 64), 1)
    assert answer.text == "<<12=144>>." and answer.observed == ((5, 10),)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return text.upper()", "ABC"),
        ("return 1 / 0", "error: ZeroDivisionError: division by zero (own.py line 2)"),
        ("return 7", "error: returned 7, not text"),
        ("return None", "error: returned None, not text"),
        ("import os; os._exit(2)", "error: ended its process, with code 2"),
        ("while True: pass", "error: is not done within 0.5 s"),
        ("return 'x' * 300", "x" * 171 + "... [129 characters left out]"),
    ],
)
@pytest.mark.parametrize("define", ["def", "async def"])
async def test_an_exception_is_an_observation(tmp_path, define, body, told):
    timeout_s = 0.5 if "while" in body else 30.0
    if define == "async def" and "while" in body:
        body = "import asyncio; await asyncio.sleep(3600)"
    (tmp_path / "own.py").write_text(f"{define} use(text):\n    {body}")
    tool = FunctionToolConfig(function=f"{tmp_path}/own.py:use", timeout_s=timeout_s).tool()
    found = await tool.use("abc")
    tool.close()
    assert found == told


async def test_calls_are_spread_over_processes(tmp_path):
    # Each call waits until all have begun, each in another process.
    (tmp_path / "own.py").write_text(
        "import os, pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "def use(text):\n"
        "    (here / f'{os.getpid()}.begun').touch()\n"
        "    while len(list(here.glob('*.begun'))) < 3: time.sleep(0.01)\n"
        "    return 'together'\n"
    )
    tool = FunctionToolConfig(
        function=f"{tmp_path}/own.py:use", num_workers=3, timeout_s=60.0
    ).tool()
    assert await asyncio.gather(*(tool.use(str(i)) for i in range(3))) == ["together"] * 3
    tool.close()


def test_what_cannot_be_called_is_told_before_workers_start(tmp_path):
    (tmp_path / "own.py").write_text("def use(): pass")
    with pytest.raises(InputError, match=r"is called with \(text\); write def use\(text\)"):
        FunctionToolConfig(function=f"{tmp_path}/own.py:use").try_out()
