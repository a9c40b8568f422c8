"""
What has changed between two states of the code, and whom it hurts.

Each change of an event is judged in both directions: the readers of the old code read what is written from now on, as
they do while a deployment rolls; and the readers of the new code read what was written before, which may wait in a
queue, a schedule, a join or a dead letter. Only readers that read a field are hurt.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.cached import cached_property
from choreo.contracts.contract import Contract, Contracts, contracts_in
from choreo.contracts.reader import Answer, Judgement, Reader, readers_of, running_readers
from choreo.contracts.rules import RULES, WRITTEN_BEFORE, WRITTEN_NOW
from choreo.contracts.running import Running
from choreo.findings import NOTE, WARNING, Finding
from choreo.schemas.clash import Clash, Kind
from choreo.schemas.fit import clashes


@dataclass
class _Change:
    """One change of an event, with the readers that it hurts."""

    rule: str
    text: str
    path: str = ""
    #: The readers that it hurts, and the versions of old events that it concerns.
    readers: dict[str, None] = field(default_factory=dict)
    handlers: dict[str, None] = field(default_factory=dict)
    versions: set[int] = field(default_factory=set)


def changes(old: Contracts, new: Contracts, running: Running | None = None) -> Iterator[Finding]:
    """
    What changes from ``old`` to ``new``: one finding for each change, of the level of its rule.

    ``new`` is the code. With ``running``, the readers and publishers that run count as old ones.
    """
    for kind in sorted({*old.types, *new.types}):
        before, now = old.newest(kind), new.newest(kind)
        if now is None:
            yield from _removed(kind, old, new)
        elif before is None and not _running_versions(kind, running):
            yield _finding("event-added", now, f"version {now.version} is new")
        else:
            yield from _Event(before, now, old, new, running).findings()


def _removed(kind: str, old: Contracts, new: Contracts) -> Iterator[Finding]:
    hearing = [reader.name for reader in readers_of(kind, new.services) if reader.topic == kind]
    before = old.newest(kind)
    assert before is not None
    if hearing:
        yield _finding("event-removed", before, f"no class declares it any more; heard by {', '.join(hearing)}")
        return
    yield _finding("event-removed", before, "no class declares it any more, and no handler here hears it", level=NOTE)


class _Event:
    """One type of event, before and now."""

    def __init__(
        self, before: Contract | None, now: Contract, old: Contracts, new: Contracts, running: Running | None
    ) -> None:
        self.now, self.before = now, before
        self._kind, self._old, self._new, self._running = now.type, old, new, running
        self._changes: dict[tuple[str, str, str], _Change] = {}
        self._orders: dict[str, tuple[Reader, int]] = {}
        self._upcast: dict[int, None] = {}

    def findings(self) -> Iterator[Finding]:
        """All that is to be said of it."""
        for reader in self._readers_before():
            self._judge_now(reader)
        for reader in readers_of(self._kind, self._new.services):
            for contract in self._written_before():
                self._judge_before(reader, contract)
        yield from map(self._told, self._changes.values())
        yield from self._ordered()
        yield from self._of_versions()
        yield from self._unread()
        yield from self._announcers()

    # -- both directions ---------------------------------------------------------------------------------------------

    def _readers_before(self) -> Iterator[Reader]:
        yield from readers_of(self._kind, self._old.services)
        yield from self._running_readers

    @cached_property
    def _running_readers(self) -> list[Reader]:
        # A program without a worker hears nothing.
        releases = [one for one in self._running.releases if one.workers] if self._running else ()
        workers = [(one.service, one.version, one.workers) for one in releases]
        return list(running_readers(self._kind, workers))

    def _written_before(self) -> list[Contract]:
        """What may still wait: every version of which a file or a publisher that runs is known, but the one of now."""
        known = [*self._old.of(self._kind), *self._new.of(self._kind), *_running_versions(self._kind, self._running)]
        found: list[Contract] = []
        for contract in known:
            if all((contract.version, contract.schema) != (one.version, one.schema) for one in found):
                found.append(contract)
        return found

    def _judge_now(self, reader: Reader) -> None:
        """An old reader reads what is written from now on."""
        judged = reader.reads(self.now)
        before = reader.reads(self.before) if self.before else Judgement(Answer.YES)
        if judged.answer is Answer.NO and self._reads_both(reader):
            if not self._is_deployed(reader.service.service):
                self._orders.setdefault(reader.service.service, (reader, self.now.version))
            return
        if judged.versions and not before.versions:
            self._add("version-unread", "", _unread_version(self.now, judged), reader)
        for clash in judged.clashes:
            if clash not in before.clashes:
                self._clash(WRITTEN_NOW, clash, reader)

    def _is_deployed(self, service: str) -> bool:
        """True if workers of this service run, and each of its handlers that runs reads what is written from now on."""
        its = [reader for reader in self._running_readers if reader.service.service == service]
        return bool(its) and all(reader.reads(self.now).answer is Answer.YES for reader in its)

    def _reads_both(self, old: Reader) -> bool:
        """True if the reader's new code declares how it reads the version of before, and reads that of now as well."""
        new = next((one for one in readers_of(self._kind, self._new.services) if one.name == old.name), None)
        if new is None or self.before is None:
            return False
        judged = new.reads(self.before)
        return bool(judged.upcast_from) and new.reads(self.now).answer is Answer.YES

    def _judge_before(self, reader: Reader, contract: Contract) -> None:
        """A new reader reads what was written before."""
        judged = reader.reads(contract)
        if judged.upcast_from:
            self._upcast[judged.upcast_from] = None
        if judged.versions:
            self._add("upcaster-missing", "", _unread_version(contract, judged), reader, contract)
        known = self._known_before(reader, contract)
        for clash in judged.fatal:
            if clash not in known:
                self._clash(WRITTEN_BEFORE, clash, reader, contract)

    def _known_before(self, reader: Reader, contract: Contract) -> Sequence[Clash]:
        """What the same handler of the old code did not take either."""
        old = next((one for one in readers_of(self._kind, self._old.services) if one.name == reader.name), None)
        return old.reads(contract).clashes if old is not None else ()

    def _clash(self, rules: Mapping[Kind, str], clash: Clash, reader: Reader, contract: Contract | None = None) -> None:
        rule = rules[clash.kind]
        now = self.now.schema.get("properties", {})
        if clash.kind is Kind.MISSING and contract is None:
            rule = "field-optional" if clash.written else rule
            renamed = self._new_name(clash.path) if rule == "field-removed" else ""
            rule = "field-renamed" if renamed else rule
            self._add(rule, clash.path, f"{clash.path} {f'renamed to {renamed}' if renamed else _SAID[rule]}", reader)
            return
        if clash.kind is Kind.MISSING and clash.path not in now and contract is not None and contract != self.now:
            # It is the other side of a field that was removed or renamed: one line is enough.
            rule = "field-required"
        self._add(rule, clash.path, _worded(rule, clash), reader, contract)

    def _new_name(self, name: str) -> str:
        """The new name of a field: as an upcaster says, or that of the only new field with its schema; else ""."""
        for step in self.now.model.upcasters:
            if name in step.get("renamed", {}):
                return str(step["renamed"][name])
        before = self.before.schema.get("properties", {}) if self.before else {}
        now = self.now.schema.get("properties", {})
        added = [one for one in now if one not in before and now[one] == before.get(name)]
        gone = [one for one in before if one not in now and before[one] == before.get(name)]
        return added[0] if len(added) == len(gone) == 1 and gone == [name] else ""

    def _add(self, rule: str, path: str, text: str, reader: Reader, contract: Contract | None = None) -> None:
        # Of what has another type in both directions, one line is enough.
        told = "" if rule in ("type-changed", "format-changed", "not-judged") else text
        change = self._changes.setdefault((rule, path, told), _Change(rule, text, path))
        change.readers[reader.told] = change.handlers[reader.name] = None
        if contract is not None:
            change.versions.add(contract.version)

    def _told(self, change: _Change) -> Finding:
        text = f"{change.text}; read by {', '.join(change.readers)}"
        waiting = self._waiting(change)
        if waiting:
            text += f" · {'; '.join(waiting)}"
        facts = {"field": change.path, "readers": list(change.readers), "waiting": waiting}
        return _finding(change.rule, self.now, text, facts=facts)

    def _waiting(self, change: _Change) -> list[str]:
        """What waits for the readers that it hurts, of the versions that they do not read any more."""
        if self._running is None or not change.versions:
            return []
        found = []
        for name in change.handlers:
            known = self._running.waits(name, self._kind)
            there = [one for one in known if one.version is None or one.version in change.versions]
            said = ", ".join(map(str, there)) or "0 in backlog"
            found.append(said if len(change.handlers) == 1 else f"{name}: {said}")
        return found

    # -- what hurts nobody -------------------------------------------------------------------------------------------

    def _ordered(self) -> Iterator[Finding]:
        if not self._orders:
            return
        readers = ", ".join(sorted(self._orders))
        places = self._places()
        publishers = sorted({name.partition(".")[0] for name in self._new.announcers(self._kind)})
        after = f" before {', '.join(publishers)}" if publishers else " first"
        text = (
            f"version {self.now.version} is not read by {readers} of before; here it is, and {self._former()} through "
            f"{places}"
        )
        yield _finding("deploy-order", self.now, text, fix=f"deploy {readers}{after}", facts={"services": readers})

    def _former(self) -> str:
        return f"version {self.before.version}" if self.before else "the former one"

    def _places(self) -> str:
        """The upcasters that take the older versions, with their places."""
        return ", ".join(
            f"Upcast({version})" + (f" at {place}" if (place := self._new.upcasters.get((self._kind, version))) else "")
            for version in sorted(self._upcast)
        )

    def _of_versions(self) -> Iterator[Finding]:
        if self._upcast and not self._orders:
            versions = " and ".join(map(str, sorted(self._upcast)))
            yield _finding("version-upcast", self.now, f"version {versions} is read through {self._places()}")
        if self.before is None:
            return
        if self.now.version < self.before.version:
            text = f"version {self.before.version} became version {self.now.version}"
            yield _finding("version-lowered", self.now, text)
        if self.now.version == self.before.version and self._is_changed():
            text = f"its fields changed, and it still is version {self.now.version}"
            yield _finding("version-unchanged", self.now, text)

    def _is_changed(self) -> bool:
        """True if a reader of the whole event would be hurt, in one direction at least."""
        return any(clash.is_fatal for clash in self._whole())

    def _whole(self) -> Iterator[Clash]:
        """What hurts readers of the whole event, the class of before and that of now."""
        if self.before is not None:
            yield from clashes(self.now.schema, self.before.model.read)
            yield from clashes(self.before.schema, self.now.model.read)

    def _unread(self) -> Iterator[Finding]:
        """What would hurt readers of the whole event, and hurts no known one."""
        if self.before is None or self.before.version != self.now.version:
            return
        told = {change.path for change in self._changes.values()}
        level, who = (NOTE, "nobody reads it") if self._running else (WARNING, "no reader here reads it")
        for rules, found in (
            (WRITTEN_NOW, clashes(self.now.schema, self.before.model.read)),
            (WRITTEN_BEFORE, clashes(self.before.schema, self.now.model.read)),
        ):
            for clash in found:
                if clash.is_fatal and clash.path not in told:
                    told.add(clash.path)
                    rule = rules[clash.kind]
                    text = f"{_worded(rule, clash)}; {who}"
                    fix = "" if self._running else "--live asks the platform who reads it"
                    yield _finding(rule, self.now, text, level=level, fix=fix, facts={"field": clash.path})

    def _announcers(self) -> Iterator[Finding]:
        was = list(self._old.announcers(self._kind))
        hearing = [one.name for one in readers_of(self._kind, self._new.services) if one.topic == self._kind]
        if was and hearing and not list(self._new.announcers(self._kind)):
            text = f"nobody here announces it any more ({', '.join(was)} did); heard by {', '.join(hearing)}"
            yield _finding("announcer-removed", self.now, text)


def _running_versions(kind: str, running: Running | None) -> list[Contract]:
    """The versions that programs announce which run."""
    if running is None:
        return []
    return [
        contract
        for release in running.releases
        if any(kind in (types or ()) for _, _, types in release.service.announcers())
        for contract in contracts_in(release.service)
        if contract.type == kind
    ]


def _unread_version(contract: Contract, judged: Judgement) -> str:
    known = " and ".join(map(str, judged.versions))
    return f"version {contract.version} is not read, only {known}"


_SAID = {"field-removed": "removed", "field-optional": "may be missing now", "field-required": "is needed now"}


def _worded(rule: str, clash: Clash) -> str:
    """A change in words: ``currency may be "chf" now``."""
    what = clash.path or "the event"
    words = {
        "field-removed": f"{what} removed",
        "field-required": f"{what} is needed now, and older events {'may lack' if clash.written else 'lack'} it",
        "field-refused": f"{what} is written, and unknown fields are refused",
        "type-changed": f"{what} is {clash.written} on one side and {clash.read} on the other",
        "format-changed": f"{what} is {clash.written} on one side and {clash.read} on the other",
        "null-added": f"{what} may be null now",
        "null-refused": f"{what} takes no null any more",
        "value-added": f"{what} may be {clash.written} now",
        "value-removed": f"{what} takes no {clash.written} any more",
        "bound-widened": f"{what} is {clash.written} now, and was {clash.read}",
        "bound-tightened": f"{what} is {clash.read} now, and was {clash.written}",
        "default-read": f"{what} removed, so that a default is read",
    }
    return words.get(rule, clash.text)


def _finding(
    rule: str,
    contract: Contract,
    text: str,
    *,
    level: str = "",
    fix: str = "",
    facts: Mapping[str, Any] | None = None,
) -> Finding:
    file, _, line = contract.place.rpartition(":")
    known = RULES[rule]
    return Finding(
        rule,
        level or known.level,
        contract.type,
        text,
        fix or ("" if level == NOTE else known.fix),
        file,
        int(line) if line.isdigit() else 0,
        facts={"version": contract.version, **(facts or {})},
    )
