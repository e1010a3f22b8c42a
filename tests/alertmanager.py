"""A real Prometheus Alertmanager for tests. `python -m tests.alertmanager` fetches it.

An Alertmanager on the PATH is used as it is. Otherwise its Debian package is downloaded by apt, which needs no root
rights, and unpacked into `$SPENDSTREAM_CACHE/alertmanager`, by default `.spendstream/alertmanager`. Debian compiles the
path of its templates into the program; the unpacked copy finds its own, from the folder in which it is started.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any, Final

from spendstream.embedded.process import LOOPBACK, ManagedProcess, lasting_port
from tests.kafka.install import InstallFailed, cache_dir

PACKAGE: Final = "prometheus-alertmanager"
_COMPILED_IN: Final = b"/usr/share/prometheus/alertmanager"
_BESIDE_IT: Final = b"usr/share/prometheus//alertmanager"
"""Where Debian's program looks for its templates, and where they are in the unpacked package, in as many letters."""
_TIMEOUT_S: Final = 300
_HTTP_TIMEOUT_S: Final = 5.0


class AlertmanagerNotInstalled(RuntimeError):
    """Alertmanager has not been fetched."""


def find() -> str | None:
    """Return the path of Alertmanager's program; None where there is none."""
    own = _folder() / "usr" / "bin" / PACKAGE
    return shutil.which(PACKAGE) or shutil.which("alertmanager") or (str(own) if own.is_file() else None)


def install() -> str:
    """Fetch Alertmanager unless it is there, and return the path of its program. Raises: InstallFailed."""
    return find() or download()


def download() -> str:
    """Download the Debian package and unpack it. Raises: InstallFailed, where apt is missing or fails."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise InstallFailed("the tests need Alertmanager: install it (https://prometheus.io/download) on the PATH")
    folder = _folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetching-") as made:
        if not _runs(["apt-get", "download", PACKAGE], made):
            _runs(["apt-get", "update"], made)  # a fresh container has no package lists; without root this fails
            if not _runs(["apt-get", "download", PACKAGE], made):
                raise InstallFailed(f"apt can't download {PACKAGE}: run `apt-get update` as root, then try again")
        (archive,) = Path(made).glob("*.deb")
        unpacked = Path(made) / "unpacked"
        subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True, timeout=_TIMEOUT_S)
        shutil.rmtree(folder, ignore_errors=True)
        program = unpacked / "usr" / "bin" / PACKAGE
        program.write_bytes(program.read_bytes().replace(_COMPILED_IN, _BESIDE_IT))
        unpacked.rename(folder)
    return str(folder / "usr" / "bin" / PACKAGE)


def _runs(command: list[str], folder: str) -> bool:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def _folder() -> Path:
    return cache_dir() / "alertmanager"


class LocalAlertmanager:
    """One Alertmanager on loopback, without a cluster. It posts each notification to ``webhook_url`` at once.

    Silences survive a restart, alerts do not: Alertmanager does not store them.
    Raises on construction: AlertmanagerNotInstalled.
    """

    def __init__(self, folder: Path, webhook_url: str) -> None:
        program = find()
        if program is None:
            raise AlertmanagerNotInstalled("no Alertmanager: run `make alertmanager`")
        self.url = f"http://{LOOPBACK}:{lasting_port()}"
        config = folder / "alertmanager.yml"
        route = {"receiver": "hook", "group_by": ["..."], "group_wait": "0s", "group_interval": "1s"}
        receivers = [{"name": "hook", "webhook_configs": [{"url": webhook_url}]}]
        config.write_text(json.dumps({"route": route, "receivers": receivers}))  # JSON is YAML
        self._process = ManagedProcess(
            [
                program,
                f"--config.file={config}",
                f"--storage.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
                "--cluster.listen-address=",
            ],
            log_path=folder / "alertmanager.log",
            cwd=_folder() if program.startswith(str(_folder())) else None,
            ready=self._is_ready,
            ready_timeout_s=90.0,
        )

    def __enter__(self) -> LocalAlertmanager:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()

    def restart(self) -> None:
        """Stop and start it on the same port."""
        self._process.stop()
        self._process.start()

    def alerts(self) -> list[dict[str, Any]]:
        """Return the active alerts, silenced ones included."""
        found: list[dict[str, Any]] = self._request("/api/v2/alerts")
        return found

    def silence(self, silence: dict[str, Any]) -> None:
        """Post a silence."""
        self._request("/api/v2/silences", silence)

    def _request(self, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:
            return json.load(answer)

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=_HTTP_TIMEOUT_S):
                return True
        except OSError:
            return False


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{install()}\n")
    except InstallFailed as error:
        sys.exit(str(error))
