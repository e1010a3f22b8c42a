"""What disks and operators do to a topic: a log that loses its tail, records that are deleted."""

import struct
from pathlib import Path
from typing import Any

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

_DERIVED = ("*.index", "*.timeindex", "*.snapshot", "*.txnindex")


def cut_log(folder: Path, end_offset: int) -> None:
    """Cut a partition's only segment at the batch that begins at an offset. The broker must be down."""
    (segment,) = folder.glob("*.log")
    data, at = segment.read_bytes(), 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        if base >= end_offset:
            break
        at += 12 + length
    assert 0 < at < len(data) or end_offset == 0, f"no batch begins at {end_offset}"
    segment.write_bytes(data[:at])
    for pattern in _DERIVED:
        for file in folder.glob(pattern):
            file.unlink()
    (folder / "leader-epoch-checkpoint").unlink(missing_ok=True)


async def delete_records(bootstrap: str, before: dict[TopicPartition, int]) -> None:
    """Delete all records before an offset, as retention does: -1 deletes all."""
    admin: Any = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_records({at: RecordsToDelete(offset) for at, offset in before.items()})
    finally:
        await admin.close()
