"""The folder where downloaded servers stay between runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.services.harness.accounts import server_account
from tests.services.harness.program import Unavailable


def cache_directory() -> Path:
    """Return the cache folder: POSTROAD_TEST_CACHE, or one in the user's cache.

    Root's is in /var/cache, because a server that drops its privileges cannot enter /root.
    """
    if chosen := os.environ.get("POSTROAD_TEST_CACHE"):
        return Path(chosen).absolute()
    if os.geteuid() == 0:
        return Path("/var/cache/postroad-tests")
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user_cache).expanduser() / "postroad-tests"


def cached(name: str, fill: Callable[[Path], None], *, renew: bool = False) -> Path:
    """Return the cached folder `name`; on first use `fill` it.

    Processes take turns, and a fill that is killed leaves nothing: the folder is filled
    beside its place and renamed into it. `renew` fills it again.
    """
    place = cache_directory() / name
    _make_folder(place.parent)
    with _locked(place.with_name(place.name + ".lock")):
        if renew:
            shutil.rmtree(place, ignore_errors=True)
        if not place.is_dir():
            _fill_aside(place, fill)
    if not server_account().can_reach(place):
        raise Unavailable(
            f"{place} is closed to the account that servers run as; set POSTROAD_TEST_CACHE"
        )
    return place


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(
            f"the cache cannot be written ({error}); set POSTROAD_TEST_CACHE"
        ) from error


def _fill_aside(place: Path, fill: Callable[[Path], None]) -> None:
    aside = Path(tempfile.mkdtemp(prefix=place.name + ".", dir=place.parent))
    try:
        fill(aside)
        _open_to_readers(aside)
        aside.rename(place)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _open_to_readers(folder: Path) -> None:
    """Let every account read the tree, whatever the umask was: servers run under another one."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        executable = 0o111 if path.is_dir() or mode & 0o100 else 0
        path.chmod(mode | 0o444 | executable)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
