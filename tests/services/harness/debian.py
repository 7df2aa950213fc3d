"""Finds programs in Debian packages that are downloaded and unpacked, not installed.

Needs no root, changes nothing outside the cache, and runs no maintainer script, so no
installer starts a service.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.services.harness.cache import cache_directory, cached
from tests.services.harness.commands import output_of, require_tool
from tests.services.harness.program import Program, Unavailable


@dataclass(frozen=True)
class Debian:
    """Executables at `paths` (globs below the root of the packages) of Debian packages.

    With the packages come those of their dependencies that this machine lacks, found by a
    simulated installation; recommended packages are left out.
    """

    packages: tuple[str, ...]
    paths: tuple[str, ...]

    def find(self) -> Program:
        for tool in ("apt-get", "apt-cache", "dpkg", "dpkg-deb"):
            require_tool(tool)
        root = cached(self._name(), self._fill)
        if _missing_libraries(self._executables(root), root):
            # A library that the machine had when the packages were unpacked has gone since.
            root = cached(self._name(), self._fill, renew=True)
        executables = self._executables(root)
        if missing := _missing_libraries(executables, root):
            raise Unavailable(f"{self.packages[0]} lacks the libraries {', '.join(missing)}")
        return Program(
            executables,
            origin=f"Debian package {self.packages[0]}, unpacked in {root}",
            environment={"LD_LIBRARY_PATH": _library_path(root)},
        )

    def _name(self) -> str:
        return f"debian/{_release()}-{_architecture()}/{'+'.join(self.packages)}"

    def _executables(self, root: Path) -> dict[str, Path]:
        found = {}
        for pattern in self.paths:
            matches = sorted(root.glob(pattern))
            if not matches:
                raise Unavailable(f"{self.packages[0]} has no {pattern}")
            found[matches[-1].name] = matches[-1]
        return found

    def _fill(self, root: Path) -> None:
        archives = root / "archives"
        archives.mkdir()
        _download(self.packages, archives)
        for archive in sorted(archives.glob("*.deb")):
            output_of(["dpkg-deb", "--extract", str(archive), str(root)])
            archive.unlink()
        archives.rmdir()


def _download(packages: Sequence[str], into: Path) -> None:
    """Download packages; where the machine's package lists are absent or stale, use fresh ones."""
    try:
        _download_with([], packages, into)
    except Unavailable:
        options = _private_lists()
        output_of(["apt-get", *options, "update"])
        _download_with(options, packages, into)


def _download_with(options: Sequence[str], packages: Sequence[str], into: Path) -> None:
    apt = ["apt-get", *_UNSANDBOXED, *options]
    plan = output_of([*apt, "--simulate", "--no-install-recommends", "install", *packages])
    versions = dict(re.findall(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+)", plan, re.MULTILINE))
    versions.pop("libc6", None)  # Another C library than the machine's loader's would not load.
    wanted = [f"{name}={version}" for name, version in versions.items()]
    wanted += [package for package in packages if package not in versions]
    output_of([*apt, "download", *wanted], cwd=into)


# Root's downloads would otherwise run as `_apt`, which may not write to the cache.
_UNSANDBOXED = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []


def _private_lists() -> list[str]:
    """Return options that keep package lists in our cache, which needs no root."""
    state = cache_directory() / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    return [
        "-o",
        f"Dir::State::lists={state}/lists",
        "-o",
        f"Dir::Cache={state}",
        *_UNSANDBOXED,
    ]


def _missing_libraries(executables: dict[str, Path], root: Path) -> list[str]:
    missing = set()
    for path in executables.values():
        try:
            report = output_of(
                ["ldd", str(path)], environment={"LD_LIBRARY_PATH": _library_path(root)}
            )
        except Unavailable:
            continue  # A script or a static binary has no libraries to miss.
        missing |= set(re.findall(r"(\S+) => not found", report))
    return sorted(missing)


def _library_path(root: Path) -> str:
    bases = [root / "usr/lib", root / "lib"]
    by_architecture = [folder for base in bases for folder in sorted(base.glob("*-linux-*"))]
    return ":".join(str(folder) for folder in [*by_architecture, *bases] if folder.is_dir())


def _architecture() -> str:
    return output_of(["dpkg", "--print-architecture"]).strip()


def _release() -> str:
    """Return the distribution's code name: packages of one release do not run on another."""
    text = Path("/etc/os-release").read_text(encoding="utf-8")
    found = re.search(r"^VERSION_CODENAME=(\S+)", text, re.MULTILINE)
    return found.group(1) if found else "unknown"
