"""Settings, from the environment. Resolved once into a frozen object; nothing else reads the environment.

Every command imports this, so it imports neither what meters nor what connects.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from spendstream.schemas import topics
from spendstream.schemas.rollup import DEFAULT_DIMENSIONS, DIMENSIONS

Names = Annotated[tuple[str, ...], NoDecode]

ROLES = ("meter", "sink", "detect", "notify")
"""What a worker may do."""

KAFKA_METADATA_MAX_AGE_MS: Final = 5_000
"""How long a client trusts its metadata of topics. A broker that has just started may know no topic; the leader of a
consumer group then assigns no partition, and asks again only after this time (aiokafka's default: 5 minutes)."""


class Settings(BaseSettings):
    """Every setting of a worker and of the commands. The environment variable is the name in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    # Kafka
    kafka_bootstrap_servers: str = Field("localhost:9092", description="host:port, comma-separated.")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: str | None = Field(None, repr=False)
    kafka_ssl_cafile: str | None = None
    kafka_group: str = Field("spendstream", description="Prefix of the consumer groups: <it>-meter, <it>-sink-calls…")
    kafka_topic_prefix: str = Field("", description="Put before every topic name.")
    kafka_partitions: int = Field(4, ge=1, description="Partitions of topics that `spendstream topics` creates.")
    kafka_replication: int = Field(1, ge=1, description="Replication factor of topics it creates.")
    kafka_session_timeout_s: float = Field(10.0, ge=1, description="A dead worker's partitions move after this.")

    # ClickHouse
    clickhouse_url: str = Field("http://localhost:8123", description="HTTP interface.")
    clickhouse_user: str = "default"
    clickhouse_password: str = Field("", repr=False)
    clickhouse_password_file: Path | None = Field(
        None, description="File with the password, read at each connection: rotate it without a restart."
    )
    clickhouse_database: str = "spendstream"
    clickhouse_cluster: str | None = Field(None, description="Name of a cluster: tables are replicated, ON CLUSTER.")
    retention_calls_days: int = Field(0, ge=0, description="0 keeps for ever.")
    retention_rollups_days: int = Field(0, ge=0, description="0 keeps for ever.")
    retention_dead_letters_days: int = Field(0, ge=0, description="0 keeps for ever.")
    retention_alerts_days: int = Field(0, ge=0, description="0 keeps for ever.")

    # metering: two workers of one group must agree on these
    meter_dimensions: Names = Field(DEFAULT_DIMENSIONS, description=f"Of {', '.join(DIMENSIONS)}; comma-separated.")
    meter_allowed_lateness_s: int = Field(600, ge=0, description="A later event is counted as a correction.")
    meter_allowed_skew_s: int = Field(300, ge=0, description="An event further ahead of its record is a dead letter.")
    meter_dedupe_horizon_s: int = Field(3600, ge=1, description="A repeated event_id counts once within this.")
    meter_cardinality_cap: int = Field(10_000, ge=1, description="Rows per minute and partition before __other__.")
    meter_flush_interval_s: float = Field(0.25, gt=0, description="How often totals are published.")
    rate_cards: Names = Field((), description=f"Your rate card files, {os.pathsep!r}-separated.")
    rate_books: Path = Field(Path(".spendstream/rate-books"), description="Folder of price books that you took.")

    # alerts
    watches: str | None = Field(None, description="Your watches file; the built-in watches where unset.")
    detect_snapshot_interval_s: float = Field(60.0, gt=0, description="How often what was learned is saved.")

    # sinks
    sink_linger_s: float = Field(0.1, ge=0, description="How long a sink gathers rows for one insert.")
    sink_max_rows: int = Field(20_000, ge=1, description="Rows of one insert.")

    # the worker
    worker_roles: Names = Field(ROLES, description=f"Of {', '.join(ROLES)}; comma-separated.")
    metrics_host: str = "127.0.0.1"
    metrics_port: int = Field(9464, ge=0, le=65535, description="/metrics, /healthz, /readyz. 0: a free port.")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"

    @field_validator("meter_dimensions", "worker_roles", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("rate_cards", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(os.pathsep))) if isinstance(value, str) else value

    @field_validator("meter_dimensions")
    @classmethod
    def _known_dimensions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in DIMENSIONS]
        if unknown:
            raise ValueError(f"unknown dimension {', '.join(unknown)}; choose among {', '.join(DIMENSIONS)}")
        return tuple(name for name in DIMENSIONS if name in value)

    @field_validator("worker_roles")
    @classmethod
    def _known_roles(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in value if name not in ROLES]
        if unknown or not value:
            raise ValueError(f"unknown role {', '.join(unknown) or '(none)'}; choose among {', '.join(ROLES)}")
        return value

    def topic(self, name: str) -> str:
        """Return a topic's full name: ``topic(spendstream.schemas.topics.USAGE)``."""
        assert name in topics.ALL, name
        return self.kafka_topic_prefix + name

    def group(self, role: str) -> str:
        """Return the consumer group of a role, such as ``meter``."""
        return f"{self.kafka_group}-{role}"

    @property
    def rate_card_paths(self) -> tuple[Path, ...]:
        return tuple(map(Path, self.rate_cards))

    @property
    def watches_path(self) -> Path | None:
        return None if self.watches is None else Path(self.watches)

    def kafka_client(self) -> dict[str, Any]:
        """Return the connection arguments of every Kafka client: as aiokafka takes them.

        ``spendstream.app.faust_connection`` makes Faust's from them.
        """
        arguments: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers.split(","),
            "security_protocol": self.kafka_security_protocol,
            "metadata_max_age_ms": KAFKA_METADATA_MAX_AGE_MS,
        }
        if self.kafka_security_protocol.endswith("SSL"):
            from aiokafka.helpers import create_ssl_context

            arguments["ssl_context"] = create_ssl_context(cafile=self.kafka_ssl_cafile)
        if self.kafka_security_protocol.startswith("SASL"):
            arguments["sasl_mechanism"] = self.kafka_sasl_mechanism
            arguments["sasl_plain_username"] = self.kafka_sasl_username
            arguments["sasl_plain_password"] = self.kafka_sasl_password
        return arguments
