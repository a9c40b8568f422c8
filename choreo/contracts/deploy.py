"""May these services be deployed beside what runs? Judged for each pair of a consumer and a provider of events."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from choreo.contracts.contract import Contract, Contracts, contracts_in
from choreo.contracts.reader import Answer, Judgement, Reader, readers_of, running_readers
from choreo.contracts.rules import RULES, WRITTEN_BEFORE, WRITTEN_NOW
from choreo.contracts.running import Release, Running
from choreo.declare.description import ServiceDescription
from choreo.events.naming import OWN_TYPES
from choreo.events.patterns import matches

#: The worst last.
_ORDER = (Answer.YES, Answer.UNKNOWN, Answer.NO)
#: The provider of events that wait already.
WAITING = "what waits"


@dataclass(frozen=True)
class Pair:
    """A consumer and a provider of events, of which one is to be deployed, and the other one runs."""

    consumer: str
    #: "": unknown.
    consumer_version: str
    #: "" if nobody provides the events.
    provider: str
    provider_version: str
    verdict: Answer
    #: Why it is not "yes", in sentences.
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def pairs(new: Contracts, running: Running, only: Sequence[str] = ()) -> list[Pair]:
    """
    The verdict for each pair, sorted: of all services of the code, or of ``only`` these.

    A pair is "yes" if the one reads all that the other announces, and what of it still waits. It is "unknown" if that
    cannot be told.
    """
    chosen = [service for service in new.services if not only or service.service in only]
    found: dict[tuple[str, str, str, str], dict[str, Answer]] = {}
    for service in chosen:
        for pair, answer, reason in (*_providing(service, new, running), *_consuming(service, new, running)):
            found.setdefault(pair, {})[reason] = answer
    return [_pair(key, reasons) for key, reasons in sorted(found.items())]


#: Consumer, its version, provider, its version.
_Key = tuple[str, str, str, str]
_Said = tuple[_Key, Answer, str]


def _pair(key: _Key, reasons: dict[str, Answer]) -> Pair:
    worst = max(reasons.values(), key=_ORDER.index)
    # The worst reasons first.
    told = sorted((reason for reason in reasons if reason), key=lambda one: -_ORDER.index(reasons[one]))
    return Pair(*key, worst, tuple(told))


def _providing(service: ServiceDescription, new: Contracts, running: Running) -> Iterator[_Said]:
    """What the service would announce, and those who run and hear it."""
    version = new.releases.get(service.service, "")
    for contract in _announced(service, new):
        for release in running.releases:
            if not release.workers:
                continue
            for reader in running_readers(contract.type, [(release.service, release.version, release.workers)]):
                key = (release.service.service, release.version, service.service, version)
                fix = _first(reader, contract, new)
                yield key, *_said(reader, reader.reads(contract), contract, f"{release.name} still reads", fix)


def _consuming(service: ServiceDescription, new: Contracts, running: Running) -> Iterator[_Said]:
    """What the service would hear, and those who run and announce it; and what waits for it."""
    own, version = service.service, new.releases.get(service.service, "")
    for kind in _heard(service, running):
        providers = [release for release in running.releases if _announces(release.service, kind)]
        for reader in readers_of(kind, [service]):
            for release in providers:
                key = (own, version, release.service.service, release.version)
                for contract in _contracts_of(release, kind):
                    yield key, *_said(reader, reader.reads(contract), contract, f"{own} reads")
                if not _contracts_of(release, kind):
                    yield key, *_untold(reader, release)
            if not providers and reader.topic == kind:
                yield (own, version, "", ""), Answer.UNKNOWN, _nobody(kind, service, new)
            yield from _waiting(reader, new, running, (own, version, WAITING, ""))


def _announced(service: ServiceDescription, new: Contracts) -> list[Contract]:
    types = {kind for _, _, names in service.announcers() for kind in names or ()}
    found = [new.newest(kind) for kind in sorted(types)]
    return [contract for contract in found if contract is not None]


def _heard(service: ServiceDescription, running: Running) -> list[str]:
    """The types that it hears: those that it names, and of its patterns what somebody announces who runs."""
    told = {
        kind for release in running.releases for _, _, names in release.service.announcers() for kind in names or ()
    }
    topics = {topic for handler in service.handlers for topic in handler.hears if topic not in handler.unless}
    named = {topic for topic in topics if not {"*", "#"} & set(topic.split("."))}
    return sorted((named | {kind for kind in told if any(matches(topic, kind) for topic in topics)}) - OWN_TYPES)


def _announces(service: ServiceDescription, kind: str) -> bool:
    return any(kind in (names or ()) for _, _, names in service.announcers())


def _contracts_of(release: Release, kind: str) -> list[Contract]:
    """What a release writes of this type: its newest class."""
    found = sorted((one for one in contracts_in(release.service) if one.type == kind), key=lambda one: one.version)
    return found[-1:]


def _said(reader: Reader, judged: Judgement, contract: Contract, who: str, fix: str = "") -> tuple[Answer, str]:
    """The verdict, with a sentence and the way out unless it is "yes". ``fix``: a better one than that of the rule."""
    rules = WRITTEN_NOW if reader.workers else WRITTEN_BEFORE
    if judged.answer is Answer.YES:
        return Answer.YES, ""
    if judged.answer is Answer.UNKNOWN:
        return Answer.UNKNOWN, f"{reader.told} does not tell how it reads {contract.type}: an older choreo describes it"
    if judged.versions:
        known = " and ".join(map(str, judged.versions))
        rule = "version-unread" if reader.workers else "upcaster-missing"
        said = f"{who} {contract.type} of version {known} only, not {contract.version} ({reader.name})"
        return Answer.NO, f"{said} · fix: {fix or RULES[rule].fix}"
    told = ", ".join(dict.fromkeys(f"`{clash.path}`" for clash in judged.fatal))
    first = judged.fatal[0]
    said = f"{who} {told} of {contract.type} ({reader.name}): {first.text}"
    return Answer.NO, f"{said} · fix: {fix or RULES[rules[first.kind]].fix}"


def _first(reader: Reader, contract: Contract, new: Contracts) -> str:
    """The way out for a reader that runs: its new code, if that reads what the publisher would announce."""
    own = next((one for one in readers_of(contract.type, new.services) if one.name == reader.name), None)
    reads = own is not None and own.reads(contract).answer is Answer.YES
    return f"deploy {reader.service.service} of this checkout first" if reads else ""


def _untold(reader: Reader, release: Release) -> tuple[Answer, str]:
    if not reader.models:
        return Answer.YES, ""  # whatever is in it
    return Answer.UNKNOWN, f"{release.name} does not tell the fields of {reader.event}: an older choreo describes it"


def _nobody(kind: str, service: ServiceDescription, new: Contracts) -> str:
    others = sorted({name.partition(".")[0] for name in new.announcers(kind)} - {service.service})
    way_out = f"; deploy {', '.join(others)}" if others else ", and no other code here does"
    return f"nobody who runs announces {kind}{way_out}"


def _waiting(reader: Reader, new: Contracts, running: Running, key: _Key) -> Iterator[_Said]:
    """What of an event waits for a handler already, in versions that it does not read."""
    # Publishers that run may write a version with other fields than this checkout has: both count.
    known = [*_live(reader.event, running.releases), *new.of(reader.event)]
    for waiting in running.waits(reader.name, reader.event):
        contracts = [one for one in known if waiting.version in (None, one.version)]
        said = [
            _said(reader, reader.reads(contract), contract, f"{reader.service.service} reads") for contract in contracts
        ]
        is_told = _are_all(contracts) and all(answer is Answer.YES for answer, _ in said)
        if reader.models and not (is_told if waiting.version is None else contracts):
            why = "no contract file tells its fields" if waiting.version else "its queue does not tell"
            yield key, Answer.UNKNOWN, f"{reader.name}: {reader.event}, {waiting}: {why}"
            continue
        for answer, reason in said or [(Answer.YES, "")]:
            yield key, answer, f"{waiting}: {reason}" if reason else ""


def _are_all(contracts: Iterable[Contract]) -> bool:
    """True if these are all versions of an event, from the first one on: what waits is of one of them."""
    versions = {contract.version for contract in contracts}
    return bool(versions) and versions == set(range(1, max(versions) + 1))


def _live(kind: str, releases: Iterable[Release]) -> Iterator[Contract]:
    for release in releases:
        if _announces(release.service, kind):
            yield from _contracts_of(release, kind)
