"""Where the tables go and how long rows are kept, by the settings."""

from spendstream.clickhouse.migrate import MigrationSettings
from spendstream.clickhouse.retention import Retention
from spendstream.clickhouse.template import Target
from spendstream.settings import Settings


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
