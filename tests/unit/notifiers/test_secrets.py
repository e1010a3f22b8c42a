"""No secret of a notifier reaches a log line, an exception or a repr, whatever fails."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from spendstream.notifiers import messenger_of
from spendstream.notifiers.base import NotConfigured, NotifierError, Refused, endpoint_of
from spendstream.schemas.watch import Notifier
from spendstream.waiting import in_thread
from tests.unit.notifiers.make import NOON, make_alert, make_notifier, receiver

SECRETS = ("T00000000", "B11111111", "s3cretpath", "s3cretquery", "s3cretkey", "s3crettoken", "s3cretpassword")


@pytest.fixture
def heard() -> Iterator[io.StringIO]:
    """Everything that any library logs, at any level."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


ENVIRON = {
    "KEY": "s3cretkey",
    "TOKEN": "Bearer s3crettoken",
}


def secret_notifier(address: str, kind: str) -> tuple[Notifier, dict[str, str]]:
    host = address.removeprefix("http://")
    url = f"http://user:s3cretpassword@{host}/services/T00000000/B11111111/s3cretpath?key=s3cretquery"
    if kind == "apprise":
        url = f"json://user:s3cretpassword@{host}/services/T00000000/B11111111/s3cretpath?-key=s3cretquery&rto=1"
    more: dict[str, Any] = {} if kind == "apprise" else {"secret_env": "KEY", "headers_env": {"X-Token": "TOKEN"}}
    return make_notifier(kind=kind, url_env="HOOK", timeout=2, **more), {**ENVIRON, "HOOK": url}


@pytest.mark.parametrize("kind", ["webhook", "slack", "alertmanager", "apprise"])
@pytest.mark.parametrize("answer", [500, 404, "reset", "hang", "closed"])
async def test_a_failing_receiver_leaks_nothing(kind: str, answer: int | str, heard: io.StringIO) -> None:
    with structlog.testing.capture_logs() as lines:
        async with receiver(always=200 if answer == "closed" else answer) as hook:
            hook.words = f"no such hook: {' '.join(SECRETS)}"
            notifier, environ = secret_notifier(hook.url, kind)
            sender = messenger_of(notifier, environ)
            if answer != "closed":
                with pytest.raises(NotifierError) as caught:
                    await sender.send([make_alert()], NOON)
        if answer == "closed":
            with pytest.raises(NotifierError) as caught:
                await sender.send([make_alert()], NOON)
        await sender.close()
    said = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + str(lines) + heard.getvalue()
    said += repr(endpoint_of(notifier, environ)) + repr(sender)
    assert [secret for secret in SECRETS if secret in said] == []
    assert "127.0.0.1" in str(caught.value) or kind == "apprise"


async def test_the_receivers_reason_is_reported_without_the_secrets_it_echoes() -> None:
    async with receiver(always=403, words="invalid_token s3crettoken for /services/T00000000/B11111111") as hook:
        notifier, environ = secret_notifier(hook.url, "webhook")
        sender = messenger_of(notifier, environ)
        with pytest.raises(Refused, match="invalid_token"):
            await sender.send([make_alert()], NOON)
        await sender.close()


@pytest.mark.parametrize("url", ["s3cretpath", "nonsense://s3cretpath", "json://a/s3cretpath json://b/s3cretpath"])
def test_a_url_that_apprise_does_not_support_is_not_shown(url: str, heard: io.StringIO) -> None:
    with pytest.raises(NotConfigured) as caught:
        messenger_of(make_notifier(kind="apprise", url_env="HOOK"), {"HOOK": url})
    said = "".join(traceback.format_exception(caught.value)) + heard.getvalue()
    assert "s3cretpath" not in said


async def test_an_exception_in_a_thread_reaches_the_caller() -> None:
    def fail() -> None:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        await in_thread(fail, "failing")
