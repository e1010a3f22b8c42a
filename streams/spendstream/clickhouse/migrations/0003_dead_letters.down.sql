DROP TABLE IF EXISTS {database}.dead_letters {on_cluster} SYNC;
