-- A dead letter of a very large record has its beginning alone, and says how large the record was. Letters of
-- internal_error say in which stage the record failed.

ALTER TABLE {database}.dead_letters {on_cluster}
    ADD COLUMN IF NOT EXISTS original_bytes Nullable(UInt64) AFTER original,
    ADD COLUMN IF NOT EXISTS original_sha256 String AFTER original_bytes,
    ADD COLUMN IF NOT EXISTS stage LowCardinality(String) AFTER message;

CREATE OR REPLACE VIEW {database}.dead_letters_v {on_cluster} AS
SELECT topic, source_log, partition, offset, reason, field, message, stage, event_id, service, recorded_at, key, original,
    original_bytes, original_sha256, replayed_at, inserted_at
FROM {database}.dead_letters FINAL
SETTINGS do_not_merge_across_partitions_select_final = 1;
