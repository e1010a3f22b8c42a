"""The command line, ``spendstream``: one file a command."""
