"""What crosses a wire: topics, events, priced calls, rollups, dead letters, rate cards.

Models are frozen and strict; they are the contract. Faster decoders exist in ``spendstream.core``,
and property tests hold them to the verdicts of these models.
"""
