"""Usage records with every oddity that a producer, or an attacker, may think of."""

from __future__ import annotations

import json
import random
from typing import Any

from spendstream.schemas.usage import UsageEvent
from tests.unit.log import event_id, make_usage_event

MAX_BYTES = 20_000
ODD_TEXTS = (
    "", ":", ":null", ": x", "{", "{}", '"', "\\", '":', "a:b", "a : b", '","service":"x', "null",
    "true", "5", "1.5", "nan",
    "x" * 256, "x" * 257, "é" * 129, "é" * 257, "😀", "\x00", "\x7f", "\n", "\t", "\u2028", "__other__", " padded ",
)  # fmt: skip
ODD_NUMBERS = (
    0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30, 100_000_000, 100_000_001, 1000, 1001,
    86_400_000, 86_400_001, 0.0, -0.0, 1.0, 1.5, 1e-7, 0.0000005, 0.0000015, 1e300, 9_999_999.999999,
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    *ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], [1], ["a"], {}, {"a": None}, {"a": "b"}, {"service": "x"},
)  # fmt: skip
TIMES = (
    "2026-03-04T12:00:00Z", "2026-03-04T12:00:00+00:00", "2026-03-04T12:00:00.5Z", "2026-03-04T12:00:00.123456Z",
    "2026-03-04T12:00:00.1234567Z", "2026-03-04T12:00:00.123456789Z", "2026-03-04t12:00:00z", "2026-03-04 12:00:00Z",
    "2026-03-04T12:00:00-00:00", "2026-03-04T14:00:00+02:00", "2026-03-04T12:00:00", "2026-03-04",
    "2026-02-30T00:00:00Z",
    "2026-03-04T24:00:00Z", "2026-03-04T23:59:60Z", "2026-03-04T23:59:59.999999Z", "2024-02-29T00:00:00Z",
    "1970-01-01T00:00:00Z", "2019-12-31T23:59:59.999999Z", "2020-01-01T00:00:00Z", "2099-12-31T23:59:59.999999Z",
    "2100-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0000-01-01T00:00:00Z", "2026-3-4T1:2:3Z",
    "1772625600", "+2026-03-04T12:00:00Z",
    "2026-03-04T12:00:00.Z", "2026-03-04T12:00:00Z ", "٢٠٢٦-03-04T12:00:00Z",
    "2026-03-04T12:00:00+0000", "20260304T120000Z",
)  # fmt: skip
ID = event_id(7)
IDS = (
    ID, ID.upper(), ID.replace("-", ""), "{" + ID + "}", "urn:uuid:" + ID, ID[:-1], ID + "0", ID + " ", ID[:-1] + "g",
    ID.replace("-", "_"), "00000000-0000-0000-0000-000000000000", "0" * 32, "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "00000000-0000-0000-0000-000000000001", ID.replace("-", "", 1), "é" + ID[2:],
    "0192f0c17e1c-7d3a-9f51-3c1f9a5b2e77",
)  # fmt: skip
MONEY = (
    "0",
    "0.1",
    "0.10",
    "-0",
    "-0.5",
    "-1000000",
    "-1000000.1",
    "1e3",
    "1E-7",
    "1e999999999",
    0.48312120000000003,
    -1e-7,
    "1000000",
    "1000000.1",
    "0.123456789012",
    "0.1234567890123",
    "01",
    ".5",
    "5.",
    "NaN",
    "1_0",
    " 1",
    "1\n",
    5,
    0.1,
)
CURRENCIES = ("USD", "usd", "US", "USDX", "USD\n", "ÄÖÜ", "")
FIELDS = tuple(UsageEvent.model_fields)
FAVOURITES: dict[str, tuple[Any, ...]] = {
    "event_id": IDS,
    "occurred_at": TIMES,
    "requested_at": TIMES,
    "provider_cost": MONEY,
    "currency": CURRENCIES,
    "service_tier": ("standard", "batch", "flex", "priority", "fast", "default", "Batch"),
    "capacity": ("on_demand", "provisioned", "prepaid"),
    "parent_event_id": IDS,
    "credential": (
        "key-7",
        "sk-proj-abcdefghijklmnop1234",
        "sk-short",
        "Bearer abcdefghijklmnopqrst",
        "sk-" + "x" * 300,
    ),
    "units": (
        {"pages": 3, "audio_seconds": 7.25},
        {"pages": "3", "audio_seconds": "007.250"},
        {"pages": 0, "images": "0.0"},
        {},
        {"pages": 0.1234567890123456789},
        {"pages": "0.1234567890125"},
        {"pages": 1e12},
        {"pages": 1000000000001},
        {"pages": -1},
        {"pages": "-0"},
        {"pages": "NaN"},
        {"pages": "1e3"},
        {"pages": "1e999999999"},
        {"pages": "1e-999999999"},
        {"pages": " 1"},
        {"pages": "1_0"},
        {"pages": ""},
        {"pages": True},
        {"pages": None},
        {"pages": 10**30},
        {"pages": 123456789012345678},
        {"pages": 12345678901.123456789},
        {"pages_processed": 1, "document_pages": "1.0"},
        {"pages_processed": 1, "pages": 2},
        {"web_searches": 2},
        {"web_searches": 2.5},
        {"web_searches": "0", "pages": 1},
        {"é": 1, "z": 2, "😀": 3},
        {"": 1},
        {"a\x00": 1},
        {"k" * 257: 1},
        {f"k{i}": i for i in range(32)},
        {f"k{i}": i for i in range(33)},
        [],
        "x",
    ),
    "usage_notes": (
        ["a not read"],
        ["a", "b; c", ""],
        [],
        [""],
        ["\x00"],
        ["é" * 256],
        ["é" * 257],
        ["x"] * 16,
        ["x"] * 17,
        [1],
        [None],
        "x",
    ),
    "status": ("ok", "error", "OK"),
    "usage_quality": ("reported", "estimated", "x"),
    "tags": (
        {},
        {"a": "b"},
        {"b": "1", "a": 'é\u007f\x01/"\\'},
        {"": "x"},
        {"a": ""},
        {"a": 1},
        {"a": None},
        {"a": "\x00"},
        [],
        "x",
        {f"k{i}": "v" for i in range(32)},
        {f"k{i}": "v" for i in range(33)},
        {"k" * 256: "v" * 256},
        {"k" * 257: "v"},
        {"é": "1", "z": "2", "😀": "3"},
    ),
    "gpu_seconds": (0, 1, 0.5, 0.0000005, 0.0000015, 0.0000025, 1e-9, 10_000_000, 10_000_000.1, 1e400, "1"),
}


def whole_event(rng: random.Random) -> dict[str, Any]:
    event = make_usage_event(rng.randrange(1000), at_s=rng.randrange(100_000) / 1000)
    for name in rng.sample(FIELDS, rng.choice((0, 0, 3, 10))):
        if name.endswith("_tokens") and not name.startswith("prompt_"):
            event[name] = rng.randrange(1000)
        elif name in FAVOURITES and rng.random() < 0.9:
            event[name] = FAVOURITES[name][0]
    return event


def mutated(rng: random.Random) -> bytes | None:
    """Return a record: mostly a valid event with one to three oddities, in its values or in its bytes."""
    if rng.random() < 0.03:
        return rng.choice(
            (None, b"", b"null", b"[]", b"1", b'"x"', b"{}", b" ", b"\n", rng.randbytes(rng.randrange(1, 60)))
        )
    event = whole_event(rng)
    for _ in range(rng.choice((0, 1, 1, 2, 3))):
        name = rng.choice(FIELDS) if rng.random() < 0.9 else rng.choice(("unknown", "a", "", "servicé", "n", "Service"))
        match rng.random():
            case x if x < 0.35 and name in FAVOURITES:
                event[name] = rng.choice(FAVOURITES[name])
            case x if x < 0.8:
                event[name] = rng.choice(ODD_VALUES)
            case x if x < 0.9:
                event.pop(name, None)
            case _:
                event["unknown"] = {name: rng.choice(ODD_VALUES), "deeper": [{name: rng.choice(ODD_VALUES)}]}
    members = list(event.items())
    if rng.random() < 0.2:  # a key twice, before or after
        name = rng.choice(FIELDS)
        twin = rng.choice((name, name, "service")), rng.choice((*ODD_VALUES, *FAVOURITES.get(name, ())))
        members.insert(rng.randrange(len(members) + 1), twin)
    if rng.random() < 0.3:
        rng.shuffle(members)
    return odd_bytes(rng, spelled(rng, members))


def spelled(rng: random.Random, members: list[tuple[str, Any]]) -> bytes:
    ascii_only = rng.random() < 0.3
    compact = rng.random() < 0.6
    inner = (
        (",", ":")
        if compact
        else rng.choice(((", ", ": "), (",  ", ":  "), (" , ", " : "), ("\t,", "\t:"), ("\r\n,", ":\r\n")))
    )
    parts = [
        json.dumps(k, ensure_ascii=ascii_only)
        + inner[1]
        + json.dumps(v, ensure_ascii=ascii_only, separators=(",", ":"))
        for k, v in members
    ]
    return ("{" + inner[0].join(parts) + "}").encode()


def odd_bytes(rng: random.Random, value: bytes) -> bytes:
    at = rng.randrange(len(value))
    quote = rng.choice((value.find(b'"service":"') + 11, value.find(b'"team":"') + 8, 1))
    match rng.randrange(40):
        case 0:
            return value[:at]
        case 1:
            return value[:at] + rng.randbytes(1) + value[at + 1 :]
        case 2:
            return (
                value[:quote]
                + rng.choice((b"\\ud800", b"\\ud83d\\ude00", b"\\u0000", b"\\n", b"\\/", b"\\u003a", b"\\x"))
                + value[quote:]
            )
        case 3:
            return (
                value[:quote]
                + rng.choice((b"\x00", b"\x01", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf5", b"\x7f"))
                + value[quote:]
            )
        case 4:
            return b"\xef\xbb\xbf" + value
        case 5:
            return (
                rng.choice((b" ", b"\n", b"\t", b"\r\n", b"\x0c"))
                + value
                + rng.choice((b"", b" ", b"\n", b"\x00", b"\x0c"))
            )
        case 6:
            return value[:-1] + rng.choice(
                (
                    b",}",
                    b',"x":NaN}',
                    b',"x":Infinity}',
                    b',"x":01}',
                    b',"x":1e999}',
                    b',"x":-}',
                    b',"x":.5}',
                    b"}}",
                    b"]",
                )
            )
        case 7:
            depth = rng.choice((10, 60, 190, 210, 1000, 5000))
            return value[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}"
        case 8:
            return value[:-1] + b',"x":"\xff"}'
        case 9:
            return value + rng.choice((value, b"{}", b" {}", b",", b"//", b"\n{}"))
        case 10:
            return value[:-1] + b',"x":' + b"9" * rng.choice((20, 400, 4299, 4301, 9000)) + b"}"
        case 11:
            return value[:-1] + b',"x":"' + b"y" * rng.choice((MAX_BYTES, 1_000_000 // 40)) + b'"}'
        case 12:
            return json.dumps(json.loads(value), indent=2).encode() if is_json(value) else value
        case 13:
            return value.replace(b'"service"', rng.choice((b'"servic\\u0065"', b"service", b"'service'")))
        case 14:
            return rng.choice(
                (
                    value.decode("utf-8", "replace").encode("utf-16"),
                    value.replace(b":", b"=", 1),
                    value.replace(b'"', b"", 1),
                )
            )
    return value


def is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True
