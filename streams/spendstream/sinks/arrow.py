"""Arrow tables as the body of an insert."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from spendstream.sinks.base import Insert

# A third of the bytes on the network, and quicker to write than the uncompressed stream.
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")


def table_insert(name: str, table: pa.Table) -> Insert:
    """Return the insert of an Arrow table into the ClickHouse table `name`, columns matched by their names."""
    # One dictionary a column in the whole stream: some ClickHouse versions read the first one only.
    unified = table.unify_dictionaries()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, unified.schema, options=_OPTIONS) as writer:
        writer.write_table(unified)
    return Insert(name, tuple(table.schema.names), table.num_rows, sink.getvalue().to_pybytes())
