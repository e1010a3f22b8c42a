"""The signed webhook, against a real server on loopback."""

from __future__ import annotations

import hashlib
import hmac
import json
import socket
from datetime import timedelta

import pytest

from spendstream.notifiers import messenger_of, webhook
from spendstream.notifiers.base import NotConfigured, Refused, Unreachable
from spendstream.schemas.alert import Alert
from tests.unit.notifiers.make import NOON, make_alert, make_notifier, receiver

KEY = "k3y-of-the-hook"


async def test_the_signature_proves_body_and_time() -> None:
    alerts = [make_alert(1), make_alert(2, "resolved")]
    async with receiver() as hook:
        sender = messenger_of(make_notifier(hook.url + "/in", secret_env="KEY"), {"KEY": KEY + "\n"})
        await sender.send(alerts, NOON)
        await sender.close()
    (request,) = hook.requests
    timestamp, signed = request.headers[webhook.TIMESTAMP], request.headers[webhook.SIGNATURE]
    expected = hmac.new(KEY.encode(), f"{timestamp}.".encode() + request.body, hashlib.sha256).hexdigest()
    assert signed == f"sha256={expected}"
    assert int(timestamp) == NOON.timestamp()
    content = json.loads(request.body)
    assert content["version"] == 1
    assert [Alert.model_validate(alert) for alert in content["alerts"]] == alerts
    assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("key", "late_s", "body"),
    [(b"other", 0, b"{}"), (KEY.encode(), 301, b"{}"), (KEY.encode(), -301, b"{}"), (KEY.encode(), 0, b"{} ")],
)
def test_another_key_an_old_timestamp_or_a_changed_body_does_not_verify(key: bytes, late_s: int, body: bytes) -> None:
    timestamp = str(int(NOON.timestamp()))
    signed = webhook.signature(KEY.encode(), timestamp, b"{}")
    assert webhook.verify(KEY.encode(), timestamp, signed, b"{}", NOON + timedelta(seconds=300))
    assert not webhook.verify(key, timestamp, signed, body, NOON + timedelta(seconds=late_s))


@pytest.mark.parametrize("timestamp", ["", "-1", "1e9", "٣", "now"])
def test_a_malformed_timestamp_does_not_verify(timestamp: str) -> None:
    signed = webhook.signature(KEY.encode(), timestamp, b"{}")
    assert not webhook.verify(KEY.encode(), timestamp, signed, b"{}", NOON)


async def test_without_a_key_nothing_is_signed_and_the_idempotency_key_follows_from_the_transitions() -> None:
    one, two = make_alert(1), make_alert(2, "updated")
    async with receiver() as hook:
        sender = messenger_of(make_notifier(hook.url), {})
        for alerts in ([one], [one], [two], [one, two]):
            await sender.send(alerts, NOON)
        await sender.close()
    keys = [request.headers[webhook.IDEMPOTENCY_KEY] for request in hook.requests]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    assert all(webhook.SIGNATURE not in request.headers for request in hook.requests)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
async def test_an_answer_that_asks_to_try_later_is_retried(status: int) -> None:
    async with receiver(always=status, headers={"Retry-After": "7"}) as hook:
        sender = messenger_of(make_notifier(hook.url), {})
        with pytest.raises(Unreachable, match=str(status)) as caught:
            await sender.send([make_alert()], NOON)
        await sender.close()
    assert caught.value.retry_after_s == 7


@pytest.mark.parametrize("status", [301, 307, 400, 401, 404, 410, 413, 422])
async def test_an_answer_that_rejects_the_request_is_final(status: int) -> None:
    async with receiver(always=status, headers={"Location": "/elsewhere"}) as hook:
        sender = messenger_of(make_notifier(hook.url), {})
        with pytest.raises(Refused, match=str(status)):
            await sender.send([make_alert()], NOON)
        await sender.close()
    assert len(hook.requests) == 1


async def test_a_timeout_a_reset_and_a_closed_port_count_as_unreachable() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = messenger_of(make_notifier(f"http://127.0.0.1:{closed.getsockname()[1]}"), {})
        with pytest.raises(Unreachable, match="refused"):
            await nobody.send([make_alert()], NOON)
        await nobody.close()
    async with receiver(answers=["hang", "reset"]) as hook:
        sender = messenger_of(make_notifier(hook.url, timeout=1), {})
        with pytest.raises(Unreachable, match="did not answer within 1 s"):
            await sender.send([make_alert()], NOON)
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
            await sender.send([make_alert()], NOON)
        await sender.close()


async def test_headers_come_from_the_environment() -> None:
    async with receiver() as hook:
        notifier = make_notifier(hook.url, headers_env={"Authorization": "TOKEN"})
        sender = messenger_of(notifier, {"TOKEN": "Bearer t0ken"})
        await sender.send([make_alert()], NOON)
        await sender.close()
    assert hook.requests[0].headers["Authorization"] == "Bearer t0ken"


@pytest.mark.parametrize(
    ("more", "environ", "named"),
    [
        ({"url_env": "HOOK"}, {}, "HOOK"),
        ({"url_env": "HOOK"}, {"HOOK": " "}, "HOOK"),
        ({"url_env": "HOOK"}, {"HOOK": "ftp://s3cret"}, "HOOK"),
        ({"url_env": "HOOK"}, {"HOOK": "http://[s3cret"}, "HOOK"),
        ({"url_env": "HOOK"}, {"HOOK": "http://h:s3cret/"}, "HOOK"),
        ({"url": "not a url"}, {}, "url"),
        ({"secret_env": "KEY"}, {}, "KEY"),
        ({"headers_env": {"A": "VALUE"}}, {}, "VALUE"),
        ({"headers_env": {"A": "VALUE"}}, {"VALUE": "s3cret\r\nX: y"}, "VALUE"),
    ],
)
def test_a_missing_or_invalid_variable_is_named(more: dict[str, str], environ: dict[str, str], named: str) -> None:
    with pytest.raises(NotConfigured, match=named) as caught:
        messenger_of(make_notifier(**more), environ)
    assert "s3cret" not in str(caught.value)
