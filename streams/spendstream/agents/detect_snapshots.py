"""Snapshots of the detector in Kafka: what it knew, and the offsets at which it knew it.

A snapshot is named arrays, packed and cut into chunks, and a manifest written last. Two slots take turns, so that the
one before is whole until the next is. The topic is compacted: it comes to hold little more than two snapshots.
"""

import asyncio
import hashlib
import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from pydantic import BaseModel, ConfigDict, ValidationError

from spendstream.core.detect.detector import Sections
from spendstream.kafka.consumer import read_to_end
from spendstream.kafka.producer import AckedProducer, Record

log = structlog.get_logger(__name__)

FORMAT: Final = 3
"""The number of the format, raised whenever a section or array is renamed or changes its meaning."""

CHUNK_BYTES: Final = 900_000
PARTITION: Final = 0
_SLOTS: Final = ("a", "b")
_MANIFEST: Final = "manifest"
_SEPARATOR: Final = "|"


class Manifest(BaseModel):
    """Names a snapshot's chunks, and where the topics stood. Written once all chunks are acknowledged."""

    model_config = ConfigDict(frozen=True)

    format: int = 1
    number: int
    chunks: int
    unpacked_bytes: int
    digest: str
    clock_us: int
    rollup_offsets: dict[int, int]
    alert_offsets: dict[int, int]


def pack(sections: Sections) -> bytes:
    """Return a snapshot's arrays as bytes. Raises: ValueError, for an array of Python objects."""
    file = io.BytesIO()
    arrays = {f"{section}{_SEPARATOR}{name}": a for section, named in sections.items() for name, a in named.items()}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise ValueError(f"{name} holds Python objects: a snapshot can't")
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def unpack(data: bytes) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Read what ``pack`` wrote."""
    sections: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        for key in arrays.files:
            section, _, name = key.partition(_SEPARATOR)
            sections.setdefault(section, {})[name] = arrays[key]
    return sections


def copied(sections: Sections) -> Sections:
    """Return a snapshot that later changes of the detector leave as it is."""
    return {section: {name: array.copy() for name, array in named.items()} for section, named in sections.items()}


class SnapshotStore:
    """Writes and reads snapshots in one partition of a compacted topic."""

    def __init__(self, producer: AckedProducer, topic: str) -> None:
        self._producer = producer
        self._topic = topic

    async def write(self, sections: Sections, manifest: Mapping[str, Any]) -> int:
        """Write a snapshot: its chunks, then its manifest. Returns the bytes written.

        ``manifest``: ``number``, ``clock_us`` and the offsets. Encoding runs in a thread.
        """
        data = await asyncio.to_thread(pack, sections)
        packed = await asyncio.to_thread(pa.compress, data, codec="zstd", asbytes=True)
        number = int(manifest["number"])
        pieces = [packed[at : at + CHUNK_BYTES] for at in range(0, len(packed), CHUNK_BYTES)]
        records = [
            Record(_key(number, f"{index:05}"), b"%d\n" % number + piece, PARTITION)
            for index, piece in enumerate(pieces)
        ]
        await self._producer.write(self._topic, records)
        complete = Manifest(
            **manifest,
            format=FORMAT,
            chunks=len(pieces),
            unpacked_bytes=len(data),
            digest=hashlib.sha256(packed).hexdigest(),
        )
        await self._producer.write(
            self._topic, [Record(_key(number, _MANIFEST), complete.model_dump_json().encode(), PARTITION)]
        )
        return len(packed)

    async def read(self, consumer: AIOKafkaConsumer) -> tuple[Manifest, dict[str, Any]] | None:
        """Return the newest snapshot that is whole; None where there is none. ``consumer``: started, in no group.

        Raises: TimeoutError.
        """
        newest = {
            record.key: record.value
            async for _, records in read_to_end(consumer, {TopicPartition(self._topic, PARTITION): None})
            for record in records
            if record.key is not None and record.value is not None
        }
        manifests = sorted(_manifests(newest), key=lambda manifest: manifest.number, reverse=True)
        for manifest in manifests:
            packed = _assembled(newest, manifest)
            if packed is not None:
                data = pa.decompress(packed, manifest.unpacked_bytes, codec="zstd", asbytes=True)
                return manifest, await asyncio.to_thread(unpack, data)
            log.warning("detect.snapshot_incomplete", number=manifest.number)
        return None


def _key(number: int, part: str) -> bytes:
    return f"{_SLOTS[number % len(_SLOTS)]}/{part}".encode()


def _manifests(newest: Mapping[bytes, bytes]) -> list[Manifest]:
    """Return the manifests that this version can read. A snapshot of another format is ignored, never misread."""
    found = []
    for slot in _SLOTS:
        value = newest.get(f"{slot}/{_MANIFEST}".encode())
        if value is None:
            continue
        try:
            manifest = Manifest.model_validate_json(value)
        except ValidationError as error:
            log.warning("detect.snapshot_unreadable", slot=slot, error=str(error))
            continue
        if manifest.format == FORMAT:
            found.append(manifest)
        else:
            log.warning("detect.snapshot_ignored", slot=slot, format=manifest.format, expected_format=FORMAT)
    return found


def _assembled(newest: Mapping[bytes, bytes], manifest: Manifest) -> bytes | None:
    """Return a snapshot's bytes; None where a chunk is missing or is of another snapshot."""
    pieces = []
    for index in range(manifest.chunks):
        number, _, piece = newest.get(_key(manifest.number, f"{index:05}"), b"").partition(b"\n")
        if number != b"%d" % manifest.number:
            return None
        pieces.append(piece)
    packed = b"".join(pieces)
    return packed if hashlib.sha256(packed).hexdigest() == manifest.digest else None
