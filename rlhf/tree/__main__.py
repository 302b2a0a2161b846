"""`python -m rlhf.tree RUN [PROMPT]`: the search trees of a run, in the terminal or as a picture.

Without PROMPT it lists the run's trees, those of the newest round first.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from rich.console import Console

from rlhf.problems import InputError
from rlhf.tree import reading, show
from rlhf.tree.view import Limits, View

LISTED = 20
IN_TERMINAL = Limits(nodes=100, siblings=6)
IN_PICTURE = Limits(nodes=300)
FORMATS = (".png", ".svg", ".pdf")


def run(asked: argparse.Namespace) -> None:
    """Raises InputError for what is not there, or cannot be."""
    if problems := list(_problems(asked)):
        raise InputError(problems)
    console = Console(highlight=False)
    if asked.prompt is None:
        _list(asked, console)
        return
    found = reading.find(asked.run, asked.prompt, asked.round)
    limits = IN_PICTURE if asked.out else IN_TERMINAL
    view = View.of(found.tree, replace(Limits() if asked.all else limits, depth=asked.depth))
    if asked.out:
        _draw(view, found.round, asked.out)
        console.print(f"wrote {asked.out}", markup=False, soft_wrap=True)
    else:
        pairs = reading.tree_pairs(asked.run, found)
        console.print(show.page(view, found.round, pairs, console.width))


def _list(asked: argparse.Namespace, console: Console) -> None:
    shelves = reading.shelves(asked.run, asked.round)
    num_trees = sum(map(len, shelves))
    trees = list(islice(chain.from_iterable(shelves), None if asked.all else LISTED))
    console.print(show.table(trees))
    more = "; --all lists them all, --round N those of a round" if len(trees) < num_trees else ""
    console.print(f"{len(trees):,} of {num_trees:,} trees{more}.", soft_wrap=True)
    console.print("To look at the first:", end=" ")
    console.print(show.how_to_look(asked.run, trees[0]), markup=False, soft_wrap=True)


def _draw(view: View, round: str, file: Path) -> None:
    # Imported here, so that nobody else waits for matplotlib.
    from rlhf.tree.draw import draw_tree

    try:
        draw_tree(view, round, file)
    except OSError as error:
        raise InputError([f"--out {file}: cannot be written: {error.strerror}"]) from error


def _problems(asked: argparse.Namespace) -> Iterator[str]:
    if asked.depth is not None and asked.depth < 0:
        yield f"--depth {asked.depth}: must be at least 0"
    if asked.out is None:
        return
    if asked.prompt is None:
        yield f"--out {asked.out}: name a prompt as well; without one the run's trees are listed"
    if asked.out.suffix.lower() not in FORMATS:
        yield f"--out {asked.out}: must end in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    if not asked.out.parent.is_dir():
        yield f"--out {asked.out}: there is no directory {asked.out.parent}"


def _round(text: str) -> str:
    if text == reading.UNFINISHED:
        return text
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: must be a number or {reading.UNFINISHED}")
    return str(int(text))


def main() -> None:
    """Exit codes: 0 shown; 2 the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.tree", description="Shows the search trees of a run."
    )
    parser.add_argument("run", type=Path, help="the run's directory")
    parser.add_argument("prompt", nargs="?", help="a prompt's id, or a part of its text")
    parser.add_argument(
        "--round",
        type=_round,
        help=f"a round's number, or `{reading.UNFINISHED}`; else the newest that has the prompt",
    )
    parser.add_argument("--depth", type=int, help="steps below the root that are shown")
    parser.add_argument("--all", action="store_true", help="every tree, or every node")
    formats = "/".join(FORMATS)
    parser.add_argument("--out", type=Path, metavar=f"FILE{formats}", help="draw it there instead")
    try:
        run(parser.parse_intermixed_args())  # options may stand before PROMPT
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
