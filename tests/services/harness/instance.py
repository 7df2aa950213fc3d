"""A server of our own: started in a temporary directory, stopped, killed, restarted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.services.harness.accounts import server_account
from tests.services.harness.ports import free_port, is_free
from tests.services.harness.process import ServerProcess
from tests.services.harness.program import Program
from tests.services.harness.service import Service
from tests.services.harness.waiting import wait_until

_LOG_TAIL_LINES = 40
_START_TRIES = 3


class ServiceFailed(Exception):
    """A server that was found did not start, stop or prepare itself; carries its last log lines."""


class Instance:
    """One running server of a service, under an unprivileged account, on loopback ports.

    All methods block; in asynchronous tests call them through asyncio.to_thread.
    """

    def __init__(self, service: Service, program: Program) -> None:
        self.service = service
        self.program = program
        self.account = server_account()
        self.ports = self._new_ports()
        self.directory = Path(tempfile.mkdtemp(prefix=f"postroad-{service.name}-"))
        self.account.own(self.directory)
        self.log = self.directory / "server.log"
        self._process: ServerProcess | None = None
        self._prepared = False

    def _new_ports(self) -> dict[str, int]:
        return {name: free_port() for name in self.service.ports}

    @property
    def port(self) -> int:
        """The port that `url` names."""
        return self.ports[self.service.ports[0]]

    @property
    def url(self) -> str:
        """The URL for clients. It stays the same over stop, kill and restart."""
        return self.service.url(self)

    @property
    def pid(self) -> int | None:
        """The pid of the running server, or None."""
        return self._process.pid if self._process else None

    def launch(self) -> None:
        """Start for the first time; on other ports where another process took ours meanwhile."""
        for _ in range(_START_TRIES - 1):
            try:
                self.start()
            except ServiceFailed as error:
                if "in use" not in str(error).lower():
                    raise
                self.ports = self._new_ports()
            else:
                return
        self.start()

    def start(self) -> None:
        """Start the server over its files and return when it answers; ServiceFailed if it won't."""
        if self._process is not None:
            return
        self._check_ports()
        if not self._prepared:
            self.service.prepare(self)
            self._prepared = True
        process = ServerProcess(
            self.service.command(self),
            account=self.account,
            directory=self.directory,
            environment=self._environment(),
            log=self.log,
        )
        self._process = process
        wait_until(
            lambda: process.ended() or self.service.ready(self),
            seconds=self.service.start_seconds,
        )
        if process.ended() or not self.service.ready(self):
            self.kill()
            raise self._failure(f"did not answer within {self.service.start_seconds:.0f} s")

    def _check_ports(self) -> None:
        """Refuse ports that are taken: the answers of whoever holds them would pass for ours."""
        taken = [str(port) for port in self.ports.values() if not is_free(port)]
        if taken:
            raise self._failure(f"cannot start: in use already: port {', '.join(taken)}")

    def stop(self) -> None:
        """Stop the server as its operator would. Idempotent; its files stay."""
        if self._process is None:
            return
        process, self._process = self._process, None
        if not process.stop(self.service.stop_signal, seconds=self.service.stop_seconds):
            raise self._failure(f"did not stop within {self.service.stop_seconds:.0f} s")

    def kill(self) -> None:
        """Kill the server and its children with SIGKILL. Idempotent; its files stay."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def restart(self) -> None:
        """Stop, then start over the same files and on the same ports."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server with SIGSTOP: connections stay open and nothing answers."""
        if self._process is not None:
            self._process.signal_group(signal.SIGSTOP)

    def resume(self) -> None:
        """Thaw a paused server."""
        if self._process is not None:
            self._process.signal_group(signal.SIGCONT)

    def remove(self) -> None:
        """Kill what still runs and delete the directory. Idempotent."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def run(self, command: Sequence[str], *, seconds: float = 60.0) -> str:
        """Run a helper such as initdb under the server's account and return its output."""
        arguments: dict[str, Any] = self.account.popen_arguments()
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            cwd=self.directory,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
            **arguments,
        )
        if done.returncode != 0:
            with self.log.open("a", encoding="utf-8") as log:
                log.write(done.stdout)
            raise self._failure(f"could not run {Path(command[0]).name}")
        return done.stdout

    def log_tail(self) -> str:
        """Return the last lines of the server's log."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _failure(self, what: str) -> ServiceFailed:
        return ServiceFailed(f"{self.service.name} {what}; its log ends with:\n{self.log_tail()}")

    def _environment(self) -> dict[str, str]:
        """Return a clean environment: a developer's settings must not reach the server."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
            **self.program.environment,
            **self.service.environment(self),
        }
