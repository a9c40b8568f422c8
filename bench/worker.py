"""A worker of a peer, in its own environment: ``python -m bench.worker MODULE SERVICE``."""

import importlib
import sys


def main() -> None:
    module, service = sys.argv[1:]
    importlib.import_module(module).run_worker(service)


if __name__ == "__main__":
    main()
