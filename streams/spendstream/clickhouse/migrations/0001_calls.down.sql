DROP TABLE IF EXISTS {database}.calls {on_cluster} SYNC;
