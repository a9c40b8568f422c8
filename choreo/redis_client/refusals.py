"""Errors of a Redis server: is the server unable to serve, or did it refuse one call? And the remedy for each."""

import redis

#: The code with which an error of the server begins → its remedy. Until it is remedied, the server serves nobody, or
#: not this user. All other errors of the server are about one call.
REMEDIES = {
    "OOM": "Redis is full. Raise maxmemory, or remove what other programs keep there. Do not let it evict keys",
    "READONLY": "This server is a replica, and takes no writes. Name its master, or name the Sentinels: "
    "sentinel://host:26379 with broker_transport_options = {'master_name': ...}",
    "LOADING": "Redis is reading its data from disk. Wait until it has done so",
    "NOAUTH": "Redis wants a password. Write it into the URL: redis://user:password@host:6379/0",
    "WRONGPASS": "Redis knows no such user, or another password. Correct them in the URL: "
    "redis://user:password@host:6379/0",
    "NOPERM": "Redis does not let this user do that. Grant the least rights that docs/deployment.md lists",
    "MISCONF": "Redis cannot write its data to disk. Its log says why: make room on the disk, or mend its rights",
    "MASTERDOWN": "This replica has lost its master. Wait for the failover, or name the master",
    "NOREPLICAS": "Too few replicas follow this server (min-replicas-to-write). Start them again",
    "CLUSTERDOWN": "The cluster is down, or some of its slots are. Start its missing nodes",
    "TRYAGAIN": "The cluster is moving slots. Wait until it has done so",
    "BUSY": "A script runs for too long on this server. End it with SCRIPT KILL",
    "UNKILLABLE": "A script runs for too long on this server, and has written already. Wait, or restart the server",
}
#: Codes of a Redis Cluster from where it is spoken to as one server. No time heals them.
_CLUSTER = ("MOVED", "CROSSSLOT", "ASK")
REMEDIES |= dict.fromkeys(
    _CLUSTER,
    "This is a Redis Cluster. It can be the store, and not the broker, whose keys must be on one server: as the broker "
    "name a single Redis, or the Sentinels of one (sentinel://host:26379), or RabbitMQ, and name the cluster as "
    "choreo_store_url",
)
#: Releases of redis-py that do not keep the code have a class for it.
_CLASSES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "AuthenticationError": "NOAUTH",
    "NoPermissionError": "NOPERM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
}


def code_of(error: BaseException) -> str:
    """The code of a server's error, such as ``OOM``; "" if there is none in `REMEDIES`."""
    text = str(error)
    # An error within a script keeps its code in the text.
    codes = [getattr(error, "status_code", None), text.partition(" ")[0].removeprefix("-")]
    if "invalid username-password" in text or "invalid password" in text:
        codes.append("WRONGPASS")
    codes.append(_CLASSES.get(type(error).__name__))
    return next((code for code in codes if code in REMEDIES), "") or ""


def explained(error: BaseException) -> str:
    """The error as a text for people, with its remedy if there is one."""
    text, code = str(error) or repr(error), code_of(error)
    return f"{text.rstrip('.')}. {REMEDIES[code]}" if code and REMEDIES[code] not in text else text


def is_explained(text: str) -> bool:
    """True if the text names the remedy of a server's error."""
    return any(remedy in text for remedy in REMEDIES.values())


def is_outage(error: BaseException) -> bool:
    """False if the server is well, and refuses this one call: a key has another type, or a text is no UTF-8."""
    code = code_of(error)
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | OSError) or code:
        return code not in _CLUSTER
    return not isinstance(error, redis.RedisError | UnicodeError)
