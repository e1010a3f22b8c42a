"""Migrations are ClickHouse SQL with a few placeholders, so that one source serves a single node and a cluster.

{database}                 the database's name
{on_cluster}               nothing, or ON CLUSTER 'name'
{replacing:TABLE:VERSION}  ReplacingMergeTree(VERSION), or its replicated form with a path in Keeper for TABLE
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from spendstream.errors import SpendstreamError

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_REPLACING: Final = re.compile(r"replacing:(\w+):(\w+)")
_STATEMENT_END: Final = re.compile(r";\s*$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*$", re.MULTILINE)


class TemplateError(SpendstreamError):
    """A migration has a placeholder that nothing fills, or a name is not one that SQL takes unquoted."""


@dataclass(frozen=True)
class Target:
    """Where tables are made. `cluster`: a name of `system.clusters`, None for a single node.

    Raises: TemplateError, when a name is not made of letters, digits and underscores.
    """

    database: str = "spendstream"
    cluster: str | None = None

    def __post_init__(self) -> None:
        for name in (self.database, self.cluster or "none"):
            if not _NAME.fullmatch(name):
                raise TemplateError(f"{name!r}: a database or cluster name is letters, digits and underscores")

    @property
    def on_cluster(self) -> str:
        """The clause that runs a statement on every node, empty for a single node."""
        return f"ON CLUSTER '{self.cluster}'" if self.cluster else ""

    def replacing(self, table: str, version: str) -> str:
        """Return the engine that keeps, of the rows of one key, the one with the greatest `version`.

        The replicated form names its path, so that a replica added later finds it. `{shard}`, `{database}` and
        `{replica}` are macros of the server.
        """
        if not self.cluster:
            return f"ReplacingMergeTree({version})"
        path = f"/clickhouse/tables/{{shard}}/{{database}}/{table}"
        return f"ReplicatedReplacingMergeTree('{path}', '{{replica}}', {version})"


def render(template: str, target: Target) -> list[str]:
    """Return the statements of a migration, ready to run.

    A statement ends with a semicolon at the end of a line. Raises: TemplateError, on an unknown placeholder.
    """

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "database":
            return target.database
        if name == "on_cluster":
            return target.on_cluster
        if engine := _REPLACING.fullmatch(name):
            return target.replacing(engine.group(1), engine.group(2))
        raise TemplateError(f"unknown placeholder {match.group(0)}")

    # Comments go first: a word in braces or a semicolon in one means nothing.
    sql = _PLACEHOLDER.sub(fill, _COMMENT.sub("", template))
    return [statement for part in _STATEMENT_END.split(sql) if (statement := part.strip())]
