"""Derives ``core/pricing/history.json``, the prices of the past, from genai-prices' releases: ``make price-history``.

``compare``        finds where releases differ from the newest one, and applies the verdicts; downloads nothing
``__main__``       fetches the releases, shows progress, writes the file
``verdicts.yaml``  what each difference is, with its source: a change and its date, a correction, or unknown
"""
