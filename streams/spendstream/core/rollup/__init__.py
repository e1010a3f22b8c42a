"""Rollups: absolute totals per (minute, dimensions), one set for each source partition."""
