"""Decode: records into calls. A fast reader with a proof, a strict reader for the rest, an explainer for what fails."""

from spendstream.core.decode.batch import Decoded, decode

__all__ = ["Decoded", "decode"]
