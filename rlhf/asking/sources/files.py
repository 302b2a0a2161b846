"""Prompts in JSONL and Parquet files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.columns import ColumnsConfig, columns_of, lacking, split
from rlhf.config.texts import location
from rlhf.data.files import SUFFIXES, Column, FileReader
from rlhf.data.folders import find_files
from rlhf.data.rendering import Row, Source
from rlhf.problems import InputError


@dataclass
class FilesConfig(ColumnsConfig):
    """Prompts in JSONL or Parquet."""

    name: ClassVar[str] = "files"

    path: str = location()
    heldout_path: str | None = location(None)
    """Without it, `heldout_share` of the rows are held out."""

    def source(self, wanted: Wanted, seed: int) -> Source:
        return Source(*file_rows(self, wanted))


def file_rows(config: FilesConfig, wanted: Wanted) -> tuple[list[Row], list[Row]]:
    """Rows to train on and held-out ones; raises InputError with everything that is wrong."""
    problems = list(lacking(config, wanted))
    columns = columns_of(config)
    rows = _read("path", config.path, columns, wanted.rows, problems)
    if config.heldout_path is not None:
        needed = {field: column for field, column in columns.items() if field != "demonstration"}
        heldout = _read("heldout_path", config.heldout_path, needed, wanted.rows, problems)
    if problems:
        raise InputError(problems)
    if config.heldout_path is not None:
        return rows, heldout
    return split(rows, config.heldout_share, "data.heldout_path")


def _read(
    key: str, path: str, columns: Mapping[str, Column], whole: bool, problems: list[str]
) -> list[Row]:
    """Every row under `path`, with all its columns if `whole`; what is wrong is added to
    `problems`."""
    root = Path(path)
    try:
        files = find_files(f"data.{key}", root, SUFFIXES)
    except InputError as error:
        problems += error.problems
        return []
    rows = []
    for file in files:
        # Numbered rows need ids that are unique over all files.
        prefix = "heldout:" if key == "heldout_path" else ""
        prefix += f"{file.relative_to(root)}:" if root.is_dir() else ""
        rows += FileReader(file, columns, prefix, whole).read(problems)
    if not rows and not problems:
        problems.append(f"data.{key}={path}: it has no rows; give a file with prompts")
    return rows
