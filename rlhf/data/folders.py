"""Which files of a folder are data."""

from collections.abc import Sequence
from pathlib import Path

from rlhf.problems import InputError


def find_files(key: str, path: Path, suffixes: Sequence[str]) -> list[Path]:
    """The file, or all under the folder but for what is hidden in it.

    Raises InputError, naming `key`, if there is none.
    """
    where = f"{key}={path}"
    try:
        if not path.exists():
            raise InputError([f"{where}: no such file or folder; correct the path"])
        # Folders are named like files, too: Spark writes x.parquet/part-0.parquet.
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = [f for f in found if f.suffix in suffixes and not f.is_dir()]
    except OSError as error:
        raise InputError([f"{where}: cannot be read: {error.strerror}; correct it"]) from error
    # Copies of editors and notebooks, such as .ipynb_checkpoints/x.jsonl, are no data.
    files = [f for f in files if not any(n.startswith(".") for n in f.relative_to(path).parts)]
    if not files:
        kinds = f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise InputError([f"{where}: give a {kinds} file, or a folder of them"])
    return files
