"""`python -m rlhf.launching.options_table`: every option of every group, for docs/options.md."""

from collections.abc import Iterator
from pathlib import Path

from rlhf.launching.configuration import CONF

GROUPS = (
    "algorithm", "objective", "judge", "curator", "data", "tools", "environment", "rollout", "model"
)  # fmt: skip


def lines() -> Iterator[str]:
    """In Markdown, from the first comment of each file under `conf/`."""
    for group in GROUPS:
        yield f"\n## `{group}=`\n\n| say | for |\n| --- | --- |"
        for file in sorted((CONF / group).glob("*.yaml")):
            yield f"| `{group}={file.stem}` | {comment(file)} |"


def comment(file: Path) -> str:
    """What a file says of itself, in one line."""
    said = [
        line.removeprefix("#").strip()
        for line in file.read_text().splitlines()
        if line.startswith("#") and "@package" not in line
    ]
    return " ".join(said).replace("|", r"\|").replace("<", "&lt;")


if __name__ == "__main__":
    print("\n".join(lines()).strip())
