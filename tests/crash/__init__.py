"""Real processes, killed for real; then exact reconciliation with an independently computed truth."""
