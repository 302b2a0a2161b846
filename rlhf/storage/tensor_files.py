"""Named tensors in files: safetensors in parts of bounded size, and a JSON index; no pickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from safetensors import safe_open
from safetensors.torch import save, save_file
from torch import Tensor

from rlhf.storage.disk import writing

_PART_BYTES = 2 << 30


class Folder(Protocol):
    """Where a TensorWriter puts its files."""

    def put_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None: ...

    def put_text(self, name: str, text: str) -> None: ...


class DiskFolder:
    """One on disk; raises DiskFailed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with writing(path):
            path.mkdir(parents=True)

    def put_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        with writing(self._path / name):
            save_file(dict(tensors), self._path / name)

    def put_text(self, name: str, text: str) -> None:
        with writing(self._path / name):
            (self._path / name).write_text(text)


class MemoryFolder:
    """One in memory: puts bytes into `files`, as they would be on disk."""

    def __init__(self, files: dict[str, np.ndarray], path: str) -> None:
        self._files, self._path = files, path

    def put_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._put(name, save(dict(tensors)))

    def put_text(self, name: str, text: str) -> None:
        self._put(name, text.encode())

    def _put(self, name: str, content: bytes) -> None:
        # An array, since Ray hands it over without another copy.
        self._files[f"{self._path}/{name}"] = np.frombuffer(content, np.uint8)


class TensorWriter:
    """Takes tensors one by one, so that never more than a part of them is held besides the files.

    Use as a context manager; the index is written when it ends without an error. One without a
    folder takes everything and writes nothing, which lets ranks iterate in step.
    """

    def __init__(self, folder: Folder | None) -> None:
        self._folder = folder
        self._part: dict[str, Tensor] = {}
        self._part_bytes = 0
        self._files: dict[str, str] = {}
        self._notes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def write(self, name: str, value: Tensor) -> None:
        if self._folder is None:
            return
        size = value.numel() * value.element_size()
        if self._part and self._part_bytes + size > _PART_BYTES:
            self._flush(self._folder)
        self._part[name] = value.detach().cpu().contiguous().clone()
        self._part_bytes += size

    def note(self, key: str, value: Any) -> None:
        """A JSON value beside the tensors."""
        self._notes[key] = value

    def _flush(self, folder: Folder) -> None:
        file = f"part-{len(set(self._files.values())):05d}.safetensors"
        folder.put_tensors(file, self._part)
        self._files |= dict.fromkeys(self._part, file)
        self._part, self._part_bytes = {}, 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._folder is not None:
            self._flush(self._folder)
            index = {"files": self._files, "notes": self._notes}
            self._folder.put_text("index.json", json.dumps(index, indent=1))


class TensorReader:
    """Reads what a TensorWriter wrote, tensor by tensor."""

    def __init__(self, directory: Path) -> None:
        index = json.loads((directory / "index.json").read_text())
        self._directory = directory
        self._files: dict[str, str] = index["files"]
        self.notes: dict[str, Any] = index["notes"]

    def read(self, name: str) -> Tensor:
        if name not in self._files:
            raise KeyError(
                f"{self._directory} has no tensor {name!r}: another model was saved there"
            )
        with safe_open(self._directory / self._files[name], framework="pt") as file:
            return file.get_tensor(name)
