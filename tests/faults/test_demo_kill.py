"""`postroad demo --kill`, whole: once in the ordinary tests, ten times in `make faults`."""

import json
import os

import pytest

from postroad.demo.run import DemoOptions, main

KILLS = int(os.environ.get("POSTROAD_TEST_KILLS", "1"))


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", range(1, KILLS + 1))
def test_the_audit_holds(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(DemoOptions(kill=True, json=True))
    said = json.loads(capsys.readouterr().out)
    broken = [check for check in said["checks"] if not check["holds"]]
    assert (code, said["verdict"], broken) == (0, "holds", [])
    assert sum(kill["in_flight"] for kill in said["kills"]) > 0
    with capsys.disabled():
        print(f"\n  kill {number}: {_summary(said)}")


def _summary(said: dict) -> str:
    last = said["kills"][-1]
    return (
        f"{last['in_flight']} in flight, recovered after {last['recovered_after']} s, "
        f"{said['duplicates']} duplicates, {said['settled_per_second']} messages/s"
    )
