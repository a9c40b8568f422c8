"""
What goes wrong, one function per fault. Each takes the fleet and a seeded random number generator, and mends in the end
what does not mend itself.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from random import Random

from choreo.delivery.dead_letter import DeadLetter
from choreo.operate.dead_letters import DeadLetters
from choreo.store.redis import RedisStore
from tests.chaos.fleet import Fleet, Worker
from tests.chaos.proxy import Mode, Proxy

Fault = Callable[[Fleet, Random], str]

#: Longer than the consumer timeout and the lease of the fleet, so that a stopped worker's work goes to somebody else.
FREEZE_SECONDS = 6.0


def kill_worker(fleet: Fleet, random: Random) -> str:
    """`kill -9` of a worker with its pool; it is started again at once."""
    worker = _any(fleet, random)
    fleet.kill(worker)
    fleet.restart(worker)
    return worker.name


def kill_pool_child(fleet: Fleet, random: Random) -> str:
    """`kill -9` of one process of a prefork pool, as the kernel does when memory is short."""
    victims = [(w, pid) for w in _targets(fleet) if w.pool == "prefork" for pid in w.children()]
    if not victims:
        return "nobody: no pool is ready"
    worker, pid = random.choice(victims)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "nobody: it had ended"
    return f"{worker.name}, child {pid}"


def deploy(fleet: Fleet, random: Random) -> str:
    """A rolling restart: SIGTERM, wait for the end, start anew."""
    worker = _any(fleet, random)
    fleet.stop(worker)
    fleet.restart(worker)
    return worker.name


def terminate_group(fleet: Fleet, random: Random) -> str:
    """SIGTERM to a worker and its pool at once, as systemd does by default and `sh -c` in a container."""
    worker = _any(fleet, random)
    worker.wanted = False
    if worker.pid:
        os.killpg(os.getpgid(worker.pid), signal.SIGTERM)
    worker.guard.stop()
    fleet.restart(worker)
    return worker.name


#: Seconds for which a worker stands still in `pile_up`.
PILE_SECONDS = 0.5


def freeze(fleet: Fleet, random: Random) -> str:
    """SIGSTOP for longer than any lease, while a second worker of the service is there; then the zombie wakes up."""
    worker = _any(fleet, random)
    (other,) = fleet.start(worker.service, pool=worker.pool, number=2)
    fleet.wait_ready(other)
    worker.guard.send(signal.SIGSTOP)
    if not fleet.broker_url.startswith("redis"):
        # RabbitMQ gives a stopped worker's messages to the other one only when its connection is gone.
        time.sleep(FREEZE_SECONDS / 4)
        fleet.broker.cut()
    time.sleep(FREEZE_SECONDS)
    worker.guard.send(signal.SIGCONT)
    fleet.stop(other)
    del fleet.workers[other.name]
    return worker.name


def pile_up(service: str) -> Fault:
    """A fault: a worker of this service stands still for a moment, so that it handles what has arrived together."""

    def stand_still(fleet: Fleet, random: Random) -> str:
        worker = fleet.workers[f"{service}-1"]
        worker.guard.send(signal.SIGSTOP)
        time.sleep(PILE_SECONDS)
        worker.guard.send(signal.SIGCONT)
        return worker.name

    return stand_still


def cut_broker(fleet: Fleet, random: Random) -> str:
    """Every connection to the broker breaks."""
    return f"{fleet.broker.cut()} connections"


def cut_command(fleet: Fleet, random: Random) -> str:
    """Every connection to the broker breaks in the middle of its next command."""
    return f"{fleet.broker.cut_midway('up')} connections"


def cut_answer(fleet: Fleet, random: Random) -> str:
    """Every connection to the broker breaks in the middle of the next answer: the command was carried out."""
    return f"{fleet.broker.cut_midway('down')} connections"


def cut_store(fleet: Fleet, random: Random) -> str:
    """Every connection to the store breaks, between commands, in a command or in an answer."""
    how = random.choice([fleet.store.cut, lambda: fleet.store.cut_midway("up"), lambda: fleet.store.cut_midway("down")])
    return f"{how()} connections"


def refuse_broker(fleet: Fleet, random: Random) -> str:
    """The broker is away: every connection breaks, and for seconds nobody gets in."""
    return _for_a_while(fleet.broker, "refuse", random.uniform(1.0, 3.0))


def refuse_store(fleet: Fleet, random: Random) -> str:
    """The store is away for seconds."""
    return _for_a_while(fleet.store, "refuse", random.uniform(1.0, 3.0))


def stall(fleet: Fleet, random: Random) -> str:
    """No byte passes between anybody and the broker for a while, and nobody is told."""
    return _for_a_while(fleet.broker, "stall", random.uniform(0.5, 1.5))


def swallow_answers(fleet: Fleet, random: Random) -> str:
    """What the broker answers is lost for a while, longer than the patience of its clients; then connections break."""
    return _for_a_while(fleet.broker, "drop down", random.uniform(1.0, 4.0))


def swallow_commands(fleet: Fleet, random: Random) -> str:
    """What is sent to the broker is lost for a while; then connections break."""
    return _for_a_while(fleet.broker, "drop up", random.uniform(0.5, 2.0))


def _for_a_while(server: Proxy, mode: Mode, seconds: float) -> str:
    server.mode = mode
    try:
        if mode == "refuse":
            server.cut()
        time.sleep(seconds)
    finally:
        if mode != "stall":
            # The stream has a hole now; a connection that goes on would be a fault that no network makes.
            server.cut()
        server.mode = "ok"
    return f"{seconds:.1f} s"


def kill_publisher(fleet: Fleet, random: Random) -> str:
    """`kill -9` of the publisher; the test starts it again from the next order."""
    if fleet.publisher is None or fleet.publisher.poll() is not None:
        return "nobody: it has ended"
    fleet.publisher.kill()
    return "publisher"


def replay(count: int, reason: str = "") -> Fault:
    """Wait until so many events have become dead letters, and hand each to its handler again. It is no fault at all."""

    def replay_letters(fleet: Fleet, random: Random) -> str:
        store = RedisStore(fleet.store_url or fleet.broker_url, prefix=f"choreo:{fleet.namespace}")
        letters = DeadLetters(store, lambda handler: f"{fleet.namespace}.{handler}")
        replayed: list[DeadLetter] = []
        give_up_at = time.monotonic() + 2 * fleet.patience
        while len(replayed) < count and time.monotonic() < give_up_at:
            fleet.look_after()
            for letter in letters:
                # From now on the handler does not refuse it. A worker that noted that itself could die before.
                (fleet.books / f"{letter.subject}.letter").touch()
                replayed.append(letters.replay(letter.id))
            time.sleep(0.05)
        if len(replayed) < count:
            fleet.findings.append(f"unburied: {count} dead letter(s) were to be, and {len(replayed)} were")
        wrong = [letter for letter in replayed if reason and letter.reason != reason]
        fleet.findings += [f"wrong: {letter} is a dead letter for being {letter.reason}" for letter in wrong]
        return f"{len(replayed)} dead letters"

    return replay_letters


def _any(fleet: Fleet, random: Random) -> Worker:
    return random.choice(_targets(fleet))


def _targets(fleet: Fleet) -> list[Worker]:
    """Whom a fault may hit, always in the same order, so that a seed chooses the same ones again."""
    running = [worker for worker in fleet.workers.values() if worker.wanted and worker.service in fleet.targets]
    return sorted(running, key=lambda worker: worker.name)


def name_of(fault: Fault) -> str:
    """`kill_worker` is "kill worker"."""
    return fault.__name__.replace("_", " ")


#: Every fault that needs nothing but a fleet, by name.
FAULTS: dict[str, Fault] = {
    name_of(function): function
    for function in (
        kill_worker,
        kill_pool_child,
        deploy,
        terminate_group,
        freeze,
        cut_broker,
        cut_command,
        cut_answer,
        cut_store,
        refuse_broker,
        refuse_store,
        stall,
        swallow_answers,
        swallow_commands,
        kill_publisher,
    )
}


class Weather(threading.Thread):
    """Faults in the order in which a seed draws them, while the test goes on."""

    def __init__(
        self, fleet: Fleet, random: Random, faults: Sequence[Fault], pause: tuple[float, float] = (0.1, 0.8)
    ) -> None:
        super().__init__(name="weather", daemon=True)
        self._fleet = fleet
        self._random = random
        self._faults = faults
        self._pause = pause
        self.happened: list[str] = []
        self.error: BaseException | None = None
        #: When the last fault was over.
        self.over_at = 0.0

    def run(self) -> None:
        try:
            for fault in self._faults:
                time.sleep(self._random.uniform(*self._pause))
                begun = time.monotonic()
                whom = fault(self._fleet, self._random)
                self.happened.append(f"{name_of(fault)} ({whom}, {time.monotonic() - begun:.1f} s)")
                self._fleet.look_after()
        except BaseException as error:
            self.error = error
        finally:
            self._fleet.calm()
            self.over_at = time.time()
