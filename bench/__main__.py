"""
``python -m bench``: measures choreo beside stock Celery, and prints tables.

    python -m bench                  everything, three times round, in at most 12 minutes
    python -m bench --quick          the solo pool, once, in at most 2
    python -m bench --peers          beside other libraries; builds an environment for each in .bench-envs/
    python -m bench --on-rabbitmq    beside other libraries and Celery with confirms, all on RabbitMQ
    python -m bench --costs          choreo with and without its optional work (the record, the log), side by side
    python -m bench --resume         continue the last run; skips the steps that it has finished
    python -m bench --report         write the last run's tables and plot into bench/README.md
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bench import environments, kill, memory, report, session
from bench.brokers import Broker, Redis, rabbitmq_broker, redis_broker
from bench.results import Journal, Result, machine
from bench.session import Row, Size
from bench.side import CHORDS, CONFIRMED, COSTS, OWN, PEERS, Side, find
from bench.table import tables

#: The most seconds that a step of each kind takes. A step begins only if enough of --minutes is left.
STEP_SECONDS = {"session": 32.0, "killed worker": 40.0, "memory": 60.0}


@dataclass(frozen=True)
class Step:
    """One measurement of one side."""

    #: "session", "killed worker" or "memory".
    kind: str
    side: Side
    #: The number of this repetition, from 0.
    repetition: int

    @property
    def name(self) -> str:
        """The step in words, for the progress output."""
        return f"{self.side.name}, {self.kind}, {self.repetition}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = _options(arguments)
    if options.report:
        own = Journal.latest("all") or Journal.latest("quick")
        print("written:", *report.write(own, Journal.latest("peers"), Journal.latest("rabbitmq")))
        return
    kind = (
        "some"
        if options.only
        else "costs"
        if options.costs
        else "peers"
        if options.peers
        else "rabbitmq"
        if options.on_rabbitmq
        else "quick"
        if options.quick
        else "all"
    )
    journal = Journal.latest(kind) if options.resume else None
    with ExitStack() as stack:
        store = stack.enter_context(redis_broker(options.redis))
        rabbit = None
        if options.rabbitmq != "none":
            rabbit = stack.enter_context(rabbitmq_broker(options.rabbitmq))
        brokers: dict[str, Broker] = {"redis": store} | ({"rabbitmq": rabbit} if rabbit else {})
        if journal is None:
            journal = Journal.begin(kind, machine(broker.version for broker in brokers.values()))
        steps = [step for step in plan(options) if step.side.broker in brokers]
        try:
            _measure(steps, brokers, store, journal, options)
        except KeyboardInterrupt:
            print("\nInterrupted. Continue with --resume.")
    print(f"\n{tables(journal.results())}")
    print(f"The results are in {journal.path}; `python -m bench --report` writes them into the README.")


def plan(options: argparse.Namespace) -> list[Step]:
    """Return the steps in order, repetitions interleaved (A B C, A B C), so that other load affects all sides."""
    if options.only:
        sides = [find(name) for name in options.only]
    elif options.costs:
        sides = COSTS
    elif options.peers:
        sides = [find("choreo/redis/solo"), find("choreo/rabbitmq/solo"), *PEERS]
    elif options.on_rabbitmq:
        others = [side for side in PEERS if side.broker == "rabbitmq" and side.approach != "celery-pubsub"]
        sides = [find("choreo/rabbitmq/solo"), *others, *CONFIRMED]
    elif options.quick:
        # The pool with the least overhead, and the chord for comparison with the join.
        sides = [side for side in OWN if side.pool == "solo" and side.name != "topic/rabbitmq/solo"] + CHORDS[:1]
    else:
        sides = [*OWN, *CHORDS]
    sides = [side for side in sides if environments.ready(side)]
    steps = [Step("session", side, number) for number in range(options.repetitions) for side in sides]
    if options.costs:
        memories = [Step("memory", side, 0) for side in sides if side.name.endswith("redis/solo")]
        return [*steps[: len(sides)], *memories, *steps[len(sides) :]]
    if options.only or options.peers or options.on_rabbitmq:
        return steps
    # After the first round: if time runs out, repetitions are left out, not these steps. The killed worker has the
    # prefork pool, because such a worker prefetches while its handler runs.
    killed = [side for side in OWN if side.broker == "redis" and side.pool == "prefork"]
    extra = [Step("memory", find("choreo/redis/solo"), 0), *(Step(kill.SCENARIO, side, 0) for side in killed)]
    return [*steps[: len(sides)], *extra, *steps[len(sides) :]]


def _measure(
    steps: list[Step], brokers: dict[str, Broker], store: Redis, journal: Journal, options: argparse.Namespace
) -> None:
    finished = {(result.side, _kind(result.scenario), result.repetition) for result in journal.results()}
    deadline = time.monotonic() + options.minutes * 60
    for number, step in enumerate(steps, 1):
        if (step.side.name, step.kind, step.repetition) in finished:
            continue
        if time.monotonic() + STEP_SECONDS[step.kind] * (0.4 if options.quick else 0.7) > deadline:
            print(
                f"{options.minutes:g} minutes are over: {len(steps) - number + 1} steps left out (--minutes, --resume)."
            )
            return
        began = time.monotonic()
        try:
            # All rows of a step are written together, so that --resume repeats an interrupted step.
            rows = list(_rows(step, brokers, store, options))
        except Exception as error:  # an error of one side must not end the run
            rows = [Row(step.kind if step.kind != "session" else step.side.phases[0], problem=repr(error))]
        for row in rows:
            journal.add(Result.of(row, step.side, step.repetition))
            if row.problem:
                print(f"  {step.side.name}, {row.scenario}: {row.problem}", file=sys.stderr)
        print(f"[{number}/{len(steps)}] {step.name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def _rows(step: Step, brokers: dict[str, Broker], store: Redis, options: argparse.Namespace) -> Iterator[Row]:
    size = Size(seconds=0.4, most=800, quiet_seconds=2.0, others=(1, 100)) if options.quick else Size()
    if step.side.broker == "rabbitmq" and (step.repetition or options.on_rabbitmq):
        # RabbitMQ takes seconds to declare and delete hundreds of queues, so these rows are measured once, if at all.
        size = replace(size, others=())
    match step.kind:
        case "memory":
            counts = [2_000] if options.quick else [10_000, 100_000] + ([1_000_000] if options.huge else [])
            # A million events have an hour.
            yield from memory.run(step.side, store, counts, 10.0 if options.quick else 3600.0 if options.huge else 30.0)
        case "killed worker":
            yield kill.run(step.side, brokers[step.side.broker], store)
        case _:
            yield from session.run(step.side, brokers[step.side.broker], store, size, options.keep)


def _kind(scenario: str) -> str:
    if scenario.startswith("memory"):
        return "memory"
    return scenario if scenario == kill.SCENARIO else "session"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the solo pool, once")
    parser.add_argument("--peers", action="store_true", help="beside other libraries")
    parser.add_argument("--on-rabbitmq", action="store_true", help="all on RabbitMQ, beside Celery with confirms")
    parser.add_argument("--report", action="store_true", help="write the last results into bench/README.md")
    parser.add_argument("--costs", action="store_true", help="choreo with and without its optional work")
    parser.add_argument("--resume", action="store_true", help="continue the last run")
    parser.add_argument("--huge", action="store_true", help="also measure the memory of a million events and joins")
    parser.add_argument("--redis", metavar="URL", help="an empty Redis; default: start one")
    parser.add_argument("--rabbitmq", metavar="URL", default="amqp://guest:guest@127.0.0.1:5672", help="or 'none'")
    parser.add_argument(
        "--only", metavar="SIDE", action="append", help="for example choreo/redis/solo; may be repeated"
    )
    parser.add_argument("--repetitions", type=int, help="how often each side is measured (3; quick: 1)")
    parser.add_argument("--minutes", type=float, help="time limit: begin no step that would end later (12; quick: 2)")
    parser.add_argument("--keep", action="store_true", help="keep the logs of the workers in the temporary directory")
    options = parser.parse_args(arguments)
    options.repetitions = options.repetitions or (1 if options.quick else 3)
    options.minutes = options.minutes or (2.0 if options.quick else 120.0 if options.huge else 12.0)
    return options


if __name__ == "__main__":
    main()
