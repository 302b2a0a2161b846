"""What a run reads, by content, so that a resumed run goes on with the same data and models."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.functions.source import content, located
from rlhf.models.files import fingerprint
from rlhf.problems import InputError
from rlhf.storage.disk import write_atomically
from rlhf.storage.reading import read_json
from rlhf.storage.run_directory import flat

INPUTS = "inputs.json"
_OWN = ("run.", "tracking.", "cluster.", "hydra.")
_GROWING = ("data.feed",)
"""Files are meant to arrive there while a run goes on; a ledger of its own knows them."""
_ADDED = ("eval.",)
"""May come and go while a run goes on."""
_AGON = Path(__file__).parents[2]
"""Where recipes' own files, such as known games, are looked for too."""


def fingerprints(config: Mapping[str, Any]) -> dict[str, str]:
    """By configuration key, the content of every file and folder that a value names.

    Of a model's weights evenly spread samples are read, of everything else all.
    """
    found = {}
    for key, value in flat(config).items():
        if not isinstance(value, str) or key.startswith(_OWN) or key in _GROWING:
            continue
        if key.endswith((".function", "_function")) and (file := located(value.rpartition(":")[0])):
            found[key] = _of_function(file)
            continue
        for path in (Path(value), _AGON / value):
            if value and ("/" in value or path.suffix) and path.exists():
                found[key] = _content(path)
                break
    return found


def require_same(
    directory: Path, now: Mapping[str, str], allowed: Sequence[str], resumes: bool
) -> None:
    """Writes what a run begins with; of one that `resumes`, raises InputError for each input that
    has changed since and is not `allowed` by its key."""
    file = directory / INPUTS
    advice = "delete it, and what the run began with is not compared with what there is now"
    before = read_json(file, {}, advice) if resumes and file.exists() else {}
    problems = [
        f"{key}: what it names has changed since the run in {directory} began; put it back, choose "
        f"another run.dir, or go on with run.allow_changed=[{key}]"
        for key, content in before.items()
        if now.get(key, content) != content and key not in allowed and not key.startswith(_ADDED)
    ]
    problems += [
        f"{key}: what it named when the run in {directory} began is no longer there; put it back, "
        f"or go on with run.allow_changed=[{key}]"
        for key in before.keys() - now.keys()
        if key not in allowed and not key.startswith(_ADDED)
    ]
    if problems:
        raise InputError(sorted(problems))
    write_atomically(file, json.dumps(dict(now), indent=1) + "\n")


def _content(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    is_model = (path / "config.json").is_file()
    if is_model:
        digest.update(fingerprint(path).encode())
    for file in _files(path):
        if is_model and file.suffix in (".safetensors", ".bin", ".pt"):
            continue
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, hashlib.blake2b).digest())
    return digest.hexdigest()


def _of_function(file: Path) -> str:
    """As `_content`, of the very text that workers get."""
    digest = hashlib.blake2b(b".", digest_size=16)
    digest.update(hashlib.blake2b(content(file)).digest())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    """Hidden ones left out: editors and notebooks leave them beside data."""
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.is_file() and not hidden:
            yield file
