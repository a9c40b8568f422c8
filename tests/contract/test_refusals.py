"""What Redis refuses: the error says what to do about it, and tells an outage from a refusal of one call."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from click.testing import CliRunner
from redis import exceptions

from choreo import Event, PublishError, Service
from choreo.cli import choreo
from choreo.errors import StoreError
from choreo.local.server import EmbeddedServer
from choreo.redis_client.refusals import REMEDIES, code_of, explained, is_explained, is_outage
from choreo.store import Claim
from tests.unit.events import OrderPlaced

#: The code → commands that make the server refuse so.
REFUSALS: dict[str, list[str]] = {
    "OOM": ["CONFIG SET maxmemory 1"],
    "READONLY": ["REPLICAOF 127.0.0.1 1"],
    "NOREPLICAS": ["CONFIG SET min-replicas-to-write 1"],
    "NOAUTH": [],
    "NOPERM": ["ACL SETUSER default -@all +hello +auth +client +ping +select"],
}
AMENDS = [
    "CONFIG SET maxmemory 0",
    "REPLICAOF NO ONE",
    "CONFIG SET min-replicas-to-write 0",
]


class Refusing:
    """A server of its own, which refuses what it is told to."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.url = server.url
        first: Any = redis.Redis.from_url(server.url)
        first.execute_command("ACL", "SETUSER", "root", "on", ">x", "~*", "&*", "+@all")
        self.rules = next(rule for rule in first.acl_list() if "user default" in rule).split()[2:]
        self.root: Any = redis.Redis.from_url(self.url_of("root:x"))
        # A queue that hears the event, so that publishing must write.
        self.root.sadd("_kombu.binding.choreo.events", "parcel.packed\x06\x16parcel.packed\x06\x16q")

    def url_of(self, login: str) -> str:
        """The URL with another login; "" for none."""
        return f"redis://{login}{'@' * bool(login)}{self.url.rpartition('@')[2]}"

    def refuse(self, *commands: str) -> None:
        for command in commands:
            self.root.execute_command(*command.split())

    def make_amends(self) -> None:
        self.root.execute_command("ACL", "SETUSER", "default", *self.rules)
        self.refuse(*AMENDS)


@pytest.fixture(scope="module")
def server() -> Iterator[Refusing]:
    with EmbeddedServer() as embedded:
        yield Refusing(embedded)


@pytest.fixture(params=REFUSALS)
def code(request: pytest.FixtureRequest, server: Refusing) -> Iterator[str]:
    server.refuse(*REFUSALS[request.param])
    yield request.param
    server.make_amends()


def url_for(server: Refusing, code: str) -> str:
    return server.url_of("") if code == "NOAUTH" else server.url


def make_app(url: str, namespace: str, **settings: Any) -> Service:
    app = Service("payment", broker=url, config={"choreo_namespace": namespace, **settings}, set_as_current=False)

    @app.on(OrderPlaced)
    def charge(order: OrderPlaced) -> None: ...

    return app


@pytest.mark.parametrize("lane", [True, False])
def test_an_error_of_the_store_says_what_to_do(server: Refusing, code: str, namespace: str, lane: bool) -> None:
    store = make_app(url_for(server, code), namespace, choreo_fast_lane=lane).runtime.store

    for call in (lambda: store.begin(Claim("payment.charge", "e-1", "t")), lambda: store.tend("payment", 1.0)):
        with pytest.raises(StoreError) as raised:
            call()
        assert REMEDIES[code] in str(raised.value)
        assert raised.value.is_outage


def test_an_event_that_the_broker_refuses_says_what_to_do(server: Refusing, code: str) -> None:
    class ParcelPacked(Event):
        pass

    app = make_app(url_for(server, code), "")

    with pytest.raises(PublishError) as raised:  # noqa: PT012 - a server that has just become full takes one more
        for _ in range(3):
            app.publish(ParcelPacked())

    assert REMEDIES[code] in str(raised.value)


def test_the_command_line_does_not_say_start_it(server: Refusing, code: str) -> None:
    result = CliRunner().invoke(choreo, ["dead-letters", "--store", url_for(server, code), "list"])

    if code in ("OOM", "READONLY", "NOREPLICAS"):  # reading is allowed
        assert result.exit_code == 0
    else:
        assert REMEDIES[code] in result.output
        assert "Start it" not in result.output


def test_a_wrong_password_says_so(server: Refusing, namespace: str) -> None:
    app = make_app(server.url_of("nobody:wrong"), namespace)

    with pytest.raises(StoreError) as raised:
        app.runtime.store.ping()

    assert REMEDIES["WRONGPASS"] in str(raised.value)
    assert "wrong@" not in str(raised.value)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), "MISCONF"),
        (exceptions.BusyLoadingError("Redis is loading the dataset in memory"), "LOADING"),
        (exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), "OOM"),
        (exceptions.ResponseError("OOM command not allowed. script: 0, on @user_script:1."), "OOM"),
        (exceptions.AuthenticationError("Authentication required."), "NOAUTH"),
        (exceptions.AuthenticationError("invalid username-password pair or user is disabled."), "WRONGPASS"),
        (exceptions.ResponseError("MASTERDOWN Link with MASTER is down"), "MASTERDOWN"),
        (exceptions.ResponseError("BUSY Redis is busy running a script."), "BUSY"),
    ],
)
def test_an_error_has_its_code_also_without_redis_pys_help(error: Exception, code: str) -> None:
    assert code_of(error) == code
    assert is_outage(error)
    assert explained(error).endswith(REMEDIES[code])
    assert explained(exceptions.ConnectionError(explained(error))) == explained(error)
    assert is_explained(explained(error))


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (exceptions.ResponseError("ERR user_script:5: attempt to index a nil value"), False),
        (exceptions.DataError("Invalid input"), False),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), False),
        (exceptions.ConnectionError("Connection refused"), True),
        (exceptions.TimeoutError("Timeout reading from socket"), True),
        (OSError("broken"), True),
    ],
)
def test_an_outage_is_told_from_a_refusal_of_one_call(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage
    assert explained(error) == str(error)
