"""`python -m rlhf.judges.programs.code_pairs WHERE --out FILE`: pairs that train a judge of code.

WHERE is a git repository, of whose commits each function that was changed is a pair, the later
version over the earlier one; or a JSONL file of `prompt`, `draft` and `revision`, as a model wrote
and then corrected them. Both are the sources of CodeFavor (Liu et al. 2024, Learning Code
Preference via Synthetic Evolution, arXiv 2410.03837). Programs are written without comments, so
that the judge learns from code alone; `python -m rlhf.reward kind=pair` reads the file.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from rlhf.data.rows import text_lines
from rlhf.judges.programs.answers import bare, programs, without_comments
from rlhf.problems import InputError
from rlhf.storage.disk import DiskFailed, write_atomically

CRITERION = "Does it what was asked, without errors?"
GIT_S = 120.0
"""For one question to git."""
MOST_CHARS = 8000
"""Of a function; longer ones are left out."""


def pairs(asked: argparse.Namespace) -> list[dict[str, str]]:
    """The rows; raises InputError for what is not there, or has none."""
    where: Path = asked.where
    if where.is_dir():
        rows = list(_of_commits(where, re.compile(asked.message, re.I), asked.most))
    else:
        rows = list(_of_revisions(where))[: asked.most]
    if not rows:
        raise InputError([f"{where}: has no function that was changed but for its comments"])
    return [{"criterion": str(asked.criterion), **row} for row in rows]


# --- commits --------------------------------------------------------------------------------------


def _of_commits(repository: Path, message: re.Pattern[str], most: int) -> Iterator[dict[str, str]]:
    """The newest first, up to so many pairs."""
    found = 0
    for line in _git(repository, "log", "--no-merges", "--format=%H%x09%s").splitlines():
        commit, _, subject = line.partition("\t")
        if not message.search(subject):
            continue
        for row in _of_commit(repository, commit, subject):
            if found == most:
                return
            found += 1
            yield row


def _of_commit(repository: Path, commit: str, subject: str) -> Iterator[dict[str, str]]:
    changed = ("diff-tree", "-r", "-z", "--name-only", "--diff-filter=M", "--no-commit-id", commit)
    for path in filter(None, _git(repository, *changed).split("\0")):
        if not path.endswith(".py"):
            continue
        before, after = (
            functions(_git(repository, "show", f"{version}:{path}"))
            for version in (f"{commit}^", commit)
        )
        for name, text in after.items():
            if before.get(name, text) != text:
                prompt = f"{subject}\n\nThe function {name} of {path}:"
                yield _row(prompt, text, before[name]) | {"source": "commits", "commit": commit}


def functions(text: str) -> dict[str, str]:
    """By qualified name, without comments; none of what is no Python, or too long."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    found: dict[str, str] = {}

    def look(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                look(child, f"{prefix}{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found[prefix + child.name] = bare(child)

    look(tree, "")
    return {name: written for name, written in found.items() if len(written) <= MOST_CHARS}


def _git(repository: Path, *words: str) -> str:
    """What git says; raises InputError if it fails."""
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *words], capture_output=True, timeout=GIT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError([f"{repository}: git cannot be asked: {error}"]) from error
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines()
        raise InputError([f"{repository}: git says: {told[-1] if told else done.returncode}"])
    return done.stdout.decode(errors="replace")


# --- drafts and revisions -------------------------------------------------------------------------


def _of_revisions(file: Path) -> Iterator[dict[str, str]]:
    """Those whose program was changed; raises InputError for a row that cannot be read."""
    try:
        lines = list(text_lines(file))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError([f"{file}: cannot be read ({error})"]) from error
    for number, line in lines:
        try:
            row = json.loads(line)
            prompt, draft, revision = (row[name] for name in ("prompt", "draft", "revision"))
            sides = [_program(text, prompt) for text in (revision, draft)]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                [f"{file}: line {number} is no JSON with texts prompt, draft, revision ({error!r})"]
            ) from error
        if None not in sides and sides[0] != sides[1]:
            more = {"criterion": row["criterion"]} if row.get("criterion") else {}
            yield _row(prompt, *map(str, sides)) | {"source": "revisions"} | more


def _program(answer: str, prompt: str) -> str | None:
    """The first of what may be one that is Python; an empty one is none."""
    found = (without_comments(text) for text in programs(answer, prompt, None))
    return next((text for text in found if text), None)


def _row(prompt: str, chosen: str, rejected: str) -> dict[str, str]:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


# --- the command ----------------------------------------------------------------------------------


def main() -> None:
    """Exit codes: 0 written; 2 the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.judges.programs.code_pairs",
        description="Pairs of programs, of which the second came after the first.",
    )
    parser.add_argument("where", type=Path, help="a git repository, or a .jsonl of revisions")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl to write")
    parser.add_argument("--criterion", default=CRITERION, help="what the pairs are judged by")
    parser.add_argument("--message", default="", help="only of commits that this expression finds")
    parser.add_argument("--most", type=int, default=20_000, help="pairs")
    asked = parser.parse_args()
    try:
        rows = pairs(asked)
        write_atomically(asked.out, "".join(json.dumps(row) + "\n" for row in rows))
    except (InputError, DiskFailed, OSError, re.error) as error:
        for problem in error.problems if isinstance(error, InputError) else [str(error)]:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    print(f"{len(rows):,} pairs in {asked.out}")
    print(f"data.path={asked.out} data.criterion_column=criterion data.source_column=source")


if __name__ == "__main__":
    main()
