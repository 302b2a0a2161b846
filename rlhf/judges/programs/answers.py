"""Where in an answer its program stands, and its own tests."""

import ast
import re

from rlhf.judges.programs.calls import Call, own_asserts

MAX_PROGRAM_BYTES = 64 << 10
"""A longer program is not run, and scores 0."""
_BLOCK = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[ \t]*([\w+.-]*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.M | re.S
)
_LANGUAGES = ("", "python", "python3", "py")
_NEXT = re.compile(r"\n(?=\S)")


def programs(answer: str, prompt: str, name: str | None) -> tuple[str, ...]:
    """What may be the program, best guess first; the sandbox takes the first that is Python and
    defines `name`, without a name the first that is Python.

    Fenced blocks, those that define the function before others and the last first, each also as
    the end of what the prompt begins. Without any block the whole answer, then the prompt with the
    answer behind it, then the same up to where the answer's next unindented line begins.
    """
    blocks = [body for _, language, body in _BLOCK.findall(answer) if language in _LANGUAGES]
    if blocks:
        defines = re.compile(rf"^\s*(?:async\s+)?(?:def|class)\s+{re.escape(name or '')}\b", re.M)
        last_first = blocks[::-1]
        ordered = sorted(last_first, key=lambda block: not name or not defines.search(block))
        found = ordered + [prompt + block for block in ordered if prompt]
    else:
        found = [answer, prompt + answer, prompt + _NEXT.split(answer, maxsplit=1)[0]]
    return tuple(dict.fromkeys(found))


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
        found = without_comments(block[3]) if block[2] in _LANGUAGES else None
        return block[0] if not found else block[0].replace(block[3], found + "\n", 1)

    return _BLOCK.sub(rewritten, answer)
