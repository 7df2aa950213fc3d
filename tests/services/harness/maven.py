"""Finds Java programs as Maven artifacts."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from tests.services.harness.accounts import server_account
from tests.services.harness.cache import cached
from tests.services.harness.commands import output_of, require_tool
from tests.services.harness.program import Program, Unavailable

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"

_POM = """\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>postroad.tests</groupId>
  <artifactId>server</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
{dependencies}
  </dependencies>
</project>
"""

_DEPENDENCY = """\
    <dependency>
      <groupId>{0}</groupId>
      <artifactId>{1}</artifactId>
      <version>{2}</version>
    </dependency>"""


@dataclass(frozen=True)
class Maven:
    """`java`, and as the class path the artifacts (group:artifact:version) with what they need."""

    name: str
    artifacts: tuple[str, ...]
    java: int = 17

    def find(self) -> Program:
        java = find_java(self.java)
        root = cached(self._cache_name(), self._fill)
        return Program(
            {"java": java},
            origin=f"Maven artifact {self.artifacts[0]}, in {root}",
            environment={"JAVA_HOME": str(java.resolve().parent.parent)},
            classpath=f"{root}/*",
        )

    def _cache_name(self) -> str:
        digest = hashlib.sha256("\n".join(self.artifacts).encode()).hexdigest()[:12]
        return f"maven/{self.name}-{digest}"

    def _fill(self, root: Path) -> None:
        pom = root / "pom.xml"
        pom.write_text(_pom(self.artifacts), encoding="utf-8")
        maven = [require_tool("mvn"), "--batch-mode", "--quiet", "-Dstyle.color=never"]
        output_of(
            [*maven, f"--file={pom}", _COPY, f"-DoutputDirectory={root}", "-DincludeScope=runtime"]
        )


def find_java(least: int) -> Path:
    """Return a `java` of version `least` or newer: JAVA_HOME's, PATH's, or an installed one."""
    account = server_account()
    for java in _javas():
        if os.access(java, os.X_OK) and account.can_reach(java) and _version(java) >= least:
            return java
    raise Unavailable(f"Java {least} or newer is not installed")


def _version(java: Path) -> int:
    try:
        report = output_of([str(java), "--version"])
    except Unavailable:
        return 0  # Java 8 and older do not know this option.
    found = re.search(r"\d+", report)
    return int(found.group()) if found else 0


def _javas() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin/java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    yield from sorted(Path("/usr/lib/jvm").glob("*/bin/java"), reverse=True)


def _pom(artifacts: Sequence[str]) -> str:
    parts = [[escape(part) for part in artifact.split(":")] for artifact in artifacts]
    return _POM.format(dependencies="\n".join(_DEPENDENCY.format(*part) for part in parts))
