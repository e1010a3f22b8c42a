"""Fetch the providers' own Python packages, for tests on their types: ``python -m tests.sdks.install``.

What ``requirements.lock`` pins goes once into a folder of ``$SPENDSTREAM_CACHE``, by default ``.spendstream`` in the
repository, and not into ``.venv``: these 370 MB hold some packages in older versions than the product has.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.kafka.install import InstallFailed, cache_dir

LOCK: Final = Path(__file__).with_name("requirements.lock")
_SEAL: Final = "lock.sha256"
_TIMEOUT_S: Final = 900


class SdksNotInstalled(RuntimeError):
    """The providers' packages have not been fetched, or not those that are pinned at present."""


def load(module: str) -> Any:
    """Import a module of a provider's package. Raises: SdksNotInstalled.

    The packages come last on the path: where the product has another version of what they need, the product's is used.
    """
    folder = _folder()
    if not _is_complete(folder):
        raise SdksNotInstalled(f"no packages of the providers in {folder}: run `make sdks`")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the network for prices when imported
    return importlib.import_module(module)


def install() -> Path:
    """Fetch the packages unless they are there, and return their folder. Raises: InstallFailed.

    Two at once do no harm: each fetches into a folder of its own, and the first to finish is kept.
    """
    folder = _folder()
    if _is_complete(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as made:
        fetched = Path(made) / "sdks"
        _fetch(fetched)
        (fetched / _SEAL).write_text(_digest())
        if folder.exists() and not _is_complete(folder):
            shutil.rmtree(folder)
        try:
            fetched.rename(folder)
        except OSError:
            if not _is_complete(folder):
                raise
    return folder


def _fetch(target: Path) -> None:
    """Install into a folder, by uv, or by pip, which knows indexes that only its own configuration names."""
    what = ["--quiet", "--require-hashes", "--target", str(target), "-r", str(LOCK)]
    uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--python", sys.executable]
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check"]
    said = ""
    for command in (uv, pip):
        try:
            done = subprocess.run([*command, *what], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
            continue
        if done.returncode == 0:
            return
        said = done.stderr.strip()[-2_000:]
        shutil.rmtree(target, ignore_errors=True)
    raise InstallFailed(f"the packages of {LOCK} could not be fetched:\n{said}")


def _folder() -> Path:
    return cache_dir() / f"sdks-{_digest()[:12]}"


def _is_complete(folder: Path) -> bool:
    seal = folder / _SEAL
    return seal.is_file() and seal.read_text() == _digest()


def _digest() -> str:
    return hashlib.sha256(LOCK.read_bytes() + sys.version.encode()).hexdigest()


def main() -> int:
    """Fetch the packages, say where they are, and return the exit status."""
    try:
        folder = install()
    except InstallFailed as reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    sys.stdout.write(f"The providers' packages: {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
