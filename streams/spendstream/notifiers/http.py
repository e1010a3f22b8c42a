"""One POST, and what the answer means: taken, try again, or never."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Final

import aiohttp

from spendstream.notifiers.endpoint import Endpoint
from spendstream.notifiers.errors import Refused, Unreachable

_PATIENCE: Final = (408, 425, 429)
_LONGEST_ANSWER: Final = 200
_LONGEST_RETRY_AFTER_S: Final = 600.0


class Http:
    """Posts to one endpoint over connections it keeps. Proxies are taken from the environment, as curl does."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a JSON body and return when it was taken (2xx). Redirects are not followed: they would lose the body.

        Raises: Unreachable, for no answer, 408, 425, 429 and 5xx; Refused, for any other answer.
        """
        endpoint = self._endpoint
        try:
            async with self._opened().post(
                endpoint.url,
                data=body,
                headers={**endpoint.headers, "Content-Type": "application/json", **headers},
                allow_redirects=False,
            ) as response:
                if 200 <= response.status < 300:
                    return
                text = await self._words(response)
                status, retry_after = response.status, response.headers.get("Retry-After")
        # The client's own words may hold the whole URL, and so may what they were raised from: neither goes on.
        except TimeoutError:
            raise Unreachable(f"{endpoint.host} did not answer within {endpoint.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{endpoint.host}: {_kind(error)}") from None
        except ValueError as error:
            raise Refused(f"{endpoint.host}: the request can't be made: {type(error).__name__}") from None
        if status in _PATIENCE or status >= 500:
            raise Unreachable(f"{endpoint.host} answered {status}{text}", _seconds(retry_after))
        raise Refused(f"{endpoint.host} answered {status}{text}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout_s),
                headers={"User-Agent": "spendstream"},
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=True,
            )
        return self._session

    async def _words(self, response: aiohttp.ClientResponse) -> str:
        """Return the beginning of an answer, as ``: invalid_blocks``; Slack says what is wrong there."""
        raw = await response.content.read(4 * _LONGEST_ANSWER)
        words = " ".join(raw.decode("utf-8", "replace").split())
        # Scrubbed before it is cut: half a secret is not found any more.
        shown = self._endpoint.scrub(words)[:_LONGEST_ANSWER]
        return f": {shown}" if shown else ""


def _kind(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    words = os.strerror(number) if isinstance(number, int) and number > 0 else ""
    return f"{type(error).__name__}{f', {words}' if words else ''}"


def _seconds(retry_after: str | None) -> float | None:
    """Return a Retry-After in seconds, at most ten minutes; None where there is none, or it is a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else None
