DROP VIEW IF EXISTS {database}.alerts_current {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.alerts_v {on_cluster} SYNC;
DROP TABLE IF EXISTS {database}.alerts {on_cluster} SYNC;
