"""The command line, ``spendstream``."""


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    # A command takes up to a second to import what it needs; --help imports none of it.
    try:
        from spendstream.cli.root import run
    except ModuleNotFoundError as missing:
        if (missing.name or "").startswith("spendstream"):
            raise
        raise SystemExit(
            f"spendstream: {missing.name} is not installed; the command line needs: pip install 'spendstream[worker]'"
        ) from None

    raise SystemExit(run())
