"""The package as users get it: its parts, its metadata, and that it works from a folder without the checkout."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

import choreo

ROOT = Path(__file__).parents[2]
VERSION = choreo.__version__


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=os.environ | environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    # Without isolation: an environment of its own would be downloaded. `make package` builds with it.
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"celery_choreo-{VERSION}-py3-none-any.whl"


def test_the_wheel_has_every_file_of_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.startswith(f"celery_choreo-{VERSION}.dist-info/")}

    kept = {path for path in (ROOT / "choreo").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(ROOT)) for path in kept}
    assert "choreo/py.typed" in names
    assert any(name.endswith(".lua") for name in names)


def test_the_sdist_has_what_its_tests_need_and_nothing_that_was_generated(built: Path) -> None:
    with tarfile.open(built / f"celery_choreo-{VERSION}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    assert {"pyproject.toml", "README.md", "LICENSE", "Makefile", "celeryconfig.py", "docs/deployment.md"} <= names
    assert {"choreo/store/lua/begin.lua", "handlers/payment.py", "tests/unit/test_lazy.py"} <= names
    assert not [name for name in names if name.endswith(".pyc") or name.startswith((".venv", ".git/", "dist/"))]


def test_pypi_would_take_it_and_show_the_readme(built: Path) -> None:
    run(sys.executable, "-m", "twine", "check", "--strict", *built.iterdir())


def test_the_metadata_names_the_package_its_addresses_and_its_author(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        fields = message_from_string(archive.read(f"celery_choreo-{VERSION}.dist-info/METADATA").decode())

    assert (fields["Name"], fields["Version"], fields["License-Expression"]) == ("celery-choreo", VERSION, "MIT")
    assert fields["Author"] == "the choreo maintainers"
    kinds = {url.partition(",")[0] for url in fields.get_all("Project-URL", [])}
    assert kinds == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert {"flower", "demo", "dev"} <= set(fields.get_all("Provides-Extra", []))


def test_it_works_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    folder = tmp_path / "installed"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, wheel, cwd=tmp_path)
    code = (
        "import choreo\n"
        "from choreo.redis_client.scripts import Script\n"
        "app = choreo.Service('shop', broker='memory://', choreo_store_url='memory:', config=None)\n"
        "class OrderPlaced(choreo.Event): total_cents: int\n"
        "print(choreo.__file__, app.publish(OrderPlaced(total_cents=1)), Script.load('store/begin').name)\n"
    )

    said = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(folder))
    version = run(folder / "bin" / "choreo", "--version", cwd=tmp_path, PYTHONPATH=str(folder))

    assert said.split() == [str(folder / "choreo" / "__init__.py"), "order.placed", "store/begin"]
    assert version == f"choreo {VERSION}\n"
