DROP TABLE IF EXISTS {database}.repairs {on_cluster} SYNC;
