"""From a word on the command line to a road: `module:attribute`, or a URL."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

from postroad.app import Postroad, mask
from postroad.core.pattern import is_pattern
from postroad.core.reports import TopicInfo
from postroad.errors import DeclarationError, NotFoundError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_REFERENCE = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<attribute>\w+(?:\.\w+)*)")
_FORMS = "an app is written module:attribute (shop:road), a URL scheme://… (sqlite:///shop.db)"


def is_url(reference: str) -> bool:
    """Whether it is meant as a URL, well-formed or not."""
    return _URL.match(reference) is not None


def load_road(reference: str) -> Postroad:
    """The road that a reference or URL names, for a look from outside.

    A URL gives a road without declarations; a file that is not there is not created.

    Raises:
        DeclarationError: nothing that can be used is there; also for a road that lives inside
            one process, where nobody outside can see anything.
        NotFoundError: the URL's file does not exist.
    """
    if is_url(reference):
        road = Postroad(reference)
        _check_file(reference)
    else:
        road = load_app(reference)
    if not road.capabilities.shared:
        raise DeclarationError(
            f"{road.url} lives inside one process, and this command is another one: it would see "
            "an empty road. sqlite:///file.db is a road that processes share"
        )
    return road


def load_app(reference: str) -> Postroad:
    """The app at `module:attribute`, the current directory being searched first.

    What the module itself raises while it is imported passes through; what it prints goes to
    standard error.

    Raises:
        DeclarationError: it is no such reference, or nothing or something else is there.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        said = "is a URL, and this command needs an app" if is_url(reference) else "is no app"
        raise DeclarationError(f"{mask(reference)!r} {said}; {_FORMS}")
    module = _import(found["module"])
    value: object = module
    for name in found["attribute"].split("."):
        if not hasattr(value, name):
            raise DeclarationError(_no_attribute(module, found["attribute"]))
        value = getattr(value, name)
    if not isinstance(value, Postroad):
        raise DeclarationError(
            f"{reference} is a {type(value).__name__}, not a Postroad{_apps_of(module)}"
        )
    return value


async def fitting_topics(road: Postroad, pattern: str) -> Sequence[TopicInfo]:
    """The topics that fit a pattern, perhaps none; or the one of this name.

    Raises:
        NotFoundError: a name, and there is no such topic.
    """
    infos = await road.topic_infos(pattern)
    if not infos and not is_pattern(pattern):
        raise no_such_topic(pattern, [info.name for info in await road.topic_infos("#")])
    return infos


def no_such_topic(name: str, known: Iterable[str]) -> NotFoundError:
    """The error for a topic that is not there, with the nearest name that is."""
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return NotFoundError(f"no topic {name!r}; did you mean {near[0]!r}?")
    listed = ", ".join(names[:10]) + (", …" if len(names) > 10 else "")
    return NotFoundError(f"no topic {name!r}; there is {listed or 'none yet'}")


def _import(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr):  # ours may be read by a program
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise  # the module is there, and something that it imports is not
        raise DeclarationError(
            f"no module {error.name!r} in {Path.cwd().name}/ or among the installed packages"
            f"{_near_module(error.name)}; {_FORMS}"
        ) from None


def _near_module(name: str) -> str:
    near = get_close_matches(name, [path.stem for path in Path.cwd().glob("*.py")], n=1)
    return f" (there is {near[0]}.py)" if near else ""


def _no_attribute(module: ModuleType, attribute: str) -> str:
    near = get_close_matches(attribute, [name for name in vars(module) if name[0] != "_"], n=1)
    hint = f"; did you mean {module.__name__}:{near[0]}?" if near else ""
    return f"module {module.__name__!r} has no {attribute!r}{hint or _apps_of(module)}"


def _apps_of(module: ModuleType) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, Postroad)]
    if not apps:
        return f"; {module.__name__} has no Postroad at its top level"
    return "; it has " + ", ".join(f"{module.__name__}:{name}" for name in apps)


def _check_file(url: str) -> None:
    parts = urlsplit(url)
    path = Path(unquote(parts.path).removeprefix("/"))
    if parts.scheme == "sqlite" and not path.exists():
        raise NotFoundError(
            f"there is no road at {path} yet: the first app that opens it creates it "
            "(a relative path is of the current directory)"
        )
