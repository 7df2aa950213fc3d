"""The demo: two weeks of New York departures, replayed through one topic into several groups.

Read `app.py` first: it is what a user of Postroad writes. `run.py` is the evening's programme.

    flights.py       the input: real departures, in event time
    topics.py        the events
    rules.py         who is compensated and who is told, as pure functions
    app.py           the subscriptions: five groups, each safe against repeats in its own way
    insurer.py       somebody else's service, which fails at first
    books.py         the tables that the handlers write, and how they are read back

    worker.py        a process that consumes
    crew.py          the worker processes: started, killed, stopped
    recorder.py      what a worker counts, readable even after its SIGKILL
    replay.py        publishes departures at the pace of their scheduled times
    observer.py      asks the road how far everyone is
    fault.py         kills a worker in the middle and times the recovery
    expected.py      the right results, computed from the data alone
    verdict.py       the audit and the results, held against what was expected

    display.py       the live screen, or plain lines
    report.py        the closing report, or JSON
    performance.py   one run of the demo
    run.py           the options, the place, and the end
"""
