"""
The store where the broker is the same Redis server: taking a message claims its unit, and a commit acks it.

*Commit.* One script settles the unit, puts the announced events into the queues, and removes the handled copy from the
messages in flight. So a copy is acked if, and only if, its outcome is recorded. No outbox is written, the relay has
nothing to do, and two round trips are saved.

*Begin.* A handler that is no join begins without a round trip. The script that takes a message from the handler's queue
looks into the inbox in the same step (the broker's claim_copy.lua). If the unit is done, it drops the copy and counts
it. Else it *claims* the unit: the unit's record then names this delivery. A join is claimed by its parts, as in any
store.

*How long such a claim holds.* As long as the message is in flight, which is as long as its consumer lives, however long
the handler runs. It ends when the broker finds that the consumer died or stopped, or when the message is given back.
The process of a handler that runs for longer also renews a lease. If the worker's main process is killed alone, that
lease keeps other workers out while a pool child still runs.

*Two copies of one event.* The copy that is taken first gets the claim, whichever consumer takes the second. The second
copy asks the store when it is about to run. The answer is BUSY, and it waits in the schedule, or DONE.

*When a handler begins without asking.* The claim was true when the message was taken. Taking is also a sign of life: no
other consumer can take this one for dead before `consumer_timeout` has passed. Until most of that time has passed, by a
clock that all processes of a machine share, a handler begins at once. Later (after a long backlog in the worker, or in
a process that was stopped), and while its worker is stopping, it asks the store first. A pool child does not know that
its worker is stopping, so a stopping worker does not give back the messages that are in a child's pipe.

*Counting crashes.* A message that was taken has not always begun: most of the messages that a worker dies with were
waiting in it. A pool of size n begins its messages in order, and each commit removes its own copy. So a worker is busy
with the n oldest of its messages in flight. The consumer that finds it dead records that these n have begun once. If
commits or acks were still unsent, some of the n oldest were finished already. Then the event that killed the worker may
be missed this time; it is counted at its next beginning. When a pool child dies alone, its worker knows the event it
was busy with (progress.py), and records that when it gives the event back. A redelivered message is never claimed by
taking. It asks the store, which counts from there. So an event that kills its workers becomes a dead letter after
`Terms.max_deliveries`; those that waited beside it do not.

With bundles (bundles.py) a child begins up to 16 messages in order, so if the whole worker is killed, the n oldest may
be neighbours of those that were in hand. A message that comes back is never in a bundle, so this happens to it once.

*Sending ahead.* Workers do not wait for the answer to each commit: see commits.py.

*Fencing.* The token of a claim is the tag of the delivery, which is never used twice. If another delivery has claimed
the unit, the commit is refused. If no other delivery has claimed it, the commit still succeeds, and a copy that was
given back meanwhile is dropped when it is taken again.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from choreo.broker.redis.keys import BINDINGS, SEP, Keys
from choreo.broker.redis.packing import head_of_event
from choreo.errors import StoreError
from choreo.events.message import Message
from choreo.fast.commits import Header, Question, refused
from choreo.redis_client.scripts import Script
from choreo.redis_client.wire import Wire
from choreo.store.claims import FORGOTTEN, Claim, ClaimResult, CommitResult, Outcome, Settlement
from choreo.store.joins import Arrival
from choreo.store.redis import RedisStore, claim_result
from choreo.store.runs import Recording
from choreo.store.terms import Terms
from choreo.store.together import NOTHING_SENT, Beginning, Sent, Together

logger = logging.getLogger(__name__)


class FusedStore(RedisStore):
    """
    The store on the broker's own Redis server: a `RedisStore` whose commit also sends and acks.

    ``exchange`` is the one on which events are announced. ``broker_prefix`` and ``sep`` are the transport options
    `global_keyprefix` and `sep`; the other parameters are those of `RedisStore`.

    The token of a claim is the tag of its delivery, `owner:number`, which names the consumer that holds the message. A
    claim with any other token (of a join that is cancelled by hand, say) has no message in flight, and acks none.
    """

    def __init__(
        self,
        url: str,
        terms: Terms,
        prefix: str,
        exchange: str,
        broker_prefix: str = "",
        sep: str = SEP,
        *,
        ssl: Mapping[str, Any] | bool | None = None,
        transport: Mapping[str, Any] | None = None,
        recording: Recording = Recording(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__(url, terms, prefix, ssl=ssl, transport=transport, recording=recording)
        self._sep = sep
        self._keys = Keys(broker_prefix)
        self._headers: dict[tuple[str, str], Header] = {}
        self._routing = [broker_prefix + BINDINGS % exchange, self._keys.routes(exchange)]
        self._begin, self._arrive = Script.load("store/begin"), Script.load("store/arrive")
        self._commit = Script.load("fast/commit_fused")

    def commit(self, claim: Claim, settlement: Settlement) -> CommitResult:
        """
        Settle a claim, send what leaves with it and ack its message: all in one step.

        `CommitResult.unsent` is always empty. Raises `StoreError`.
        """
        header = self.header(claim)
        args = [*header.args, *self.commit_args(claim, settlement)]
        (answer,), repeated = self._calls.run_once(self._commit, header.keys, args, _check)
        return commit_result(answer, settlement, repeated)

    def commit_as_one(self, commits: Sequence[tuple[Claim, Settlement]], shared: Settlement) -> list[CommitResult]:
        """Settle several claims of one handler, send and ack: in one step for each consumer of their messages."""
        answers: dict[int, CommitResult] = {}
        by_header: dict[int, list[int]] = {}
        for number, (claim, _) in enumerate(commits):
            by_header.setdefault(id(self.header(claim)), []).append(number)
        for numbers in by_header.values():
            some = [commits[number] for number in numbers]
            found = self._commit_some(some, shared)
            if any(answer.outcome is Outcome.OK for answer in found):
                shared = Settlement()
            answers |= zip(numbers, found, strict=True)
        return [answers[number] for number in range(len(commits))]

    def _commit_some(self, commits: Sequence[tuple[Claim, Settlement]], shared: Settlement) -> list[CommitResult]:
        claim = commits[0][0]
        header = self.header(claim)
        own = self._shared_args(claim.handler, shared, len(shared.sent))
        args = [*header.args, *own, *(_placed(shared.sent.values()) if own else ())]
        for one, settlement in commits:
            args += self.commit_args(one, settlement)
        answer, repeated = self._calls.run_once(self._commit, header.keys, args, partial(_check_some, len(commits)))
        reached = answer.pop()[1:] if own else []
        found = [_result_of(text, settlement, repeated) for text, (_, settlement) in zip(answer, commits, strict=True)]
        first = next((result for result in found if result.outcome is Outcome.OK), None)
        if first is not None and own:
            lost = [one for one, count in zip(shared.sent.values(), reached, strict=False) if not count]
            found[found.index(first)] = replace(first, unheard=[*first.unheard, *lost])
        return found

    def begin_all(self, beginnings: Sequence[Beginning]) -> list[ClaimResult | StoreError]:
        """Claim each unit by itself: this store's claims are for messages in flight."""
        return Together.begin_all(self, beginnings)

    def commit_all(
        self, commits: Sequence[tuple[Claim, Settlement]], sent: Sent = NOTHING_SENT
    ) -> list[CommitResult | StoreError]:
        """Settle each claim by itself: `choreo.fast.commits` sends several together."""
        return Together.commit_all(self, commits, sent)

    def load_scripts(self) -> None:
        """
        Load the scripts that are called ahead, in case that the server does not know them yet.

        The worker reads the answers to such calls with those that follow. Without a following event, it would learn a
        second later that the first commit on a new server was not carried out. An error is ignored: a call that the
        server does not know is repeated.
        """

        def load(client: Any) -> None:
            for script in (self._commit, self._begin, self._arrive):
                client.script_load(script.source)

        with suppress(StoreError):
            self._calls.ask(load)

    def new_wire(self) -> Wire:
        """A connection of its own to the store's server, for `Commits`."""
        return self._calls.new_wire()

    def header(self, claim: Claim) -> Header:
        """The script, keys and first arguments that the commits of one handler for one consumer have in common."""
        place = handler, owner = claim.handler, claim.token.rpartition(":")[0]
        header = self._headers.get(place)
        if header is None:
            # A consumer has a new id after each outage, so old headers would collect.
            if len(self._headers) >= 1000:
                self._headers.clear()
            # A claim without a delivery acks nothing. A key without a name is denied to a user with a key pattern.
            keys = [*self._settlement_keys(handler), self._keys.inflight(owner or "-"), *self._routing]
            args = [*self._first_args(handler), self._sep, self._keys.prefix, self._keys.wake_up("")]
            header = self._headers[place] = Header(self._commit, keys, args)
        return header

    def commit_args(self, claim: Claim, settlement: Settlement) -> list[Any]:
        """The arguments of commit_fused.lua for one claim, behind those of its `header`."""
        args = self._settlement_args(claim, settlement, settlement.scheduled, len(settlement.sent))
        args += _placed(settlement.sent.values())
        return args

    def beginning(self, claim: Claim) -> Question:
        """The question that `begin` asks, for `Commits.ask`."""
        return Question(self._begin, *self._beginning(claim))

    def arriving(self, claim: Claim, arrival: Arrival, *, ahead: bool = False) -> Question:
        """The question that `arrive` asks. ``ahead``: it is asked early, and the claim does not count as begun yet."""
        return Question(self._arrive, *self._arriving(claim, arrival, ahead=ahead))

    def claim_result_of(self, answer: Any) -> ClaimResult:
        """The answer to `beginning` or `arriving`, read."""
        return claim_result(answer)

    def commit_result_of(self, answer: Any, settlement: Settlement, repeated: bool) -> CommitResult | StoreError:
        """
        The answer to a commit that was sent ahead, read: the outcome, or the error if nothing was committed.

        ``repeated``: the commit was sent more than once.
        """
        if answer == _DONE:
            return _OK
        if isinstance(answer, Exception):
            return self._calls.failed(answer)
        outcome = commit_result(answer, settlement, repeated)
        return StoreError(FORGOTTEN) if outcome.outcome is Outcome.LOST else outcome

    def inbox(self, handler: str) -> str:
        """
        The consumer argument that lets the broker claim units for this handler as it takes messages: claim_copy.lua.

        It holds the inbox's retention in milliseconds, and the prefix of the handler's keys.
        """
        return f"{self._retention} {self._key(handler, '')}"

    def _in_flight(self, claim: Claim) -> str:
        owner = claim.token.rpartition(":")[0]
        return self._keys.inflight(owner) if owner else ""


def _check(answer: Any) -> None:
    # A server that refuses (a former master, say) is no longer the right one. Raising here drops the connection.
    error = refused(answer[0])
    if error is not None:
        raise error


def _check_some(claims: int, answer: Any) -> None:
    # One that is refused alone is not settled. If all are, for one reason, the server most likely takes no writes.
    if len(answer) < claims or all(refused(one) is not None for one in answer[:claims]):
        _check(answer)


def _result_of(answer: Any, settlement: Settlement, repeated: bool) -> CommitResult:
    error = refused(answer)
    if error is not None:
        logger.error("a claim was not settled: %s", error)
        return CommitResult(Outcome.LOST, repeated=repeated)
    return commit_result(answer, settlement, repeated)


_OK = CommitResult(Outcome.OK)
#: The answer to the commit of a handler that has announced nothing.
_DONE = [b"ok"]


def commit_result(answer: Any, settlement: Settlement, repeated: bool) -> CommitResult:
    """The outcome of a commit from the script's answer. ``repeated``: it was sent more than once."""
    if answer == _DONE:
        return _OK
    outcome, *reached = answer
    unheard = [message for message, count in zip(settlement.sent.values(), reached, strict=False) if not count]
    return CommitResult(Outcome(outcome.decode()), unheard=unheard, repeated=repeated)


def _placed(messages: Iterable[Message]) -> list[Any]:
    args: list[Any] = []
    for message in messages:
        to_one_queue = "1" if message.exchange == "" else "0"
        args += [to_one_queue, message.routing_key, os.urandom(16).hex(), head_of_event(message)]
    return args
