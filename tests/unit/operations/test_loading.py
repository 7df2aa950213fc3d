"""From a word on the command line to a road, and what is said when there is none."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from postroad.errors import (
    DeclarationError,
    InvalidURLError,
    NotFoundError,
    PostroadError,
    UnknownTransportError,
)
from postroad.operations.loading import is_url, load_app, load_road, no_such_topic

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes modules into the current directory, which is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(name: str, text: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(text)

    return write


def test_an_app_is_found_in_the_current_directory(write: Write) -> None:
    write("loadable", "from postroad import Postroad\nroad = Postroad('memory://')\n")
    assert load_app("loadable:road").url == "memory://"


def test_an_app_may_be_an_attribute_of_an_attribute(write: Write) -> None:
    write(
        "nested",
        "from postroad import Postroad\nclass Shop:\n    road = Postroad('memory://')\n",
    )
    assert load_app("nested:Shop.road").url == "memory://"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("mistyqed:road", r"no module 'mistyqed'.*there is mistyped\.py"),
        ("mistyped:rod", r"did you mean mistyped:road\?"),
        ("mistyped:zzz", r"it has mistyped:road"),
        ("mistyped:number", r"is a int, not a Postroad; it has mistyped:road"),
        ("mistyped.inner:road", r"no module 'mistyped"),
        ("mistyped", r"is no app; an app is written module:attribute"),
        ("mistyped:", r"is no app"),
        ("sqlite:///shop.db", r"is a URL, and this command needs an app"),
    ],
)
def test_a_wrong_reference_names_the_nearest(write: Write, reference: str, said: str) -> None:
    write("mistyped", "from postroad import Postroad\nroad = Postroad('memory://')\nnumber = 1\n")
    with pytest.raises(DeclarationError, match=f"(?s){said}"):
        load_app(reference)


def test_what_an_apps_module_raises_passes_through(write: Write) -> None:
    write("needy", "import no_such_module_of_the_app\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_of_the_app"):
        load_app("needy:road")
    write("broken", "1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        load_app("broken:road")


@pytest.mark.parametrize("word", ["sqlite:///a.db", "memory://", "sqlite:/a.db", "redis+x://h"])
def test_what_looks_like_a_url_is_one(word: str) -> None:
    assert is_url(word)


@pytest.mark.parametrize("word", ["shop:road", "a.b:c.d", "shop", "C:road"])
def test_an_app_is_none(word: str) -> None:
    assert not is_url(word)


@pytest.mark.parametrize(
    ("url", "error", "said"),
    [
        ("sqlite:///none.db", NotFoundError, "no road at none.db yet"),
        ("sqlite://none.db", InvalidURLError, "no host"),
        ("sqlite:/none.db", InvalidURLError, "look like"),
        ("sqlite:///a.db?durabilty=full", InvalidURLError, "no parameter durabilty"),
        ("nope://x", UnknownTransportError, "nope://"),
        ("memory://", DeclarationError, "lives inside one process"),
    ],
)
def test_a_wrong_url_is_refused_and_nothing_is_created(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    error: type[PostroadError],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        load_road(url)
    assert not list(tmp_path.iterdir())


def test_a_url_that_is_repeated_in_an_error_has_no_password() -> None:
    with pytest.raises(DeclarationError) as caught:
        load_app("amqp://user:secret@host/")
    assert "user" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unknown_topic_names_the_nearest_or_those_there_are() -> None:
    assert "did you mean 'orders.created'?" in str(
        no_such_topic("orders.craeted", {"orders.created"})
    )
    assert "there is a, b" in str(no_such_topic("zzz", {"b", "a"}))
    assert "none yet" in str(no_such_topic("zzz", ()))
