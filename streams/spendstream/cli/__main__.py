"""``python -m spendstream.cli``: the same as ``spendstream``."""

from spendstream.cli import main

main()
