"""`python -m rlhf.sweep DIR`: compares what a sweep's directory has, at any time."""

import sys
from pathlib import Path

from rlhf.launching.command_line import told
from rlhf.problems import InputError
from rlhf.sweep.members import MEMBERS, compare


def main() -> None:
    """Exit codes: 0, or 2 if there is no sweep; it may still be going on."""
    with told():
        if len(sys.argv) != 2 or not sys.argv[1]:
            raise InputError(["DIR: say which sweep: python -m rlhf.sweep DIR"])
        directory = Path(sys.argv[1]).absolute()
        if not (directory / MEMBERS).is_dir():
            raise InputError([f"{directory}: not the directory of a sweep (no {MEMBERS}/)"])
        if unfinished := compare(directory):
            print(f"{unfinished} have failed, are running, or were ended")


if __name__ == "__main__":
    main()
