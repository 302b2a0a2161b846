"""`python -m rlhf.report RUN_DIR [--out FILE]`: a whole run on one page, to open in a browser."""

import argparse
import sys
from pathlib import Path

from rlhf.problems import InputError
from rlhf.storage.disk import DiskFailed, write_atomically


def run(directory: Path, out: Path | None) -> Path:
    """Writes the page and says where; raises InputError for what is not there, or cannot be."""
    file = out or directory / "report.html"
    if not directory.is_dir():
        raise InputError([f"{directory}: there is no such directory; name that of a run"])
    if not file.parent.is_dir():
        raise InputError([f"--out {file}: there is no directory {file.parent}; make it first"])
    # Imported here, so that a typing error is told at once.
    from rlhf.report.page import page

    text = page(directory)
    try:
        write_atomically(file, text)
    except DiskFailed as error:
        raise InputError([f"--out {error}"]) from error
    return file


def main() -> None:
    """Exit codes: 0 written; 2 the input was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m rlhf.report", description="Writes a whole run as one HTML page."
    )
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the run's directory")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="instead of report.html in the run's directory"
    )
    asked = parser.parse_args()
    try:
        file = run(asked.run, asked.out)
    except InputError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote {file}; open it in a browser")


if __name__ == "__main__":
    main()
