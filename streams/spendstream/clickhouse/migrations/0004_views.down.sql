DROP VIEW IF EXISTS {database}.dead_letters_v {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.spend_1d {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.spend_1h {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.spend_1m {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.calls_v {on_cluster} SYNC;
