DROP TABLE IF EXISTS {database}.rollups_1m {on_cluster} SYNC;
