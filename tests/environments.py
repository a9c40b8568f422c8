"""
`make test-all`: runs the tests on every supported Python of this machine, and with the lowest versions of packages.

    python -m tests.environments                        every Python, then the lowest versions on the oldest of them
    python -m tests.environments 3.13 lowest            these only
    python -m tests.environments --list                 the interpreters that are found
    python -m tests.environments 3.12 -- -k joins       the rest goes to pytest

An interpreter is found on PATH, in pyenv's or in uv's folder of versions. Each gets an environment in .test-envs/.
The lowest versions are those of pyproject.toml: each ``>=`` of the library and of its extras for users.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".test-envs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
#: The environment with the lowest versions.
LOWEST = "lowest"
#: The extras whose lowest versions count. Those of "dev" are our tools.
EXTRAS = ("flower", "map", "web", "demo", "otel", "metrics")
#: Later releases of this tool need a later click than they say.
TOOLS = ("check-jsonschema==0.33.0",)
#: What an interpreter needs for an environment of its own. Debian's lacks ensurepip without python3-venv.
PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


def supported() -> list[str]:
    """The versions of Python that the classifiers of pyproject.toml name, oldest first."""
    names = [classifier.rpartition(" :: ")[2] for classifier in PROJECT["classifiers"]]
    return [name for name in names if name.startswith("3.")]


def interpreters(environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """An interpreter for each supported version of Python that this machine has."""
    found = ((version, next(_working(version, environ), None)) for version in supported())
    return {version: path for version, path in found if path is not None}


def _working(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    for path in _candidates(version, environ):
        done = subprocess.run([str(path), "-c", PROBE], capture_output=True, text=True)
        # One of pyenv's shims is there for every version, and fails for those that are not switched on.
        if done.returncode == 0 and done.stdout.strip() == version:
            yield path


def _candidates(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    if path := shutil.which(f"python{version}", path=environ.get("PATH")):
        yield Path(path)
    home = Path(environ.get("HOME", "/"))
    pyenv = Path(environ.get("PYENV_ROOT") or home / ".pyenv") / "versions"
    uv = Path(environ.get("UV_PYTHON_INSTALL_DIR") or home / ".local" / "share" / "uv" / "python")
    for folder in (*sorted(pyenv.glob(f"{version}.*")), *sorted(uv.glob(f"cpython-{version}.*"))):
        if (path := folder / "bin" / f"python{version}").exists():
            yield path


def lowest() -> list[str]:
    """The lowest allowed version of each package that users get, as pip's constraints."""
    wanted = [*PROJECT["dependencies"], *(one for extra in EXTRAS for one in PROJECT["optional-dependencies"][extra])]
    parsed = [Requirement(text) for text in wanted]
    return [
        f"{requirement.name}=={specifier.version}"
        for requirement in parsed
        for specifier in requirement.specifier
        if specifier.operator == ">="
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 if the tests fail anywhere, or a version that is asked for is missing."""
    options = _options(arguments)
    found = interpreters()
    for version in supported():
        print(f"Python {version}: {found.get(version, 'not on this machine')}", flush=True)
    if options.list:
        return 0
    if missing := [name for name in options.names if name != LOWEST and name not in found]:
        print(f"There is no Python {', '.join(missing)} here. Install it, with pyenv or uv, or leave it out.")
        return 1
    if not found:
        print(f"None of Python {', '.join(supported())} is here with venv and ensurepip.")
        return 1
    names = options.names or [*found, LOWEST]
    failed = [name for name in names if not _passes(name, found, options.pytest)]
    print(f"passed: {', '.join(name for name in names if name not in failed) or 'none'}")
    print(f"failed: {', '.join(failed) or 'none'}")
    return bool(failed)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.environments", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="VERSION", help=f"such as 3.13, or {LOWEST}")
    parser.add_argument("--list", action="store_true", help="show the interpreters that are found")
    before, after = _cut(list(sys.argv[1:] if arguments is None else arguments))
    options = parser.parse_args(before)
    options.pytest = after
    return options


def _cut(arguments: list[str]) -> tuple[list[str], list[str]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], arguments[place + 1 :]


def _passes(name: str, found: Mapping[str, Path], pytest: Sequence[str]) -> bool:
    interpreter = next(iter(found.values())) if name == LOWEST else found[name]
    print(f"\n== {name} ({interpreter})", flush=True)
    folder = FOLDER / name
    python = folder / "bin" / "python"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    steps = [
        [str(interpreter), "-m", "venv", "--clear", str(folder)],
        [*_pip(python), "--editable", f"{ROOT}[dev]", *_constraints(name)],
        [str(python), "-m", "pytest", *pytest],
    ]
    return all(subprocess.run(step, cwd=ROOT).returncode == 0 for step in steps)


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]


def _constraints(name: str) -> list[str]:
    if name != LOWEST:
        return []
    file = FOLDER / "lowest.txt"
    file.write_text("\n".join([*lowest(), *TOOLS]) + "\n")
    return ["--constraint", str(file)]


if __name__ == "__main__":
    sys.exit(main())
