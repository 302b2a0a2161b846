"""`python -m rlhf.simulated_users FILE`: a log of users with a hidden wish, to try things on."""

import argparse
from pathlib import Path

from rlhf.toys.users import write_log


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.simulated_users", description="Writes a log of simulated users."
    )
    parser.add_argument("file", type=Path, help="the .jsonl to write")
    parser.add_argument("--conversations", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    write_log(asked.file, asked.conversations, asked.seed)


if __name__ == "__main__":
    main()
