"""Reads what wandb has written for a run that is not online, by wandb's own records."""

import json
import struct
import time
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2


def sent(file: Path) -> list[Any]:
    """wandb's records of an ended run; its service writes them in its own time, `exit` last."""
    deadline = time.monotonic() + 60
    while not (found := written(file)) or found[-1].WhichOneof("record_type") != "exit":
        assert time.monotonic() < deadline, f"{file} has no end after a minute: {found}"
        time.sleep(0.05)
    return found


def written(file: Path) -> list[Any]:
    """The records in a `.wandb` file so far: a LevelDB log of protocol buffers after 7 bytes."""
    data, found, part, position = file.read_bytes(), [], b"", 7
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part += data[position + 7 : position + 7 + length]
        position += 7 + length
        if position > len(data):
            break
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(part)
            found.append(record)
            part = b""
    return found


def history(file: Path) -> list[dict[str, Any]]:
    return [
        {
            "/".join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in one.history.item
        }
        for one in sent(file)
        if one.WhichOneof("record_type") == "history"
    ]
