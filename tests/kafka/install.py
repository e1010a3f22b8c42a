"""Fetch a local Apache Kafka through Maven: ``python -m tests.kafka.install``.

The jars that ``pom.xml`` names are copied once into ``$SPENDSTREAM_CACHE/kafka/<version>``, by default
``.spendstream/kafka/<version>`` in the repository. Where Maven downloads from is Maven's own configuration.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from functools import cache
from pathlib import Path

POM = Path(__file__).with_name("pom.xml")
JAVA_VERSION = 17
MAVEN_TIMEOUT_S = 600

_POM_NAMESPACE = {"m": "http://maven.apache.org/POM/4.0.0"}
_SEAL = "pom.sha256"


class InstallFailed(RuntimeError):
    """Kafka could not be fetched; the message says what to do."""


class KafkaNotInstalled(RuntimeError):
    """The local Kafka has not been fetched, or not for the present pom.xml."""


def kafka_version() -> str:
    """Return the version that pom.xml pins, such as ``4.4.0``."""
    version = ElementTree.parse(POM).getroot().findtext("m:properties/m:kafka.version", namespaces=_POM_NAMESPACE)
    if version is None:
        raise InstallFailed(f"{POM} names no kafka.version")
    return version


def libs_dir() -> Path:
    """Return the folder that holds, or will hold, Kafka's jars."""
    return cache_dir() / "kafka" / kafka_version()


def installed_libs() -> Path:
    """Return the folder with Kafka's jars. Raises: KafkaNotInstalled, when they are not there."""
    libs = libs_dir()
    if not _is_complete(libs):
        raise KafkaNotInstalled(
            f"no Apache Kafka {kafka_version()} in {libs}: run `make kafka`, which needs Java {JAVA_VERSION} and Maven"
        )
    return libs


def class_archive() -> Path:
    """Return the file with the classes of a running broker, as this Java keeps them; ``main`` writes it.

    A broker that starts from it needs 2 CPU seconds instead of 5. Java does without it where it is missing or does not
    fit. Raises: InstallFailed, when Java is missing.
    """
    java = hashlib.sha256(_java_version(java_executable()).encode()).hexdigest()[:12]
    return cache_dir() / "kafka" / f"{kafka_version()}-{java}.jsa"


def java_executable() -> str:
    """Return the path of ``java``. Raises: InstallFailed, when it is missing or older than Java 17."""
    java = _executable("java", "a Java runtime, such as the package openjdk-17-jre-headless")
    version = _java_version(java)
    major = re.search(r'version "(\d+)', version)
    if major is None or int(major[1]) < JAVA_VERSION:
        raise InstallFailed(f"Apache Kafka needs Java {JAVA_VERSION} or newer; {java} is {version.strip()!r}")
    return java


@cache
def _java_version(java: str) -> str:
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr


def install() -> Path:
    """Fetch Kafka's jars unless they are there, and return their folder.

    Raises: InstallFailed, when Java or Maven is missing or Maven fails.
    """
    java_executable()
    return fetch_jars(POM, libs_dir())


def fetch_jars(pom: Path, libs: Path) -> Path:
    """Fetch the jars that a ``pom.xml`` names into the folder ``libs``, unless they are there, and return it.

    Two at once do no harm: each fetches into a folder of its own, and the first to finish is kept.

    Raises: InstallFailed, when Maven is missing or fails.
    """
    if _is_complete(libs, pom):
        return libs
    maven = _executable("mvn", "Apache Maven, such as the package maven")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent, prefix=".fetching-") as folder:
        fetched = Path(folder) / "libs"
        _copy_jars(maven, pom, fetched)
        (fetched / _SEAL).write_text(_digest(pom))
        if libs.exists() and not _is_complete(libs, pom):
            shutil.rmtree(libs)
        try:
            fetched.rename(libs)
        except OSError:
            if not _is_complete(libs, pom):
                raise
    return libs


def _copy_jars(maven: str, pom: Path, target: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={target}"]
    command = [maven, "--batch-mode", "--quiet", "--file", str(pom), *goal]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MAVEN_TIMEOUT_S)
    except subprocess.TimeoutExpired as slow:
        raise InstallFailed(f"Maven did not fetch the jars of {pom} within {MAVEN_TIMEOUT_S} s") from slow
    if done.returncode != 0:
        raise InstallFailed(f"Maven could not fetch the jars of {pom}:\n{(done.stdout + done.stderr).strip()[-2_000:]}")


def _is_complete(libs: Path, pom: Path = POM) -> bool:
    seal = libs / _SEAL
    return seal.is_file() and seal.read_text() == _digest(pom)


def _digest(pom: Path) -> str:
    return hashlib.sha256(pom.read_bytes()).hexdigest()


def cache_dir() -> Path:
    """Return the folder for what the tests download: ``$SPENDSTREAM_CACHE``, or ``.spendstream`` in the repository."""
    if configured := os.environ.get("SPENDSTREAM_CACHE"):
        return Path(configured).resolve()
    repository = Path(__file__).resolve().parents[2]
    if (repository / "pyproject.toml").is_file():
        return repository / ".spendstream"
    return Path.home() / ".cache" / "spendstream"


def _executable(name: str, package: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise InstallFailed(f"`{name}` was not found on the PATH: install {package}")
    return path


def main() -> int:
    """Fetch Kafka, archive its classes, say where it is, and return the exit status."""
    from tests.kafka.server import archive_classes  # which needs this module

    try:
        libs = install()
        archive_classes()
    except InstallFailed as reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    sys.stdout.write(f"Apache Kafka {kafka_version()}: {libs}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
