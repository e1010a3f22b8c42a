CREATE OR REPLACE VIEW {database}.dead_letters_v {on_cluster} AS
SELECT topic, source_log, partition, offset, reason, field, message, event_id, service, recorded_at, key, original,
    replayed_at, inserted_at
FROM {database}.dead_letters FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;

ALTER TABLE {database}.dead_letters {on_cluster}
    DROP COLUMN IF EXISTS original_bytes,
    DROP COLUMN IF EXISTS original_sha256,
    DROP COLUMN IF EXISTS stage;
