"""The page on which a handler handles an event again: it says first what that means."""

from choreo.observe.cause import command
from choreo.operate.rerun import Plan
from choreo.store.runs import Result, Run
from choreo.web.page import Page

#: How a run ended that can be made again. A failed one has a retry or a dead letter.
_ENDED = (Result.DONE, Result.TIMED_OUT, Result.FIRED)


class RerunPage(Page):
    """One run that may be made again."""

    title = "Stories"
    paths = (r"/rerun/([^/]+)/([^/]+)",)

    async def get(self, handler: str, event: str) -> None:
        """Say what it means that this handler handles this event again."""
        plan = await self.ask(lambda: self.site.app.reruns.plan(handler, event))
        self.show("rerun.html", plan=plan, command=command("choreo", "rerun", handler, event, "--reason", "REASON"))

    async def post(self, handler: str, event: str) -> None:
        """Let the handler handle the event again."""
        reason, is_new, who = self.reason(), self.text("new_key") == "1", self.actor
        reruns = self.site.app.reruns

        def run() -> Plan:
            return reruns.run(reruns.plan(handler, event), new_key=is_new, reason=reason, who=who)

        plan = await self.ask(run)
        back = self.site.link("stories", q=plan.event.subject or plan.event.correlation_id)
        told = f"{handler}: runs again for {plan.event.subject or event}.{await self.paused_note(handler)}"
        self.changed(told, back, reason=reason)


def can_run_again(run: Run) -> bool:
    """True if a run has ended and can be made again."""
    return run.result in _ENDED
