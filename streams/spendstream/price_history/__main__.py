"""Write ``core/pricing/history.json`` again: ``make price-history``.

Releases of genai-prices up to the installed one are fetched with pip, into ``$SPENDSTREAM_CACHE/genai-prices``, by
default ``.spendstream/genai-prices``; uv tells when each was uploaded. Both use the indexes that they are configured
for. What is there already is not fetched again.

``python -m spendstream.price_history CLONE`` takes OpenRouter's prices, day by day, from a clone of
github.com/jvrck/openrouterlist (MIT), whose history has the models API twice a day. Without it, those in the present
file remain.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Final

from genai_prices.data import providers
from genai_prices.data_snapshot import find_provider_by_id

from spendstream.core.documents import DocumentError
from spendstream.price_history.compare import Key, Release, UnknownModel, history_of, read_release, read_verdicts

PACKAGE: Final = "genai-prices"
HISTORY: Final = Path(__file__).parents[1] / "core" / "pricing" / "history.json"
VERDICTS: Final = Path(__file__).with_name("verdicts.yaml")

_SNAPSHOT: Final = "data/output.json"
_RATES: Final = (("input_mtok", "prompt"), ("output_mtok", "completion"), ("cache_read_mtok", "input_cache_read"))
"""The book's rate, and its name in OpenRouter's models API."""

_PROJECT: Final = '[project]\nname = "x"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["{}=={}"]\n'
_UPLOADED: Final = re.compile(r'/genai_prices-[^"/]*\.whl".*?upload-time = "(\d{4}-\d\d-\d\d)')


def main(clone: str = "") -> int:
    """Return 0 if every difference has a verdict and every verdict a difference."""
    cache = Path(os.environ.get("SPENDSTREAM_CACHE", ".spendstream")) / PACKAGE
    cache.mkdir(parents=True, exist_ok=True)
    try:
        verdicts = read_verdicts(VERDICTS)
    except DocumentError as error:
        return _fail(str(error))
    try:
        releases = list(_releases(cache))
    except subprocess.CalledProcessError as error:
        return _fail(f"{error.cmd[0]} failed: {error.stderr.strip()}")
    _progress(f"comparing {len(releases)} releases")
    series = _present().get("series", {})
    if clone:
        series = {"openrouter": _openrouter(clone)}
    try:
        result = history_of(releases, verdicts, series, _resolve)
    except UnknownModel as error:
        return _fail(f"{VERDICTS}: {error}")
    HISTORY.write_text(_text(result.document), "utf-8")
    total = sum(result.counts.values())
    _say(f"{total} differences: " + ", ".join(f"{count} {verdict}" for verdict, count in result.counts.items()))
    _say(f"{len(result.document['periods'])} periods written to {HISTORY}")
    for difference in result.undecided:
        _say(f"no verdict, taken as unknown: {difference}")
    for verdict in result.unused:
        _say(f"matches no difference: {verdict.provider} {', '.join(verdict.models)}")
    return 1 if result.undecided or result.unused else 0


def _openrouter(clone: str) -> dict[str, Any]:
    """Return the prices of the book's models, each day on which one changed, but for days on which a model was free."""
    seller = find_provider_by_id(providers, "openrouter")
    listed = {model.id for model in seller.models if not model.id.endswith(":free")} if seller else set()
    models: dict[str, list[list[str | None]]] = {}
    log = _git(clone, "log", "--reverse", "--format=%h %cs", "--", _SNAPSHOT).splitlines()
    for number, line in enumerate(log, start=1):
        commit, day = line.split()
        _progress(f"{number} of {len(log)}: OpenRouter on {day}")
        try:
            snapshot = json.loads(_git(clone, "show", f"{commit}:{_SNAPSHOT}"))["data"]
        except (KeyError, ValueError):
            continue  # the answer of a day on which the API was down
        for model in snapshot:
            if model["id"] in listed and (prices := _per_mtok(model["pricing"])):
                points = models.setdefault(model["id"], [])
                if points and points[-1][0] == day:
                    points.pop()
                if not points or points[-1][1:] != prices:
                    points.append([day, *prices])
    last = date.fromisoformat(log[-1].split()[1])
    return {
        "source": f"OpenRouter's models API, as github.com/jvrck/openrouterlist read it twice a day until {last}",
        "until": str(last + timedelta(days=1)),
        "rates": [rate for rate, _ in _RATES],
        "models": dict(sorted(models.items())),
    }


def _per_mtok(pricing: Mapping[str, str]) -> list[str | None]:
    """Return a model's rates in USD per million tokens, in the order of ``_RATES``; empty if input has none."""
    usd = [Decimal(pricing.get(name) or 0) * 10**6 for _, name in _RATES]
    return [format(price.normalize(), "f") if price > 0 else None for price in usd] if usd[0] > 0 else []


def _releases(cache: Path) -> Iterable[Release]:
    """Fetch and read all releases up to the installed one, oldest first."""
    newest = installed_version(PACKAGE)
    listing = _run("pip", "index", "versions", PACKAGE)
    available = re.search(r"Available versions: (.*)", listing)
    versions = sorted(available[1].split(", ") if available else [], key=_order)
    known = {version: date.fromisoformat(day) for version, day in _present().get("releases", {}).items()}
    wanted = [version for version in versions if _order(version) <= _order(newest)]
    for number, version in enumerate(wanted, start=1):
        _progress(f"{number} of {len(wanted)}: {PACKAGE} {version}")
        wheels = list(cache.glob(f"genai_prices-{version}-*.whl"))
        if not wheels:
            _run("pip", "download", "--no-deps", "--quiet", "--dest", str(cache), f"{PACKAGE}=={version}")
            wheels = list(cache.glob(f"genai_prices-{version}-*.whl"))
        yield read_release(wheels[0], version, known.get(version) or _uploaded_on(version))


def _present() -> dict[str, Any]:
    """Return the document as it was last written; empty if it never was."""
    document: dict[str, Any] = json.loads(HISTORY.read_text("utf-8")) if HISTORY.exists() else {}
    return document


def _uploaded_on(version: str) -> date:
    """Ask uv, whose lock file states when a wheel was uploaded."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "pyproject.toml").write_text(_PROJECT.format(PACKAGE, version))
        _run("uv", "lock", "--quiet", "--directory", folder)
        found = _UPLOADED.search(Path(folder, "uv.lock").read_text())
    if found is None:
        raise subprocess.CalledProcessError(1, ["uv"], stderr=f"no upload time of {PACKAGE} {version}")
    return date.fromisoformat(found[1])


def _run(tool: str, *arguments: str) -> str:
    command = [sys.executable, "-m", tool, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _git(clone: str, *arguments: str) -> str:
    return subprocess.run(["git", "-C", clone, *arguments], capture_output=True, text=True, check=True).stdout


def _resolve(key: Key) -> Key | None:
    provider = find_provider_by_id(providers, key[0])
    model = provider.find_model(key[1]) if provider else None
    return (provider.id, model.id) if provider and model else None


def _order(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _text(document: Mapping[str, Any]) -> str:
    """Return the document as JSON with one line for each entry: differences between two versions are readable."""
    parts = []
    for name, value in document.items():
        if name == "series":
            parts.append(f'"series": {{\n{",".join(_series(*entry) for entry in value.items())}\n}}')
        elif isinstance(value, list):
            lines = [json.dumps(entry, ensure_ascii=False) for entry in value]
            parts.append(f"{json.dumps(name)}: [" + ",".join(f"\n  {line}" for line in lines) + "\n]")
        else:
            lines = [f"{json.dumps(key)}: {json.dumps(entry, ensure_ascii=False)}" for key, entry in value.items()]
            parts.append(f"{json.dumps(name)}: {{" + ",".join(f"\n  {line}" for line in lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _series(provider: str, entry: Mapping[str, Any]) -> str:
    about = {name: value for name, value in entry.items() if name != "models"}
    lines = [f"\n    {json.dumps(model)}: {json.dumps(points)}" for model, points in entry["models"].items()]
    return f'  {json.dumps(provider)}: {json.dumps(about)[:-1]}, "models": {{{",".join(lines)}\n  }}}}'


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
    else:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _fail(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
