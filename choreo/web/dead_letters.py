"""The page Dead letters: groups of one cause, the letters of a group, and one letter; replays and discards."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from choreo.delivery.dead_letter import UNSAID, DeadLetter
from choreo.errors import DeadLetterError
from choreo.operate.which import Group
from choreo.service import Service
from choreo.web.change import Change
from choreo.web.jobs import Job, Jobs, State, Step
from choreo.web.page import Page

#: Letters on a page, and groups.
PAGE, GROUPS = 50, 200
#: The most characters of a message that cannot be read.
MOST_BODY = 20_000
#: Choices of the filter: what is shown → seconds.
SINCE = {"": 0, "10 minutes": 600, "1 hour": 3600, "1 day": 86_400, "7 days": 604_800}
#: Choices of the rate: letters a second. 0: as fast as it goes.
RATES = (1, 5, 20, 100, 0)


@dataclass(frozen=True)
class Filter:
    """Which letters are meant."""

    #: A service or a handler; "" for all.
    name: str = ""
    #: The name of an error's type; "" for all.
    cause: str = ""
    #: One of `SINCE`.
    since: str = ""
    #: The subject of an event; "" for all.
    subject: str = ""

    def arguments(self, group: str = "") -> dict[str, Any]:
        """The arguments of `DeadLetters.groups` and its siblings, beside the names. ``group`` is the id of one."""
        seconds = SINCE[self.since]
        since = timedelta(seconds=seconds) if seconds else None
        return {"cause": group or self.cause, "since": since, "subject": self.subject}

    @property
    def names(self) -> tuple[str, ...]:
        """The handlers or services, for the same."""
        return (self.name,) if self.name else ()

    @property
    def query(self) -> dict[str, str]:
        """The query of an address with this filter."""
        return {"handler": self.name, "cause": self.cause, "since": self.since, "subject": self.subject}

    def words(self) -> list[str]:
        """The options of the command line for the same."""
        told = [*self.names]
        told += ["--cause", self.cause] if self.cause else []
        told += ["--since", f"{SINCE[self.since]}s"] if self.since else []
        return told + (["--subject", self.subject] if self.subject else [])

    def __bool__(self) -> bool:
        return bool(self.name or self.cause or self.since or self.subject)


class LettersPage(Page):
    """The base of the pages about dead letters."""

    title = "Dead letters"

    @property
    def filter(self) -> Filter:
        """What the request filters by."""
        since = self.text("since")
        return Filter(self.text("handler"), self.text("cause"), since if since in SINCE else "", self.text("subject"))

    @property
    def jobs(self) -> Jobs:
        """The jobs of this server."""
        return self.site.jobs

    def show(self, template: str, **facts: Any) -> None:
        """Send the page. Every template about dead letters knows the time, the jobs and the filter."""
        super().show(template, now=time.time(), jobs=list(self.jobs), filter=self.filter, sinces=list(SINCE), **facts)


class GroupsPage(LettersPage):
    """All groups of dead letters."""

    paths = (r"/dead-letters",)

    async def get(self) -> None:
        """Show the groups that the filter lets through."""
        letters, chosen = self.site.app.dead_letters, self.filter
        groups = await self.ask(lambda: letters.groups(*chosen.names, **chosen.arguments()))
        errors = sorted({group.error for group in groups if group.error})
        handlers = sorted({group.handler for group in groups})
        self.show("letter_groups.html", groups=groups, most=GROUPS, errors=errors, handlers=handlers)


class GroupPage(LettersPage):
    """The letters of one group, or of all that the filter lets through."""

    paths = (r"/dead-letters/groups/([0-9a-f]{4,16})", r"/dead-letters/list")

    async def get(self, group_id: str = "") -> None:
        """Show a page of letters, oldest first."""
        chosen, after = self.filter, self.text("after")
        group, letters, more = await self.ask(_page_of(self.site.app, chosen, group_id, after))
        if group_id and group is None:
            self.set_status(404)
        job = self.jobs.of(group.digest) if group is not None else None
        changes = _group_changes(group, chosen, self._place(group_id, chosen)) if group else ()
        facts = {"group": group, "letters": letters, "running": job, "rates": RATES, "changes": changes}
        following = self._place(group_id, chosen, more) if more else ""
        self.show("letter_group.html", **facts, group_id=group_id, next_page=following)

    async def post(self, group_id: str = "") -> None:
        """Replay or discard the group, as far as the filter lets it through: ``do``."""
        reason, do, chosen = self.reason(), self.text("do"), self.filter
        if not group_id or do not in ("replay", "discard"):
            self.refuse("Say what to do with a group: replay or discard.")
        group = await self.ask(lambda: _group_of(self.site.app, group_id, chosen))
        if group is None:
            self.missing(f"There is no group {group_id} of dead letters any more.")
        steps, asks = self._steps(do, group, chosen, reason)
        verb = "Replay" if do == "replay" else "Discard"
        self.jobs.start(
            Job(f"{verb} of {group.handler}: {group.cause}", group.digest, reason, self.actor), steps, asks=asks
        )
        note = await self.paused_note(group.handler) if do == "replay" else ""
        told = f"{verb} of {group.count:,} dead letters has begun.{note}"
        self.changed(told, self._place(group.id, chosen), reason=reason)

    def _steps(self, do: str, group: Group, chosen: Filter, reason: str) -> tuple[Callable[[], Iterator[Step]], bool]:
        """What the job does, and True if it asks after the first letter."""
        letters, who = self.site.app.dead_letters, self.actor
        about = chosen.arguments() | {"cause": "", "names": chosen.names, "reason": reason, "who": who}
        if do == "discard":
            return lambda: letters.discard_group(group.digest, **about), False
        rate, canary = self.number("rate", 0, 10_000), self.text("canary") == "1"
        to = self.text("to") or None
        return lambda: letters.replay_group(group.digest, **about, to=to, rate=rate or None, canary=canary), canary

    def _place(self, group_id: str, chosen: Filter, after: str = "") -> str:
        """The address of this page."""
        path = ("groups", group_id) if group_id else ("list",)
        return self.site.link("dead-letters", *path, **chosen.query, after=after)


class JobPage(LettersPage):
    """Answers what a job asks, or stops it."""

    paths = (r"/dead-letters/jobs/([0-9a-f]{8})",)

    async def get(self, job_id: str) -> None:  # noqa: ARG002
        """Lead to the page that shows all jobs."""
        self.redirect(self.site.link("dead-letters"))

    async def post(self, job_id: str) -> None:
        """Go on, or stop: ``do``. The reason is that of the job."""
        self.check_changes()
        job, do = self.jobs.get(job_id), self.text("do")
        if job is None:
            self.missing("This job is not known any more.")
        if do == "stop":
            job.stop()
        elif do == "go on":
            if job.state is not State.ASKING:
                self.refuse(f"{job.what} asks nothing: look at it again.")
            job.go_on()
        else:
            self.refuse("Say what the job shall do: go on or stop.")
        told = "goes on" if do == "go on" else "stops"
        self.changed(f"{job.what} {told}.", self.site.link("dead-letters"), reason=job.reason)


class LetterPage(LettersPage):
    """One dead letter."""

    paths = (r"/dead-letters/([0-9a-f]{10})",)

    async def get(self, letter_id: str) -> None:
        """Show a letter, and what a person can do with it."""
        letter = await self.ask(lambda: _letter_of(self.site.app, letter_id))
        if letter is None:
            self.set_status(404)
            self.show("letter_gone.html", letter_id=letter_id)
            return
        letter = letter.redacted
        action = self.site.link("dead-letters", letter_id)
        events = [(one, json.dumps(one.data, indent=2, ensure_ascii=False, default=str)) for one in letter.envelopes]
        body = "" if events else letter.message.body[:MOST_BODY].decode(errors="backslashreplace")
        self.show(
            "letter.html",
            letter=letter,
            events=events,
            unsaid=UNSAID,
            body=body,
            changes=_letter_changes(letter, action),
            can_edit=self.site.app.conf.get("choreo_allow_edit") is True and len(events) == 1,
            action=action,
        )

    async def post(self, letter_id: str) -> None:
        """Replay, discard or edit the letter: ``do``."""
        reason, do, letters = self.reason(), self.text("do"), self.site.app.dead_letters
        about = {"reason": reason, "who": self.actor}
        if do == "replay":
            to = self.text("to") or None
            letter = await self.ask(lambda: letters.replay(letter_id, to, **about))
            told = f"{letter} goes to {to or letter.handler} again.{await self.paused_note(to or letter.handler)}"
        elif do == "discard":
            letter = await self.ask(lambda: letters.discard(letter_id, **about))
            told = f"Dead letter {letter_id} ({letter}) is discarded."
        elif do == "edit":
            data = self._data()
            letter = await self.ask(lambda: letters.get(letter_id))
            event = await self.ask(lambda: letters.edit(letter_id, data, **about))
            note = await self.paused_note(letter.handler)
            told = f"{event} goes to {letter.handler} in place of dead letter {letter_id}.{note}"
        else:
            self.refuse("Say what to do with the letter: replay, discard or edit.")
        self.changed(told, self._next(letter), reason=reason)

    def _data(self) -> dict[str, Any]:
        """The fields of the edited event."""
        try:
            data = json.loads(self.text("data"))
        except ValueError as error:
            self.refuse(f"The fields are no JSON: {error}")
        if not isinstance(data, dict):
            self.refuse('The fields of an event are a JSON object, such as {"total_cents": 500}.')
        return data

    def _next(self, letter: DeadLetter) -> str:
        """The page on which one sees what becomes of it."""
        return self.site.link("stories", q=letter.subject) if letter.subject else self.site.link("dead-letters")


def _page_of(
    app: Service, chosen: Filter, group_id: str, after: str
) -> Callable[[], tuple[Group | None, Sequence[DeadLetter], str]]:
    def look() -> tuple[Group | None, Sequence[DeadLetter], str]:
        group = _group_of(app, group_id, chosen) if group_id else None
        if group_id and group is None:
            return None, (), ""
        about = chosen.arguments(group.digest if group else "")
        letters, more = app.dead_letters.page(*chosen.names, **about, limit=PAGE, after=after)
        return group, letters, more

    return look


def _group_of(app: Service, group_id: str, chosen: Filter) -> Group | None:
    """The group with this id, as far as the filter lets it through."""
    found = app.dead_letters.groups(*chosen.names, **chosen.arguments(group_id))
    return found[0] if found else None


def _letter_of(app: Service, letter_id: str) -> DeadLetter | None:
    try:
        return app.dead_letters.get(letter_id)
    except DeadLetterError:
        return None


def _group_changes(group: Group, chosen: Filter, action: str) -> Sequence[Change]:
    """Replay and discard of a group."""
    words = replace(chosen, cause="").words()
    command = ("choreo", "dead-letters")
    return (
        Change(
            "Replay them",
            action,
            (*command, "replay", group.id, *words, "--canary", "--rate", "20/s", "--reason", "REASON"),
            f"Each event goes to {group.handler} once more, and to no other handler.",
        ),
        Change(
            "Discard them",
            action,
            (*command, "discard", group.id, *words, "--reason", "REASON"),
            f"These {group.count:,} letters are deleted for good. Their events are kept nowhere else.",
            {"do": "discard", **{name: value for name, value in chosen.query.items() if value}},
            is_final=True,
        ),
    )


def _letter_changes(letter: DeadLetter, action: str) -> Sequence[Change]:
    command = ("choreo", "dead-letters")
    return (
        Change(
            "Replay it",
            action,
            (*command, "replay", letter.id, "--reason", "REASON"),
            f"The event goes to {letter.handler} once more, and to no other handler. It has all its attempts again.",
            {"do": "replay"},
            is_open=True,
        ),
        Change(
            "Discard it",
            action,
            (*command, "discard", letter.id, "--reason", "REASON"),
            "The letter is deleted for good. Its event is kept nowhere else.",
            {"do": "discard"},
            is_final=True,
        ),
    )
