"""A pause that ends at once when what it is part of is to stop."""

import asyncio


async def pause(seconds: float, stopping: asyncio.Event) -> None:
    """Sleep, but not beyond ``stopping``."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        pass
