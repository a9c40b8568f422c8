"""
Contract files: a directory with a JSON Schema for each version of an event, and a file for each service.

::

    contracts/
      events/payment.charged.v1.json    what its publishers write; x-choreo has its type and version
      services/loyalty.json             what the service hears, announces and reads
      asyncapi.json                     the whole as an AsyncAPI document

Everything is sorted, and has neither lines of code nor times in it: it changes when a contract does.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from choreo.contracts.asyncapi import asyncapi
from choreo.contracts.contract import Contract, ContractError, Contracts
from choreo.declare.description import ModelDescription, ServiceDescription

#: The version of the files. A change that older readers would misunderstand raises it.
FORMAT = 1
#: What a JSON Schema of pydantic is.
DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "asyncapi.json"
_EVENTS, _SERVICES = "events", "services"
#: What a contract is of the description of a handler; and of a join.
_HANDLER = ("name", "hears", "announces", "on_timeout", "reads", "versions", "models")
_JOIN = ("parts", "several", "keys", "unless", "story", "undo")


def files_of(contracts: Contracts, title: str) -> dict[str, str]:
    """The files of these contracts: path in the directory → text."""
    found = {f"{_EVENTS}/{one.type}.v{one.version}.json": _event(one) for one in contracts.events}
    found |= {f"{_SERVICES}/{service.service}.json": _service(service) for service in contracts.services}
    return {name: f"{_text(record)}\n" for name, record in {**found, ASYNCAPI: asyncapi(contracts, title)}.items()}


def read_folder(directory: Path) -> Contracts:
    """Read contract files. Raises `ContractError` if there are none, or one of them is no contract file."""
    files = {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8") for path in directory.glob("*/*.json")
    }
    return read_files(files, str(directory))


def read_files(files: Mapping[str, str], origin: str) -> Contracts:
    """Read contract files: path in the directory → text. Raises as `read_folder` does."""
    events = [_contract(name, text) for name, text in sorted(files.items()) if name.startswith(f"{_EVENTS}/")]
    services = [_described(name, text) for name, text in sorted(files.items()) if name.startswith(f"{_SERVICES}/")]
    if not events and not services:
        raise ContractError(f"{origin} has no contract files. Write them: `choreo events write`.")
    return Contracts(origin, events, services)


def stale(wanted: Mapping[str, str], directory: Path, kept: Iterable[str]) -> dict[str, str]:
    """Path → "missing", "changed" or "unknown" (no code declares it) of the files that are not as they should be."""
    known = set(kept)
    there = {
        path.relative_to(directory).as_posix(): path.read_text(encoding="utf-8") for path in sorted(_in(directory))
    }
    found = {name: "missing" if name not in there else "changed" for name in wanted if there.get(name) != wanted[name]}
    return found | {name: "unknown" for name in there if name not in wanted and name not in known}


def older(contracts: Contracts, directory: Path) -> list[Contract]:
    """The versions of the events of these contracts of which there are files, and no code any more."""
    own = {(one.type, one.version) for one in contracts.events}
    files = {f"{_EVENTS}/{path.name}": path.read_text(encoding="utf-8") for path in directory.glob(f"{_EVENTS}/*.json")}
    found = [_contract(name, text) for name, text in sorted(files.items())]
    return [
        one
        for one in found
        if (one.type, one.version) not in own
        and (newest := contracts.newest(one.type)) is not None
        and one.version < newest.version
    ]


def file_of(contract: Contract) -> str:
    """The path of its file in the directory."""
    return f"{_EVENTS}/{contract.type}.v{contract.version}.json"


def _in(directory: Path) -> Iterator[Path]:
    yield from directory.glob(f"{_EVENTS}/*.json")
    yield from directory.glob(f"{_SERVICES}/*.json")
    yield from directory.glob(ASYNCAPI)


def _event(contract: Contract) -> dict[str, Any]:
    own: dict[str, Any] = {"format": FORMAT, "type": contract.type, "version": contract.version}
    own |= {"class": contract.model.name, "read": contract.model.read}
    own |= {"readable_by": contract.model.readable_by} if contract.model.readable_by else {}
    own |= {"upcasters": [dict(step) for step in contract.model.upcasters]} if contract.model.upcasters else {}
    about = {"title": contract.type} | ({"description": contract.doc} if contract.doc else {})
    return {"$schema": DIALECT, **about, **contract.schema, "x-choreo": own}


def _contract(name: str, text: str) -> Contract:
    read = _read(name, text, "x-choreo")
    own = read.pop("x-choreo")
    doc = str(read.pop("description", ""))
    for word in ("$schema", "title"):
        read.pop(word, None)
    named = {"name": own.get("class", own["type"]), "event": own["type"], "written": read}
    return Contract(ModelDescription.from_dict(own | named), doc)


def _service(service: ServiceDescription) -> dict[str, Any]:
    """The description without what other programs do not notice, such as the number of attempts."""
    record = service.to_dict()
    record["handlers"] = [
        {name: handler[name] for name in _HANDLER}
        | ({"key_fields": handler["key_fields"]} if handler["key_fields"] else {})
        | {"join": handler["join"] and {name: handler["join"][name] for name in _JOIN if name in handler["join"]}}
        for handler in record["handlers"]
    ]
    return record


def _described(name: str, text: str) -> ServiceDescription:
    _read(name, text, "service")
    try:
        return ServiceDescription.from_json(text)
    except ValueError as error:
        raise ContractError(f"{name}: {error}") from error


def _read(name: str, text: str, has: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
        own = read[has]
        number = own["format"] if isinstance(own, dict) else read["format"]
        if int(number) > FORMAT:
            raise ContractError(f"{name} was written by a newer choreo (format {number}). Update choreo.")
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(
            f"{name} is no contract file ({error!r}). Write it again: `choreo events write`."
        ) from error
    return dict(read)


def _text(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=2, ensure_ascii=False)
