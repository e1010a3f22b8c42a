"""Children start, are awaited, and never outlive their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from spendstream.embedded.process import ManagedProcess, ProcessFailed, RememberedPorts, accepts_tcp, free_port

IGNORES_SIGTERM = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).touch()
time.sleep(60)
"""


def sleeper(tmp_path: Path) -> ManagedProcess:
    return ManagedProcess([sys.executable, "-c", "import time; time.sleep(60)"], log_path=tmp_path / "log")


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped counts as dead."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def test_start_returns_when_the_probe_says_ready(tmp_path: Path) -> None:
    port = free_port()
    server = ManagedProcess(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        log_path=tmp_path / "log",
        ready=accepts_tcp("127.0.0.1", port),
    )
    with server:
        assert accepts_tcp("127.0.0.1", port)()
    assert not accepts_tcp("127.0.0.1", port)()


def test_child_that_exits_early_fails_with_the_tail_of_its_log(tmp_path: Path) -> None:
    child = ManagedProcess(
        [sys.executable, "-c", "raise SystemExit('no such cluster')"], log_path=tmp_path / "log", ready=lambda: False
    )
    with pytest.raises(ProcessFailed, match=r"(?s)exited with status 1.*no such cluster"):
        child.start()


def test_child_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    child = sleeper(tmp_path)
    child.ready, child.ready_timeout_s = (lambda: False), 0.1
    with pytest.raises(ProcessFailed, match=r"not ready after 0\.1 s"):
        child.start()
    assert child.returncode == -signal.SIGKILL


def test_log_tail_of_a_second_run_leaves_out_the_first(tmp_path: Path) -> None:
    says = "import sys, time; print(sys.argv[1], flush=True); time.sleep(60)"
    child = ManagedProcess([sys.executable, "-c", says, "one"], log_path=tmp_path / "log")
    for word in ("one", "two"):
        child.argv[-1] = word
        child.start()
        assert wait_until(lambda word=word: child.log_tail() == word)
        child.stop()


def test_stop_asks_with_sigterm(tmp_path: Path) -> None:
    assert sleeper(tmp_path).start().stop() == -signal.SIGTERM


def test_stop_kills_a_child_that_ignores_sigterm(tmp_path: Path) -> None:
    deaf = tmp_path / "deaf"
    child = ManagedProcess(
        [sys.executable, "-c", IGNORES_SIGTERM, str(deaf)], log_path=tmp_path / "log", ready=deaf.exists
    )
    assert child.start().stop(timeout_s=0.1) == -signal.SIGKILL


def test_stop_and_kill_of_a_child_that_never_ran_do_nothing(tmp_path: Path) -> None:
    child = sleeper(tmp_path)
    assert (child.stop(), child.kill()) == (None, None)


def test_child_can_be_started_again_after_a_kill(tmp_path: Path) -> None:
    child = sleeper(tmp_path).start()
    first = child.pid
    assert child.kill() == -signal.SIGKILL
    with child.start():
        assert child.is_running()
        assert child.pid != first


def test_child_that_runs_is_not_started_twice(tmp_path: Path) -> None:
    with sleeper(tmp_path) as child, pytest.raises(RuntimeError, match="running already"):
        child.start()


def test_child_has_a_process_group_of_its_own(tmp_path: Path) -> None:
    with sleeper(tmp_path) as child:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)


def test_child_survives_the_thread_that_started_it(tmp_path: Path) -> None:
    child = sleeper(tmp_path)
    thread = threading.Thread(target=child.start)
    thread.start()
    thread.join()
    try:
        time.sleep(0.2)
        assert child.is_running()
    finally:
        child.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the death signal is Linux's own")
def test_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time, pathlib\n"
        "from spendstream.embedded.process import ManagedProcess\n"
        "child = ManagedProcess([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " log_path=pathlib.Path(sys.argv[1])).start()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child_pid = int(parent.stdout.readline())
        assert is_alive(child_pid)
        parent.kill()
    try:
        assert wait_until(lambda: not is_alive(child_pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child_pid, signal.SIGKILL)


def test_ports_are_the_same_again_unless_one_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "ports"
    first = {name: RememberedPorts(path).port(name) for name in ("kafka", "clickhouse", "worker")}
    assert len(set(first.values())) == 3
    with socket.socket() as other:
        other.bind(("127.0.0.1", first["kafka"]))
        other.listen()
        again = {name: RememberedPorts(path).port(name) for name in first}
    assert again["kafka"] not in first.values()
    assert again == {**first, "kafka": again["kafka"]} == {name: RememberedPorts(path).port(name) for name in first}


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"kafka": "x"}', '{"kafka": 0}', '{"kafka": 99999}'])
def test_a_file_of_ports_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports").write_text(text)
    assert 20_000 <= RememberedPorts(tmp_path / "ports").port("kafka") <= 32_000
