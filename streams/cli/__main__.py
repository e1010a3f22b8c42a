"""``python -m streams.cli``: the same as ``spendstream``."""

from streams.cli import main

main()
