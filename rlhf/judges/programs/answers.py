"""Where in an answer its program stands, and its own tests."""

import ast
import re
from textwrap import dedent

from rlhf.judges.programs.calls import Call, own_asserts

MAX_PROGRAM_BYTES = 64 << 10
"""A longer program is not run, and scores 0."""
_BLOCK = re.compile(
    r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.M | re.S
)
_FENCE = re.compile(r"^[ \t]*(?:`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*$\n?", re.M)
_LANGUAGES = ("", "python", "python3", "py")
_NEXT = re.compile(r"\n(?=\S)")


def programs(answer: str, prompt: str, name: str | None) -> tuple[str, ...]:
    """What may be the program, best guess first; the sandbox takes the first that is Python and
    defines `name`, without a name the first that is Python.

    What goes on in a block that the prompt leaves open, or ends one that the answer has not begun.
    Then fenced blocks, those that define the function before others, of those the ones that say
    that they are Python, and the last first, each also as the end of what the prompt begins.
    Without any block the whole answer, then the prompt with the answer behind it, then the same up
    to where the answer's next unindented line begins.
    """
    found, rest = _gone_on(answer, prompt, name)
    blocks = [
        (language, dedent(body) if indent else body)
        for indent, _, language, body in _BLOCK.findall(rest)
        if language.lower() in _LANGUAGES
    ]
    if blocks:
        defines = re.compile(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name or '')}\b", re.M)
        last_first = blocks[::-1]
        ordered = sorted(
            last_first, key=lambda one: (bool(name) and not defines.search(one[1]), not one[0])
        )
        found += [body for _, body in ordered] + [prompt + body for _, body in ordered if prompt]
    elif not found:
        found = [rest, prompt + rest, prompt + _NEXT.split(rest, maxsplit=1)[0]]
    return tuple(dict.fromkeys(found))


def _gone_on(answer: str, prompt: str, name: str | None) -> tuple[list[str], str]:
    """What may be the program where an answer goes on with code, up to its first fence; and where
    the blocks of its own are."""
    fences = list(_FENCE.finditer(answer))
    first = answer[: fences[0].start()] if fences else answer
    is_bare = bool(fences) and not fences[0][1]
    if not first.strip():  # it begins a block of its own
        return [], answer
    if (begun := _left_open(prompt)) is not None:
        return [begun + first, first], answer[fences[0].end() :] if is_bare else answer
    if name and is_bare and len(fences) % 2:
        return [first, prompt + first], answer
    return [], answer


def _left_open(prompt: str) -> str | None:
    """What stands already in the block of Python that a prompt ends in; None if it ends in none."""
    fences = list(_FENCE.finditer(prompt))
    if len(fences) % 2 == 0 or fences[-1][1].lower() not in _LANGUAGES:
        return None
    return prompt[fences[-1].end() :]


def without_asserts(answer: str) -> tuple[str, tuple[Call, ...]]:
    """An answer without its unindented lines of asserts, and those of them that are tests."""
    lines = answer.split("\n")
    rest = "\n".join(line for line in lines if not line.startswith("assert "))
    return rest, tuple(own_asserts(answer))


def without_comments(text: str) -> str | None:
    """A program as Python spells it, without comments and docstrings; None if it is none."""
    try:
        return bare(ast.parse(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def bare(tree: ast.AST) -> str:
    """The code alone; what a docstring leaves empty becomes `pass`."""
    for node in ast.walk(tree):
        match node:
            case ast.Module() | ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                if ast.get_docstring(node, clean=False) is not None:
                    empty: list[ast.stmt] = [] if isinstance(node, ast.Module) else [ast.Pass()]
                    node.body = node.body[1:] or empty
    return ast.unparse(tree)


def with_bare_programs(answer: str) -> str:
    """An answer whose programs have no comments: its blocks of Python, or all of it."""
    if not _BLOCK.search(answer):
        return without_comments(answer) or answer

    def rewritten(block: re.Match[str]) -> str:
        indent, _, language, body = block.groups()
        code = dedent(body) if indent else body
        found = without_comments(code) if language.lower() in _LANGUAGES else None
        return block[0] if not found else block[0].replace(body, found + "\n", 1)

    return _BLOCK.sub(rewritten, answer)
