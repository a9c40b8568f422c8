"""The contracts as one AsyncAPI 3 document, for catalogues, code generators and documentation."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from choreo.contracts.contract import Contract, Contracts
from choreo.declare.description import ServiceDescription
from choreo.events.naming import OWN_TYPES
from choreo.events.patterns import matches

VERSION = "3.0.0"
_SCHEMAS, _MESSAGES = "#/components/schemas/", "#/components/messages/"

#: What every event has: a CloudEvents 1.0 envelope. See `choreo.events.envelope`.
_ENVELOPE: Mapping[str, Any] = {
    "type": "object",
    "description": "A CloudEvents 1.0 envelope.",
    "required": ["specversion", "id", "source", "type", "time", "data"],
    "properties": {
        "specversion": {"type": "string", "const": "1.0"},
        "id": {"type": "string", "minLength": 1},
        "source": {"type": "string", "minLength": 1, "description": "The service that announced the event."},
        "type": {"type": "string", "minLength": 1},
        "subject": {"type": "string", "description": "What the event is about."},
        "time": {"type": "string", "format": "date-time"},
        "datacontenttype": {"type": "string", "const": "application/json"},
        "correlationid": {"type": "string", "description": "The same for all events of one story."},
        "causationid": {"type": "string", "description": "The id of the event that caused this one."},
        "dataversion": {"type": "integer", "minimum": 1, "description": "The version of the fields."},
        "data": {"type": "object"},
    },
}


def asyncapi(contracts: Contracts, title: str) -> dict[str, Any]:
    """
    The document: a channel for each type of event, a message for each version, an operation for each that announces or
    hears it. Valid by the official schema. ``title`` names the platform.
    """
    return {
        "asyncapi": VERSION,
        "info": {"title": title, "version": "1.0.0"},
        "defaultContentType": "application/json",
        "channels": {kind: _channel(contracts.of(kind)) for kind in contracts.types},
        "operations": dict(sorted(_operations(contracts))),
        "components": {
            "messages": {_key(one): _message(one) for one in contracts.events},
            "schemas": {"envelope": dict(_ENVELOPE), **dict(_schemas(contracts.events))},
        },
    }


def _key(contract: Contract) -> str:
    return f"{contract.type}.v{contract.version}"


def _channel(versions: Iterable[Contract]) -> dict[str, Any]:
    versions = list(versions)
    doc = versions[-1].doc
    messages = {f"v{one.version}": {"$ref": _MESSAGES + _key(one)} for one in versions}
    return {"address": versions[-1].type} | ({"description": doc} if doc else {}) | {"messages": messages}


def _message(contract: Contract) -> dict[str, Any]:
    data = {"properties": {"data": {"$ref": _SCHEMAS + _key(contract)}, "type": {"const": contract.type}}}
    return {
        "name": contract.type,
        "title": contract.model.name,
        **({"summary": contract.doc.splitlines()[0]} if contract.doc else {}),
        "contentType": "application/cloudevents+json",
        "payload": {"allOf": [{"$ref": f"{_SCHEMAS}envelope"}, data]},
    }


def _schemas(events: Iterable[Contract]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schema of each version, and of the models in it: a document has one list for all."""
    for contract in events:
        key = _key(contract)
        models = contract.schema.get("$defs", {})
        names = {name: f"{key}.{_word(name)}" for name in models}
        own = {name: part for name, part in contract.schema.items() if name != "$defs"}
        for name, schema in [(key, own), *((names[name], model) for name, model in models.items())]:
            yield name, _moved(schema, names)


def _word(name: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in name)


def _moved(schema: Any, names: Mapping[str, str]) -> Any:
    """With references to where the models are now, and tuples as draft-07 has them, on which AsyncAPI builds."""
    if isinstance(schema, list):
        return [_moved(part, names) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(part, names) for name, part in schema.items() if name != "discriminator"}
    if isinstance(schema.get("$ref"), str):
        last = schema["$ref"].rpartition("/")[2]
        moved["$ref"] = _SCHEMAS + names.get(last, last)
    if "prefixItems" in moved:
        moved["additionalItems"] = moved.pop("items", True)
        moved["items"] = moved.pop("prefixItems")
    return moved


def _operations(contracts: Contracts) -> Iterator[tuple[str, dict[str, Any]]]:
    for service in contracts.services:
        yield from _sends(service, contracts)
        yield from _receives(service, contracts)


def _sends(service: ServiceDescription, contracts: Contracts) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, _, types in service.announcers():
        for kind in types or ():
            if (newest := contracts.newest(kind)) is not None:
                yield f"{name}.sends.{kind}", _operation("send", service, name, [newest])


def _receives(service: ServiceDescription, contracts: Contracts) -> Iterator[tuple[str, dict[str, Any]]]:
    for handler in service.handlers:
        for kind in contracts.types:
            if kind not in OWN_TYPES and any(matches(pattern, kind) for pattern in handler.hears):
                operation = _operation("receive", service, handler.name, contracts.of(kind))
                yield f"{handler.name}.receives.{kind}", operation


def _operation(action: str, service: ServiceDescription, name: str, versions: Iterable[Contract]) -> dict[str, Any]:
    versions = list(versions)
    # A pointer escapes "/" and "~" only, so a type with dots stays as it is.
    channel = f"#/channels/{versions[0].type}"
    return {
        "action": action,
        "title": name,
        "channel": {"$ref": channel},
        "tags": [{"name": service.service}],
        "messages": [{"$ref": f"{channel}/messages/v{one.version}"} for one in versions],
    }
