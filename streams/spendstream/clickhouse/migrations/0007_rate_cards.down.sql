DROP VIEW IF EXISTS {database}.charges_v {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.rates_v {on_cluster} SYNC;
DROP VIEW IF EXISTS {database}.rate_cards_v {on_cluster} SYNC;
DROP TABLE IF EXISTS {database}.rate_cards {on_cluster} SYNC;
