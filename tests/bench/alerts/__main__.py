"""Measures the quality and the cost of anomaly detection and writes docs/alert-quality.md."""

from tests.bench.alerts.page import main

if __name__ == "__main__":
    main()
