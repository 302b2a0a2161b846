"""Named tensors on disk: safetensors in parts of bounded size, and a JSON index; no pickles."""

import json
from pathlib import Path
from typing import Any, Self

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rlhf.storage.disk import writing

_PART_BYTES = 2 << 30


class TensorWriter:
    """Takes tensors one by one, so that never more than a part of them is held in memory.

    Use as a context manager; the index is written when it ends without an error. A disabled
    writer takes everything and writes nothing, which lets ranks iterate in step.
    """

    def __init__(self, directory: Path, *, enabled: bool = True) -> None:
        self._directory = directory
        self._enabled = enabled
        self._part: dict[str, Tensor] = {}
        self._part_bytes = 0
        self._files: dict[str, str] = {}
        self._notes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self._enabled:
            with writing(self._directory):
                self._directory.mkdir(parents=True)
        return self

    def write(self, name: str, value: Tensor) -> None:
        if not self._enabled:
            return
        size = value.numel() * value.element_size()
        if self._part and self._part_bytes + size > _PART_BYTES:
            self._flush()
        self._part[name] = value.detach().cpu().contiguous().clone()
        self._part_bytes += size

    def note(self, key: str, value: Any) -> None:
        """A JSON value beside the tensors."""
        self._notes[key] = value

    def _flush(self) -> None:
        file = f"part-{len(set(self._files.values())):05d}.safetensors"
        with writing(path := self._directory / file):
            save_file(self._part, path)
        self._files |= dict.fromkeys(self._part, file)
        self._part, self._part_bytes = {}, 0

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._enabled:
            self._flush()
            index = {"files": self._files, "notes": self._notes}
            with writing(path := self._directory / "index.json"):
                path.write_text(json.dumps(index, indent=1))


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
