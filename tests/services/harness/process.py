"""One server process: its group, its log, and its certain end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.services.harness.accounts import Account
from tests.services.harness.waiting import wait_until

# Ends the group named by its argument when its input closes: when the tests are killed.
_GUARD = 'read -r _; kill -s KILL -- "-$1" 2>/dev/null'


class ServerProcess:
    """A process that leads its own group, started at once and ended by its own pid.

    When the tests die, even by SIGKILL, a guard process ends the group.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        account: Account,
        directory: Path,
        environment: Mapping[str, str],
        log: Path,
    ) -> None:
        arguments: dict[str, Any] = account.popen_arguments()
        with log.open("ab") as output:
            self._leader = subprocess.Popen(
                command,
                cwd=directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
                **arguments,
            )
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._leader.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """The process id of the leader, which is also the id of its group."""
        return self._leader.pid

    def ended(self) -> bool:
        """Tell whether the leader has ended. It is not reaped, so its ids stay its own."""
        if self._leader.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, options) is not None

    def signal_group(self, number: signal.Signals) -> None:
        """Signal every process of the group."""
        if self._leader.returncode is None:
            os.killpg(self.pid, number)

    def stop(self, number: signal.Signals, *, seconds: float) -> bool:
        """Ask the leader to end, then end the group; return whether it obeyed in time.

        Idempotent. After it no process of the group is left.
        """
        if self._leader.returncode is not None:
            return True
        if not self.ended():
            self._leader.send_signal(signal.SIGCONT)
            self._leader.send_signal(number)
        obeyed = wait_until(self.ended, seconds=seconds)
        self.kill()
        return obeyed

    def kill(self) -> None:
        """End the group with SIGKILL and wait for its end. Idempotent."""
        if self._leader.returncode is not None:
            return
        os.killpg(self.pid, signal.SIGKILL)
        self._leader.wait()
        self._dismiss_guard()

    def _dismiss_guard(self) -> None:
        self._guard.kill()
        self._guard.wait()
        assert self._guard.stdin is not None
        self._guard.stdin.close()
