"""The account that servers run under: an unprivileged one where the tests run as root."""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from tests.services.harness.program import Unavailable


@dataclass(frozen=True)
class Account:
    """The user and group that a server runs as."""

    uid: int
    gid: int

    def own(self, directory: Path) -> None:
        """Make the account the owner of a directory, not of what is in it."""
        if os.geteuid() == 0:
            os.chown(directory, self.uid, self.gid)

    def popen_arguments(self) -> dict[str, object]:
        """Return the arguments with which subprocess drops to the account; none if it is ours."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can_reach(self, path: Path) -> bool:
        """Tell whether the account may read and enter a path, through all folders above it.

        Exact for a path that neither owner bits nor access lists open to the account alone.
        """
        if os.geteuid() != 0:
            return os.access(path, os.R_OK)
        resolved = path.resolve()
        return all(folder.stat().st_mode & stat.S_IXOTH for folder in resolved.parents) and bool(
            resolved.stat().st_mode & stat.S_IROTH
        )


def server_account() -> Account:
    """Return the account for servers.

    Under uid 0 that is `nobody`, because PostgreSQL refuses to run as root and no test
    server needs to be root. It must have an entry in the user database: initdb looks it up.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid())
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise Unavailable("running as root, and there is no user `nobody` to drop to") from None
    return Account(entry.pw_uid, entry.pw_gid)
