"""Folders of classifiers that judge: found or fetched, and checked without loading any weights."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Protocol

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig

from rlhf.config.reward import JUDGE_OF, Kind
from rlhf.models.loading import UNREADABLE, first_line, read_tokenizer
from rlhf.problems import InputError

DTYPES = ("auto", "float32", "bfloat16")
TRAINING_RECORD = "reward.json"
"""What `python -m rlhf.reward` leaves beside the weights that it trained."""

_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
_SAMPLES, _SAMPLE_BYTES = 16, 4096


class Wanted(Protocol):
    """What a judge of a model says of it."""

    path: str
    dtype: str
    name: ClassVar[str]
    """Of `judge=...`."""
    labels: ClassVar[str]
    """How many it has, in words."""

    @staticmethod
    def fits(num_labels: int) -> bool: ...

    def differences(self, trained: dict[str, Any]) -> Iterator[str]: ...


def find_model(config: Wanted) -> Path:
    """The judge's directory, fetched if `path` is a hub id; without loading any weights.

    Raises InputError if files are missing, weights are pickled, the number of labels is not the
    judge's, or the model was trained here to be another judge.
    """
    problems = []
    if config.dtype not in DTYPES:
        problems.append(f"judge.dtype={config.dtype}: allowed: {', '.join(DTYPES)}")
    try:
        directory = find_directory("judge.path", config.path)
    except InputError as error:
        raise InputError([*problems, *error.problems]) from error
    faults = weight_faults(directory) or [
        *_label_faults(directory, config),
        *_training_faults(directory, config),
        *tokenizer_faults(directory),
    ]
    problems += [f"judge.path={config.path}: {what}" for what in faults]
    if problems:
        raise InputError(problems)
    return directory


def find_directory(key: str, path: str) -> Path:
    """The folder itself, or that of a hub id, without its pickled files.

    `key` is the configuration's, for the InputError that is raised if there is neither.
    """
    if Path(path).is_dir():
        return Path(path).resolve()
    try:
        return Path(snapshot_download(path, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            [
                f"{key}={path}: no such folder, and not to be had as a hub id ({reason}); "
                "give the folder of a Hugging Face model"
            ]
        ) from error


def weight_faults(directory: Path) -> list[str]:
    """Why the folder's files cannot be loaded; never by running code that comes with them."""
    found = []
    if not (directory / "config.json").is_file():
        found.append("it has no config.json; give the folder of a Hugging Face model")
    if not list(directory.glob("*.safetensors")):
        pickled = sorted(f.name for f in directory.glob("*") if f.suffix in (".bin", ".pt", ".pth"))
        found.append(
            f"its weights are pickled ({', '.join(pickled)}), which can run any code; convert them "
            "with save_pretrained to safetensors"
            if pickled
            else "it has no *.safetensors weights; download or convert them"
        )
    if found:
        return found
    try:
        AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except UNREADABLE as error:
        return [f"its config.json cannot be used: {first_line(error)}"]
    return []


def _label_faults(directory: Path, config: Wanted) -> Iterator[str]:
    num_labels = AutoConfig.from_pretrained(directory, trust_remote_code=False).num_labels
    assert num_labels is not None
    if not config.fits(num_labels):
        yield (
            f"it has num_labels={num_labels}, and {config.labels}; give a sequence-classification "
            f"model that was trained for judge={config.name}"
        )


def tokenizer_faults(directory: Path) -> Iterator[str]:
    """Why the folder's tokenizer cannot be loaded."""
    try:
        read_tokenizer(directory)
    except UNREADABLE as error:
        yield f"its tokenizer cannot be loaded: {first_line(error)}"


def _training_faults(directory: Path, config: Wanted) -> Iterator[str]:
    """Judges have files of one format, so that a model of another kind would load and be wrong."""
    record = directory / TRAINING_RECORD
    if not record.is_file():
        return
    try:
        trained = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        yield f"its {TRAINING_RECORD} is not JSON ({error}); train the model again"
        return
    kind = _kind(trained)
    if kind is None:
        return
    if JUDGE_OF[kind] != config.name:
        yield f"it was trained with kind={kind.value}; use it with judge={JUDGE_OF[kind]}"
    else:
        yield from config.differences(trained)


def trained_kind(directory: Path) -> Kind | None:
    """How a directory that `find_model` gave was trained here; None if it was not."""
    record = directory / TRAINING_RECORD
    return _kind(json.loads(record.read_text(encoding="utf-8"))) if record.is_file() else None


def _kind(trained: object) -> Kind | None:
    kind = trained.get("kind") if isinstance(trained, dict) else None
    return Kind(kind) if kind in {kind.value for kind in Kind} else None


def fingerprint(directory: Path) -> str:
    """Changes with the configuration, and with weights that were trained on; quick for any size.

    Of the weights it reads evenly spread samples, from the first bytes to the last.
    """
    digest = sha256((directory / "config.json").read_bytes())
    for file in sorted(directory.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as weights:
            for i in range(_SAMPLES):
                weights.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                digest.update(weights.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:8]
