"""Runs a worker of a peer in the environment of the peer: ``python -m bench.worker MODULE SERVICE``."""

import importlib
import sys


def main() -> None:
    """Run the worker until it is stopped."""
    module, service = sys.argv[1:]
    importlib.import_module(module).run_worker(service)


if __name__ == "__main__":
    main()
