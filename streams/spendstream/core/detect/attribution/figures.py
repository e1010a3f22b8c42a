"""Numbers as people read them: two or three digits of them."""

import math


def amount(value: float) -> str:
    """Return a count: 18,432 as ``18,400``, 51.2 as ``51``, 3.42 as ``3.4``, 0.00042 as ``0.00042``."""
    if value == 0:
        return "0"
    places = (1 if value < 10 else 2) - math.floor(math.log10(value))
    rounded = round(value, min(places, 0) if value >= 10 else places)
    if rounded == int(rounded):
        return f"{int(rounded):,}"
    return f"{rounded:.{places}f}".rstrip("0")


def percent(share: float) -> str:
    """Return a share: ``62%``; below one percent ``0.4%``."""
    hundredths = 100 * share
    if hundredths == 0 or hundredths >= 0.95:
        return f"{hundredths:,.0f}%"
    return f"{hundredths:.1f}%" if hundredths >= 0.05 else "almost 0%"
