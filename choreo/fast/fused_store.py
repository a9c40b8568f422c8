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
process that was stopped) it asks the store, as it does while its worker is stopping. A pool child does not know that,
so a stopping worker does not give back what a child has in its pipe.

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

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import uuid4

from choreo.broker.redis.keys import Keys
from choreo.broker.redis.packing import head_of_event
from choreo.broker.redis.transport import Channel
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.fast.commits import Header, Question, refused
from choreo.redis_client.scripts import Script
from choreo.store.claims import FORGOTTEN, Begun, Claim, Committed, Outcome, Settlement
from choreo.store.joins import Arrival
from choreo.store.redis import RedisStore, begun
from choreo.store.terms import Terms


class FusedStore(RedisStore):
    """
    The store on the broker's own Redis. ``exchange`` is the one on which events are announced.

    ``broker_prefix`` and ``sep`` are the transport options `global_keyprefix` and `sep`.
    The token of a claim is the tag of its delivery, `owner:number`, which names the consumer that holds it. A claim
    with another token is one whose message was not taken from this server.
    """

    def __init__(
        self,
        url: str,
        terms: Terms,
        prefix: str,
        exchange: str,
        broker_prefix: str = "",
        sep: str = Channel.sep,
        *,
        ssl: Mapping[str, Any] | None = None,
        transport: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(url, terms, prefix, ssl=ssl, transport=transport)
        self._sep = sep
        self._keys = Keys(broker_prefix)
        self._headers: dict[tuple[str, str], Header] = {}
        self._routing = [broker_prefix + Channel.keyprefix_queue % exchange, self._keys.routes(exchange)]
        self._begin, self._arrive = Script.load("store/begin"), Script.load("store/arrive")
        self._commit = Script.load("fast/commit_fused")

    def commit(self, claim: Claim, settlement: Settlement) -> Committed:
        header = self.header(claim)
        args = [*header.args, *self.commit_args(claim, settlement)]
        (answer,), again = self._calls.run_once(self._commit, header.keys, args, _check)
        return committed(answer, settlement, again)

    def header(self, claim: Claim) -> Header:
        """The part that the commits of one handler for one consumer have in common."""
        place = claim.handler, self._in_flight(claim)
        header = self._headers.get(place)
        if header is None:
            # A consumer has a new name after each outage.
            if len(self._headers) >= 1000:
                self._headers.clear()
            handler, inflight = place
            keys = [*self._settlement_keys(handler), inflight, *self._routing]
            args = [self._key(handler, ""), self._sep, self._keys.prefix, self._keys.token("")]
            header = self._headers[place] = Header(self._commit, keys, args)
        return header

    def commit_args(self, claim: Claim, settlement: Settlement) -> list[Any]:
        """The arguments of commit_fused.lua for one claim, behind those of its `header`."""
        args = self._settlement_args(claim, settlement, settlement.scheduled, len(settlement.sent))
        args += _placed(settlement.sent.values())
        return args

    def beginning(self, claim: Claim) -> Question:
        """The question that `begin` asks."""
        return Question(self._begin, *self._beginning(claim))

    def arriving(self, claim: Claim, arrival: Arrival, *, ahead: bool = False) -> Question:
        """The question that `arrive` asks. ``ahead``: before its turn, so that the claim does not count as begun."""
        return Question(self._arrive, *self._arriving(claim, arrival, ahead=ahead))

    def answered(self, answer: Any) -> Begun:
        """The answer to one of these questions."""
        return begun(answer)

    def fate(self, answer: Any, settlement: Settlement, again: bool) -> Committed | StoreError:
        """The answer to a commit that was sent ahead: the outcome, or the error for which nothing was committed."""
        if isinstance(answer, Exception):
            return self._calls.failed(answer)
        outcome = committed(answer, settlement, again)
        return StoreError(FORGOTTEN) if outcome.outcome is Outcome.LOST else outcome

    def inbox(self, handler: str) -> str:
        """The consumer argument with which the broker looks into the handler's inbox and claims for it: claim.lua."""
        return f"{self._retention} {self._key(handler, '')}"

    def _in_flight(self, claim: Claim) -> str:
        owner = claim.token.rpartition(":")[0]
        return self._keys.inflight(owner) if owner else ""


def _check(answer: Any) -> None:
    # A server that refuses (the master that was) is no longer the right one: the next call connects anew.
    error = refused(answer[0])
    if error is not None:
        raise error


_OK = Committed(Outcome.OK)


def committed(answer: Any, settlement: Settlement, again: bool) -> Committed:
    """The outcome of a commit from the script's answer. ``again``: it was sent more than once."""
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
