"""Where the tables go and how long rows are kept, by the settings."""

from infra.clickhouse.migrate import MigrationSettings
from infra.clickhouse.retention import Retention
from infra.clickhouse.template import Target
from streams.settings import Settings


def migration_settings(settings: Settings) -> MigrationSettings:
    """Return which database to migrate, and its retention. Raises: TemplateError, on a name that SQL would quote."""
    return MigrationSettings(
        Target(settings.clickhouse_database, settings.clickhouse_cluster),
        Retention(
            calls_days=settings.retention_calls_days,
            rollups_days=settings.retention_rollups_days,
            dead_letters_days=settings.retention_dead_letters_days,
            alerts_days=settings.retention_alerts_days,
        ),
    )
