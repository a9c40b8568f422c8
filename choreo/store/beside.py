"""The store where the broker is the same Redis: taking is beginning, committing is acking.

There, recording what a handler announces and sending it are one step: the commit puts the copies into the queues. No
outbox is written, nothing is left for a relay, and two round trips are saved. The commit also removes the copy that was
handled from its worker's hands, so that it is acked if, and only if, its outcome is recorded.

For a plain handler, `begin` needs no round trip either. The script that takes a message from the handler's queue looks
into the inbox in the same step (the broker's claim.lua). What was done before is dropped there, and counted. The rest
is *claimed*: the unit says which delivery it belongs to. A join is claimed by its parts, as everywhere.

*How long a claim holds.* As long as the message is in flight, which is as long as its consumer lives: however long its
handler runs, and not a moment longer than it takes the broker to find that the consumer died, stopped, or gave the
message back. Handlers that run for longer also renew a lease, from their own process: should the worker's main process
be killed alone, a pool child that still runs keeps others out.

*Two copies of one event.* The first that is taken is claimed, wherever the second is taken. The second asks the store
when it is about to run, finds the unit busy, and waits in the schedule; or done.

*Who may begin without asking.* A claim was true when the message was taken. Taking is also a sign of life: for the
consumer timeout from then on nobody can have taken the consumer for dead. Until most of that time has passed, by a
clock that all processes of a machine share, a handler begins at once. After that (a long backlog in the worker, a
process that was stopped) it asks the store, as it does while its worker is stopping.

*Counting crashes.* To be taken is not to be begun: most of what a worker dies with was waiting in it. A pool of n
begins what it was given in order, and each commit takes its own copy away: so a worker is busy with the n oldest of
what it has in flight. Whoever finds it dead notes those, and they count as begun once. (Commits of very short handlers
may have waited for each other just then, or acks that no commit carries. Handled copies are among the oldest in that
case, and what killed the worker counts from its next beginning.) When a pool child dies alone, its worker knows what
that was busy with, and notes it as it gives that back. What was delivered before is never claimed by taking: it asks
the store, which counts from there. So what kills its workers is parked after `Terms.max_deliveries`, and what waited
beside it is not.

*Sending ahead.* A worker of the pools solo and threads does not wait for each commit's answer: see the broker's
commits.py.

*Fencing.* The token of a claim is the name of the delivery, which is never used twice. Whoever lost his claim to
another delivery cannot commit. Who lost it to nobody still may: the copy that went back is dropped when it is taken.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

from choreo.broker.commits import Commit, Fate, Header, Question, refused
from choreo.broker.keys import Keys
from choreo.broker.packing import head_of_event
from choreo.broker.redis import Channel
from choreo.broker.wire import Part
from choreo.errors import StoreError
from choreo.message import Message
from choreo.store import FORGOTTEN, Arrival, Begun, Claim, Committed, Outcome, Settlement, Terms
from choreo.store.redis import RedisStore, begun, failed


class StoreBesideBroker(RedisStore):
    """
    See `choreo.store.Store`. ``exchange`` is the one on which events are announced.

    ``broker_prefix`` and ``sep`` are the transport options `global_keyprefix` and `sep`.
    """

    def __init__(
        self, url: str, terms: Terms, prefix: str, exchange: str, broker_prefix: str = "", sep: str = Channel.sep
    ) -> None:
        super().__init__(url, terms, prefix)
        self._sep = sep
        self._keys = Keys(broker_prefix)
        self._headers: dict[tuple[str, str], Header] = {}
        self._routing = [broker_prefix + Channel.keyprefix_queue % exchange, self._keys.routes(exchange)]

    def commit(self, claim: Claim, settlement: Settlement) -> Committed:
        header = self._header(claim)
        args = self._settlement_args(claim, settlement, settlement.scheduled, len(settlement.sent))
        args += _placed(settlement.sent.values())
        if claim.line is not None and settlement.hear is not None and claim.receipt is not None:
            told = partial(self._tell_later, settlement)
            if claim.line.send(Commit(claim.token, header, args, told)):
                return Committed(Outcome.SENT)
        (answer,), again = self._run_once("commit_beside", header.keys, [*header.args, *args], _check)
        return _committed(answer, settlement, again)

    def _header(self, claim: Claim) -> Header:
        """What the commits of one handler, for one consumer, have in common."""
        place = claim.handler, self._in_flight(claim)
        header = self._headers.get(place)
        if header is None:
            # A consumer has a new name after each outage.
            if len(self._headers) >= 1000:
                self._headers.clear()
            handler, inflight = place
            keys = [*self._settlement_keys(handler), inflight, *self._routing]
            args = [self._key(handler, ""), self._sep, self._keys.prefix, self._keys.token("")]
            header = self._headers[place] = Header(self._script("commit_beside"), keys, args)
        return header

    def _run_for(self, claim: Claim, name: str, keys: Sequence[Part], args: Sequence[Any]) -> Any:
        answer = claim.line.ask(self._script(name), keys, args) if claim.line is not None else None
        # What the worker's own connection cannot tell, the store's may, which is more patient.
        return self._run(name, keys, args) if answer is None else answer

    def arrive_ahead(self, claim: Claim, arrival: Arrival) -> Callable[[], Begun | None] | None:
        line = claim.line
        question = Question(self._script("arrive"), *self._arriving(claim, arrival, ahead=True))
        if line is None or not line.ask_ahead(question):
            return None

        def answer() -> Begun | None:
            answered = line.answer(question)
            return None if answered is None else begun(answered)

        return answer

    def _tell_later(self, settlement: Settlement, answer: Any, again: bool) -> Fate:
        if isinstance(answer, Exception):
            outcome: Committed | StoreError = failed(self.url, answer)
        else:
            outcome = _committed(answer, settlement, again)
            if outcome.outcome is Outcome.LOST:
                outcome = StoreError(FORGOTTEN)
        if settlement.hear is not None:
            settlement.hear(outcome)
        if isinstance(outcome, StoreError):
            return Fate.BACK
        return Fate.GONE if outcome.outcome is Outcome.OK else Fate.ACK

    def inbox(self, handler: str) -> str:
        """What the broker needs to know to look into the handler's inbox, and to claim for it: see its claim.lua."""
        return f"{self._retention} {self._key(handler, '')}"

    def _in_flight(self, claim: Claim) -> str:
        return claim.receipt[0] if claim.receipt else ""


def _check(answer: Any) -> None:
    # A server that refuses (the master that was) is no longer the right one: who asks again connects anew.
    error = refused(answer[0])
    if error is not None:
        raise error


_OK = Committed(Outcome.OK)


def _committed(answer: Any, settlement: Settlement, again: bool) -> Committed:
    if answer == [b"ok"]:
        return _OK
    outcome, *reached = answer
    unheard = [message for message, count in zip(settlement.sent.values(), reached, strict=False) if not count]
    return Committed(Outcome(outcome.decode()), unheard=unheard, again=again)


def _placed(messages: Iterable[Message]) -> list[Any]:
    args: list[Any] = []
    for message in messages:
        to_one_queue = "1" if message.exchange == "" else "0"
        args += [to_one_queue, message.routing_key, uuid4().hex, head_of_event(message)]
    return args
