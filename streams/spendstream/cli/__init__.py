"""The command line, ``spendstream``: one file a command."""


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    # What a command needs takes up to a second to import; the help needs none of it.
    from spendstream.cli.root import run

    raise SystemExit(run())
