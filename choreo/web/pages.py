"""All pages, in the order of their tabs."""

from choreo.web.dead_letters import GroupPage, GroupsPage, JobPage, LetterPage
from choreo.web.flow import FlowPage, HandlerPage
from choreo.web.joins import JoinPage, JoinsPage
from choreo.web.map import MapPage
from choreo.web.page import Page
from choreo.web.rerun import RerunPage
from choreo.web.schedule import EntryPage
from choreo.web.stories import StoriesPage

#: The pages with a tab.
TABS: tuple[type[Page], ...] = (
    FlowPage,
    MapPage,
    StoriesPage,
    JoinsPage,
    GroupsPage,
)
#: The pages without one.
OTHERS: tuple[type[Page], ...] = (
    HandlerPage,
    JoinPage,
    GroupPage,
    LetterPage,
    JobPage,
    EntryPage,
    RerunPage,
)

Page.tabs = TABS
