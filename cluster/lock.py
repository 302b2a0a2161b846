"""From pip's report of what it would install, a list of requirements with their hashes.

`pip install --dry-run --report FILE ...`, then `python cluster/lock.py < FILE`. What comes from a
folder, as Agon does, is left out. Standard library only.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any


def locked(report: Mapping[str, Any]) -> Iterator[str]:
    """A line for each package, by name; raises ValueError for one whose hash pip does not know."""
    found = {}
    for one in report["install"]:
        name, version = one["metadata"]["name"], one["metadata"]["version"]
        if "dir_info" in one["download_info"]:
            continue
        digest = one["download_info"].get("archive_info", {}).get("hashes", {}).get("sha256")
        if not digest:
            raise ValueError(f"{name}: the index tells no sha256 of {one['download_info']['url']}")
        found[name.lower()] = f"{name}=={version} --hash=sha256:{digest}"
    yield from (found[name] for name in sorted(found))


if __name__ == "__main__":
    print("# Written by cluster/lock.py.", *locked(json.load(sys.stdin)), sep="\n")
