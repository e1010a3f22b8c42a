"""State in Kafka: the meter's, written by a flush and read back by a recovery, and the detector's snapshots."""
