"""The judge: finds out why an open end is open."""

from collections.abc import Sequence

from choreo.delivery.dead_letter import Reason
from choreo.delivery.ending import Ending, process_in
from choreo.observe.cause import NOTHING, Cause, Weight, command
from choreo.observe.evidence import Evidence
from choreo.observe.map import MappedEvent
from choreo.observe.open_end import Kind, OpenEnd
from choreo.observe.resuming import resuming
from choreo.observe.words import clock, counted, ordinal, span
from choreo.printing import one_line
from choreo.store.claims import LastEnd
from choreo.store.pauses import Pause
from choreo.store.presence import Program
from choreo.store.schedule import DELAYED

#: Seconds after which a due message counts as late. Live workers are faster, also on a busy machine.
LATE = 10.0
#: Seconds within which a retry comes soon enough, so that nobody hurries it.
SOON = 60.0
#: An attempt that was begun so often has most likely ended its workers.
OFTEN = 2
#: Stands for a module that is not known.
_MODULE = "SERVICE_MODULE"


class Judge:
    """Finds the cause of each open end."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence

    def of(self, end: OpenEnd) -> Cause:
        """Why this is still open. A join that waits is judged by what it waits for, and not here."""
        match end.kind:
            case Kind.QUEUED:
                return self._queued(end)
            case Kind.TAKEN:
                return self._taken(end)
            case Kind.RETRY | Kind.LATER:
                return self._scheduled(end)
            case Kind.HELD:
                return self._held(end)
            case Kind.TURN:
                return self._in_turn(end)
            case Kind.LETTER:
                return self._letter(end)
            case Kind.JOIN:
                return self._join(end)

    def deaf(self, handler: str, since: float | None = None) -> Cause | None:
        """Why nobody works for this handler; None if a worker consumes its queue, though perhaps slowly."""
        service, presence = handler.partition(".")[0], self._evidence.presence(handler)
        if not presence.workers:
            text = f"no worker of {service} lives{self.last_seen(handler)}"
            return Cause("no worker", text, start(service, presence.gone), since=since)
        if (pause := self._evidence.pauses.get(handler)) is not None and pause.is_stop:
            return paused(pause, self._evidence.now)
        if self._evidence.consumers(handler):
            return None
        queue = self._evidence.queue_of(handler)
        if any(idle.queue == queue and idle.is_undeclared for idle in self._evidence.map.idle):
            text = f"no worker of {service} declares {handler} any more: it was renamed or removed"
            do = f"# declare it again, with name={handler.partition('.')[2]!r}, until its queue is empty"
            return Cause("not declared", text, (do,), since=since)
        living = f"{counted(len(presence.workers), 'worker')} of {service}"
        text = f"no worker consumes the queue {queue}: {living} {'lives' if len(presence.workers) == 1 else 'live'}"
        add = _celery(service, presence.workers, "control", "add_consumer", queue)
        return Cause("not consumed", text, ("# start a worker without -Q, or:", add), since=since)

    def last_seen(self, handler: str) -> str:
        """When a worker of this handler was seen last, in brackets and with a space before; "" if never."""
        gone = [program for program in self._evidence.presence(handler).gone if program.is_worker]
        if not gone:
            return ""
        return f" (the last, {gone[0].node}, was seen {span(self._evidence.now - gone[0].seen)} ago)"

    def _queued(self, end: OpenEnd) -> Cause:
        assert end.message is not None
        since = self._announced(end)
        if (deaf := self.deaf(end.handler, since)) is not None:
            return deaf
        if end.message.returned >= OFTEN:
            return self._deadly(end, end.message.returned)
        place = f"{ordinal(end.message.position)} of {end.message.count}"
        count = len(self._evidence.consumers(end.handler))
        who = f"{counted(count, 'worker')} {'consumes' if count == 1 else 'consume'}"
        what = self._attempt(end) if end.attempt > 1 else "it"
        text = f"{what} is {place} in the queue of {end.handler}{self._age(end)}, which {who}{self._turn(end)}"
        if (pause := self._evidence.pauses.get(end.handler)) is not None:
            text = f"{text}; {told(pause, self._evidence.now)}"
            return Cause("slowed", text, resuming(pause), Weight.WAITING, since)
        return Cause("in the queue", text, self._patience(end), Weight.WAITING, since)

    def _turn(self, end: OpenEnd) -> str:
        """When its turn comes, at the rate since the queue waits, with a semicolon before; "" if that is not known."""
        rate = self._evidence.rates.get(end.handler)
        if not rate or end.message is None:
            return ""
        return f"; at {rate:.2g} per second its turn comes in about {span(end.message.position / rate)}"

    def _patience(self, end: OpenEnd) -> Sequence[str]:
        service = end.service
        if end.message is not None and end.message.position > 10:
            programs = self._evidence.presence(end.handler).workers
            return "# wait, or start another worker:", *start(service, programs)
        return NOTHING

    def _taken(self, end: OpenEnd) -> Cause:
        since, message, begun = self._announced(end), end.message, end.unit.begun if end.unit else 0
        who = self.holder(end)
        if message is not None and not message.is_holder_alive:
            if (deaf := self.deaf(end.handler, since)) is not None:
                return deaf
            text = f"{who} has died with it; another worker gets it within seconds"
            return Cause("its worker died", text, NOTHING, Weight.WAITING, since)
        if max(begun, message.returned + 1 if message else 0) > OFTEN:
            return self._deadly(end, max(begun - 1, message.returned if message else 0))
        what = f"{self._attempt(end)} of {end.handler}" if end.attempt > 1 else end.handler
        text = f"{what} is in the hands of {who}{self._age(end)}{self._company(end)}"
        return Cause("in hand", text, NOTHING, Weight.WAITING, since)

    def _company(self, end: OpenEnd) -> str:
        """What an event in the hands of a worker may wait for, with a semicolon before; "" if for nothing."""
        described = self._evidence.descriptions.get(end.handler)
        if described is None:
            return ""
        if described.concurrency and self._evidence.slots.get(end.handler, 0) >= described.concurrency:
            return f"; no slot of its concurrency of {described.concurrency} is free"
        return f"; it runs in batches of {described.batch}, which are collected first" if described.batch else ""

    def holder(self, end: OpenEnd) -> str:
        """The worker that has a message, for people."""
        host, pid = ("", 0)
        if end.message is not None:
            host, pid = end.message.host, end.message.pid
        elif end.unit is not None and (named := process_in(end.unit.holder)):
            host, pid = named
        for program in self._evidence.presence(end.handler).workers:
            if (program.host, program.pid) == (host, pid):
                return f"{program.node} (pid {pid})"
        return f"pid {pid} on {host}" if pid else "a worker"

    def _deadly(self, end: OpenEnd, times: int) -> Cause:
        last = Ending.of(LastEnd("", end.unit.before)) if end.unit else None
        how = (end.unit.ended if end.unit else "") or (last.text if last else "")
        text = f"{end.handler} began {end.event.type} {times} times, and its worker died each time"
        do = f"# look into the log of {end.service}; soon it is a dead letter:"
        steps = do, command("choreo", "dead-letters", "list", end.handler)
        return Cause("its worker died", f"{text}{f': {how}' if how else ''}", steps, since=self._announced(end))

    def _scheduled(self, end: OpenEnd) -> Cause:
        due, now = end.due or 0.0, self._evidence.now
        what = f"{self._attempt(end)} of {end.handler}" if end.kind is Kind.RETRY else f"{end.event.type}"
        if now - due > LATE:
            return self._late(end, what)
        error = self._last_error(end)
        text = f"{what} is due in {span(due - now)}, at {clock(due, now)}{f' ({error})' if error else ''}"
        if end.handler == DELAYED and not self._any_worker():
            return Cause("no worker", f"{text}, and no worker of any service lives", self._start_any(), since=None)
        if (deaf := self._nobody_for(end)) is not None:
            # The time of a delayed event is the one at which it is due.
            since = self._announced(end) if end.kind is Kind.RETRY else None
            return Cause(deaf.name, f"{text}, and {deaf.text}", deaf.do, deaf.weight, since)
        name = "retry" if end.kind is Kind.RETRY else "delayed"
        is_far = due - now > SOON and end.event.subject
        do = (command("choreo", "schedule", "now", end.event.subject),) if is_far else NOTHING
        return Cause(name, text, do, Weight.WAITING, self._announced(end))

    def _held(self, end: OpenEnd) -> Cause:
        since, what = self._announced(end), f"{self._attempt(end)} of {end.handler} waits for the end of an outage"
        if (deaf := self.deaf(end.handler, since)) is not None:
            return Cause(deaf.name, f"{what}: {deaf.text}", deaf.do, deaf.weight, since)
        return Cause("held", f"{what}, and leaves soon", NOTHING, Weight.WAITING, since)

    def _in_turn(self, end: OpenEnd) -> Cause:
        since = self._announced(end)
        behind = end.behind or "another event of its key"
        text = f"{end.event.type} waits for its turn at {end.handler}{self._age(end)}, behind {behind}"
        if (deaf := self.deaf(end.handler, since)) is not None:
            return Cause(deaf.name, f"{text}: {deaf.text}", deaf.do, deaf.weight, since)
        return Cause("its turn", text, NOTHING, Weight.WAITING, since)

    def _nobody_for(self, end: OpenEnd) -> Cause | None:
        """Why nobody works for what is scheduled: neither to send it, nor for any handler that is to get it."""
        if end.handler != DELAYED and (deaf := self._unsent(end)) is not None:
            return deaf
        event = self._evidence.map.event(end.event.type) if end.is_announcement else None
        hearers = (event.by_name or event.heard_by) if event else ()
        causes = [self.deaf(hearer.name) for hearer in hearers]
        return causes[0] if causes and all(causes) else None

    def _attempt(self, end: OpenEnd) -> str:
        """``attempt 2 of 6``."""
        declared = self._evidence.descriptions.get(end.handler)
        return f"attempt {end.attempt}{f' of {declared.attempts}' if declared and declared.attempts else ''}"

    def _late(self, end: OpenEnd, what: str) -> Cause:
        late = f"{what} is due since {clock(end.due or 0.0, self._evidence.now)}, and no worker sends it"
        if end.handler == DELAYED:
            text = f"{late}{'' if self._any_worker() else ': no worker of any service lives'}"
            return Cause("no worker", text, self._start_any(), since=end.due)
        deaf = self._unsent(end, end.due)
        if deaf is None:
            do = f"# look into the log of {end.service}: does it reach the broker?"
            return Cause("not sent", late, (do,), since=end.due)
        return Cause(deaf.name, f"{late}: {deaf.text}", deaf.do, deaf.weight, end.due)

    def _unsent(self, end: OpenEnd, since: float | None = None) -> Cause | None:
        """Why no worker of its service sends it at its time, or takes it then; None if one does."""
        deaf = self.deaf(end.handler, since)
        # Every worker of the service sends a delayed event, whichever queues it consumes.
        return None if deaf is None or (end.is_announcement and deaf.name != "no worker") else deaf

    def _start_any(self) -> Sequence[str]:
        """How to start a worker of any service: of one whose module is known, if there is one."""
        for service, presence in self._evidence.presences.items():
            gone = [program for program in presence.gone if program.is_worker]
            if _module(gone):
                return "# start a worker of any service, such as:", *start(service, gone)
        return ("# start a worker of any service", *start("any service", ()))

    def _any_worker(self) -> bool:
        return any(presence.workers for presence in self._evidence.presences.values())

    def _last_error(self, end: OpenEnd) -> str:
        runs = [run for run in self._evidence.runs if (run.handler, run.event) == (end.handler, end.event.id)]
        return runs[-1].detail if runs and runs[-1].attempt == end.attempt - 1 else ""

    def _letter(self, end: OpenEnd) -> Cause:
        letter = end.letter
        assert letter is not None
        text = f"{end.handler} failed for good: {one_line(letter.error)} ({letter.reason}, dead letter {letter.id})"
        show, replay, discard = (
            command("choreo", "dead-letters", what, letter.id) for what in ("show", "replay", "discard")
        )
        do: Sequence[str] = (show, "# mend the cause, then:", replay)
        group = self._evidence.groups.get(letter.group)
        if letter.reason is Reason.VERSION:
            several = group is not None and group.count > 1
            every = command("choreo", "dead-letters", "replay", letter.group) if several else replay
            do = show, f"# deploy code of {end.service} that reads this version, then:", every
        elif letter.reason is Reason.UNTRUSTED:
            do = show, "# is it right, and who has announced it? Then:", replay, "# or else:", discard
        elif letter.reason is Reason.UNREADABLE:
            again = command("choreo", "rerun", end.handler, end.event.id, "--data", "{}") if end.event.id else ""
            fields = ("# or give it the right fields, in --data:", discard, again) if again else ()
            do = show, f"# deploy a version of {end.service} that can read it, then:", replay, *fields
        elif group is not None and group.count > 1:
            text += f", one of {group.count:,} of this cause"
            all_ = command("choreo", "dead-letters", "replay", group.id, "--canary")
            do = show, f"# mend the cause, then all {group.count:,}:", all_, "# or this one:", replay
        return Cause("dead letter", text, do, since=letter.failed_at.timestamp())

    def _join(self, end: OpenEnd) -> Cause:
        join = end.join
        assert join is not None
        since = join.since.timestamp() if join.since else None
        if join.complete:
            return self._complete(end, since)
        if join.overdue and (deaf := self.deaf(end.handler, since)) is not None:
            return deaf
        missing = missing_of(end)
        text = f"{end.handler} waits for {missing} until {clock(end.due or 0.0, self._evidence.now)}"
        do = command("choreo", "joins", "show", join.key)
        return Cause("join waits", text, (do,), Weight.UNKNOWN, since)

    def _complete(self, end: OpenEnd, since: float | None) -> Cause:
        assert end.join is not None
        if (deaf := self.deaf(end.handler, since)) is not None:
            return deaf
        if end.join.lease:
            return Cause(
                "in hand", f"{end.handler} is in the hands of {self.holder(end)}", NOTHING, Weight.WAITING, since
            )
        failed = f"{counted(end.join.attempts, 'attempt')} of it failed" if end.join.attempts else "nobody has begun it"
        text = f"{end.handler} has all its events, and {failed}"
        do = command("choreo", "joins", "fire", end.join.key)
        return Cause("join complete", text, (do,), Weight.UNKNOWN, since)

    def _announced(self, end: OpenEnd) -> float | None:
        event = self._evidence.events.get(end.event.id)
        return event.at if event else None

    def _age(self, end: OpenEnd) -> str:
        """For how long it waits; "" if that is not known: of a retry and a replay, only the announcement is."""
        since = self._announced(end)
        is_later = end.attempt > 1 or end.event.replay
        return "" if since is None or is_later else f", for {span(self._evidence.now - since)}"

    def unseen(self, handler: str, event: MappedEvent | None, since: float | None) -> Cause:
        """Why nothing is known of what this handler did with an event."""
        depth = self._evidence.broker.depths.get(self._evidence.queue_of(handler))
        if depth is not None and depth.count:
            if (deaf := self.deaf(handler, since)) is not None:
                return deaf
            text = f"it is perhaps among the {counted(depth.count, 'message')} in the queue of {handler}"
            return Cause("in the queue", text, NOTHING, Weight.WAITING, since)
        name = event.type if event else "the event"
        if self._evidence.is_recorded:
            text = f"nothing is known of {handler} and {name}: it was handled before the record began, or is lost"
        else:
            text = f"nothing is known of {handler} and {name}, and no runs are recorded (choreo_record_length = 0)"
        # Never "publish it again": it may have been handled, or be on its way.
        do = f"# look into the log of {handler.partition('.')[0]}"
        return Cause("unknown", text, (do,), Weight.UNKNOWN, since)


def paused(pause: Pause, now: float) -> Cause:
    """Why a paused handler handles nothing."""
    ends = pause.until is not None or pause.probe_at is not None
    since = pause.since.timestamp()
    return Cause(
        "paused",
        told(pause, now),
        resuming(pause, _next_probe(pause, now)),
        Weight.WAITING if ends else Weight.STUCK,
        since,
    )


def told(pause: Pause, now: float) -> str:
    """A pause in words: ``payment.charge is paused since 12:00:00 until 12:30:00 by alice@host: gateway down``."""
    probe = _in(pause.probe_at.timestamp() - now) if pause.probe_at else ""
    return pause.told(lambda moment: clock(moment.timestamp(), now), probe)


def _next_probe(pause: Pause, now: float) -> str:
    """``the next probe is in 12 s``; "" if there is none."""
    return pause.next_probe(_in(pause.probe_at.timestamp() - now)) if pause.probe_at else ""


def _in(seconds: float) -> str:
    return f"in {seconds:.0f} s" if seconds > 0 else "due"


def start(service: str, programs: Sequence[Program]) -> Sequence[str]:
    """How to start a worker of a service whose programs these are, or were."""
    return (_celery(service, programs, "worker"),)


def _celery(service: str, programs: Sequence[Program], *words: str) -> str:
    """A command of Celery for a service. It is a remark if nobody knows the module of the service."""
    if module := _module(programs):
        return command("celery", "-A", module, *words)
    file = next((f" ({program.file})" for program in programs if program.file), "")
    return f"# {command('celery', '-A', _MODULE, *words)}  # of {service}{file}"


def missing_of(end: OpenEnd) -> str:
    """What a join waits for, for people."""
    join = end.join
    assert join is not None
    missing = ", ".join(map(str, join.missing)) or "events that are not known: no worker of its service has started"
    return f"{join.needed} of: {missing}" if 0 < join.needed < len(join.missing) else missing


def _module(programs: Sequence[Program]) -> str:
    """The module of a service, as ``celery -A`` takes it; "" if it is not known."""
    known = (program.module for program in programs if program.module and program.module != "__main__")
    return next(known, "")
