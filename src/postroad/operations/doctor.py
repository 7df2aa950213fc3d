"""Checks of this machine and of a road, each with what was found and what to do about it."""

from __future__ import annotations

import platform
import shutil
import sqlite3
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from postroad.app import Postroad
from postroad.errors import PostroadError
from postroad.operations import extras
from postroad.operations.loading import is_url, load_app, load_road

OLDEST_PYTHON = (3, 11)
OLDEST_SQLITE = (3, 33, 0)
"""The first that knows its schema as `sqlite_schema` (https://sqlite.org/releaselog/3_33_0.html)."""
ROOM = 1 << 30
"""Bytes on a disk below which a durable road is worth a warning."""
_NETWORK_DISKS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "glusterfs")

Status = Literal["ok", "absent", "warning", "fault"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: `ok`; `absent`, an extra that nobody may need; `warning`; `fault`.
        remedy: what to do; empty where there is nothing to do.
    """

    subject: str
    status: Status
    found: str
    remedy: str = ""


async def examine(reference: str | None = None) -> list[Check]:
    """Check the environment, and a road where one is named. Nothing is created on it."""
    checks = [_python(), _postroad(), _sqlite(), _write_ahead_log()]
    checks.append(_disk("disk here", Path.cwd()))
    checks += _extras()
    if reference is not None:
        checks += await _road(reference)
    return checks


def _python() -> Check:
    found = f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})"
    if sys.version_info >= OLDEST_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fault", found, "install Python 3.11 or newer")


def _postroad() -> Check:
    names = ("msgspec", "typer", "rich")
    with_versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    return Check("postroad", "ok", f"{metadata.version('postroad')} with {with_versions}")


def _sqlite() -> Check:
    found = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info >= OLDEST_SQLITE:
        return Check("sqlite", "ok", found)
    oldest = ".".join(map(str, OLDEST_SQLITE))
    return Check("sqlite", "fault", found, f"sqlite:// needs {oldest}: use a Python built with it")


def _write_ahead_log() -> Check:
    with tempfile.TemporaryDirectory() as folder:
        connection = sqlite3.connect(Path(folder) / "probe.db")
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        finally:
            connection.close()
    if mode == "wal":
        return Check("sqlite wal", "ok", "works in the temporary directory")
    remedy = "put the database on a local disk that can share memory between processes"
    return Check("sqlite wal", "fault", f"journal mode is {mode}", remedy)


def _disk(subject: str, folder: Path) -> Check:
    usage = shutil.disk_usage(folder)
    free = f"{usage.free / (1 << 30):.1f} GiB free of {usage.total / (1 << 30):.1f}"
    kind = _file_system(folder)
    if kind in _NETWORK_DISKS:
        remedy = "SQLite's locks and shared memory do not work over a network: use a local disk"
        return Check(subject, "warning", f"{free}, on {kind}", remedy)
    if usage.free < ROOM:
        return Check(subject, "warning", free, "make room before the road has to refuse messages")
    return Check(subject, "ok", free)


def _file_system(folder: Path) -> str:
    """The type of the file system, where the kernel tells (Linux); else nothing."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    here, best, kind = folder.resolve(), -1, ""
    for line in mounts.read_text().splitlines():
        _, point, found, *_ = line.split()
        point = point.replace("\\040", " ")
        if here.is_relative_to(point) and len(point) > best:
            best, kind = len(point), found
    return kind


def _extras() -> list[Check]:
    checks = []
    for extra in extras.installed():
        found = ", ".join(f"{name} {version or 'missing'}" for name, version in extra.needs.items())
        if extra.complete:
            checks.append(Check(f"extra {extra.name}", "ok", found))
        else:
            remedy = f"if you need it: pip install 'postroad[{extra.name}]'"
            checks.append(Check(f"extra {extra.name}", "absent", found, remedy))
    return checks


async def _road(reference: str) -> list[Check]:
    try:
        road = load_road(reference) if is_url(reference) else load_app(reference)
    except PostroadError as error:
        return [Check("road", "fault", type(error).__name__, str(error))]
    checks = [Check("road", "ok", road.url), *_file(reference), *_durability(road)]
    try:
        async with road:
            checks.append(await _contents(road))
            checks += await _verdict(road)
    except PostroadError as error:
        checks.append(Check("opens", "fault", type(error).__name__, str(error)))
    return checks


def _file(reference: str) -> list[Check]:
    """Of a URL that names a file: the disk that it is on."""
    parts = urlsplit(reference)
    if parts.scheme != "sqlite":
        return []
    path = Path(unquote(parts.path).removeprefix("/")).absolute()
    return [_disk("disk of the road", path.parent)]


def _durability(road: Postroad) -> list[Check]:
    capabilities = road.capabilities
    if not capabilities.durable:
        remedy = "fine inside one process; sqlite:///file.db keeps messages"
        return [Check("durability", "warning", capabilities.risk or "keeps nothing", remedy)]
    return [Check("durability", "ok", capabilities.risk or "what is accepted is kept")]


async def _contents(road: Postroad) -> Check:
    infos = await road.topic_infos("#")
    groups = sum(len(info.groups) for info in infos)
    return Check("opens", "ok", f"{len(infos)} topics, {groups} groups on them")


async def _verdict(road: Postroad) -> list[Check]:
    found = await road.audit()
    if found.verdict == "unbalanced":
        remedy = "`postroad audit` shows which group; please report it"
        return [Check("audit", "fault", found.verdict, remedy)]
    return [Check("audit", "ok", found.verdict)]
