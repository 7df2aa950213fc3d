"""What the doctor finds, and that it breaks nothing."""

from __future__ import annotations

import sqlite3
from importlib import metadata
from pathlib import Path

import pytest

from postroad import Postroad, Topic
from postroad.operations import doctor, extras
from postroad.operations.doctor import Check, examine


def _of(checks: list[Check], subject: str) -> Check:
    (found,) = [check for check in checks if check.subject == subject]
    return found


async def test_this_machine_is_fit() -> None:
    checks = await examine()
    assert {check.status for check in checks} <= {"ok", "absent", "warning"}
    assert _of(checks, "sqlite").found == sqlite3.sqlite_version


async def test_a_missing_extra_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    there = metadata.version

    def version(name: str) -> str:
        if name == "cronsim":
            raise metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(metadata, "version", version)
    check = _of(await examine(), "extra cron")
    assert check.status == "absent"
    assert "pip install 'postroad[cron]'" in check.remedy


def test_extras_of_our_own_workshop_are_not_asked_for() -> None:
    names = [extra.name for extra in extras.installed()]
    assert "dev" not in names
    assert "cron" in names


async def test_an_old_sqlite_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 22, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.22.0")
    check = _of(await examine(), "sqlite")
    assert check.status == "fault"
    assert "3.33.0" in check.remedy


async def test_a_full_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ROOM", 1 << 80)
    check = _of(await examine(), "disk here")
    assert check.status == "warning"
    assert "make room" in check.remedy


async def test_a_disk_of_the_network_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_file_system", lambda folder: "nfs4")
    assert "local disk" in _of(await examine(), "disk here").remedy


async def test_a_sound_road_is_opened_and_audited(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    topic = Topic("a.b", dict)
    async with Postroad(url) as road:
        await road.publish(topic, {})
    checks = await examine(url)
    assert _of(checks, "opens").found == "1 topics, 0 groups on them"
    assert _of(checks, "audit").found == "balanced"
    assert _of(checks, "durability").status == "ok"


async def test_a_road_that_is_no_database_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(b"this is text, and long enough to be no database " * 100)
    before = path.read_bytes()
    checks = await examine(f"sqlite:///{path}")
    assert _of(checks, "opens").status == "fault"
    assert path.read_bytes() == before


@pytest.mark.parametrize("reference", ["nope://x", "sqlite://x", "no_such_module_here:road"])
async def test_what_is_no_road_is_a_fault(reference: str) -> None:
    check = _of(await examine(reference), "road")
    assert check.status == "fault"
    assert check.remedy
