"""The packages that are built from this repository: what they hold, and how an editable install finds it. Nothing is downloaded."""

import subprocess
import sys
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed: run `make install`")

ROOT = Path(__file__).parents[1]
BUILD = """
import sys
from hatchling.builders.wheel import WheelBuilder
print(*WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=sys.argv[3:]))
"""


def built(source: Path, folder: Path, version: str = "standard") -> zipfile.ZipFile:
    command = [sys.executable, "-c", BUILD, str(source), str(folder), version]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(done.stdout.strip())


def test_the_wheel_holds_configs_jobs_and_whatever_is_not_python(tmp_path: Path) -> None:
    names = set(built(ROOT, tmp_path).namelist())
    for folder in ("configs", "jobs"):
        assert {f"rayrec/{folder}/{path.name}" for path in (ROOT / folder).iterdir() if path.is_file()} <= names
    sources = [path for path in (ROOT / "rayrec").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {str(path.relative_to(ROOT)) for path in sources} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_a_command_from_the_wheel_finds_its_demo(tmp_path: Path) -> None:
    built(ROOT, tmp_path).extractall(tmp_path / "site")
    code = "from rayrec.cli.common import shipped; from rayrec.config import load; print(path := shipped('demo.yaml')); load(path)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "site", env={}, capture_output=True, text=True)
    assert found.stdout.strip() == str(tmp_path / "site" / "rayrec" / "configs" / "demo.yaml"), found.stderr


def test_the_folder_above_a_clone_does_not_hide_the_package(tmp_path: Path) -> None:
    """Where the clone is named rayrec, Python takes it for a namespace, unless a real package is on the path."""
    clone, site = tmp_path / "rayrec", tmp_path / "site"
    (clone / "rayrec").mkdir(parents=True)
    (clone / "rayrec" / "__init__.py").write_text("__version__ = 'real'")
    for name in ("configs", "jobs"):
        (clone / name).mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (clone / name).write_text((ROOT / name).read_text())
    built(clone, tmp_path, "editable").extractall(site)
    code = f"import site; site.addsitedir({str(site)!r}); import rayrec; print(rayrec.__version__)"
    found = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True)
    assert found.stdout == "real\n", found.stderr


def test_the_client_alone_is_three_files_and_httpx(tmp_path: Path) -> None:
    wheel = built(ROOT / "client", tmp_path)
    (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    assert message_from_string(wheel.read(metadata).decode()).get_all("Requires-Dist") == ["httpx"]
    assert [name for name in wheel.namelist() if ".dist-info" not in name] == [
        f"rayrec_client/{name}.py" for name in ("__init__", "errors", "values")
    ]
    wheel.extractall(tmp_path / "site")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
sys.modules["rayrec"] = None  # as if it were not installed
import rayrec_client
try:
    rayrec_client.Client("http://127.0.0.1:1", patience_s=0).user("ann")
except rayrec_client.ServiceError as error:
    print(error)
"""
    asked = subprocess.run([sys.executable, "-c", code, str(tmp_path / "site")], capture_output=True, text=True)
    assert "the service can't be reached" in asked.stdout, asked.stderr
