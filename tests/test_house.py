"""The house itself: pinned dependencies, links that lead somewhere, no import circle, and the rules of files and words."""

import graphlib
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import pytest

from rayrec.config import Config

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/**/*.md", "deploy/**/*.md")
    for path in ROOT.glob(pattern)
)
SOURCES_OF_THE_PACKAGE = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / "rayrec").rglob("*") if path.suffix in (".py", ".js", ".css", ".sh")
)
MAX_LINE = 120  # of a document
MAX_LINES = 400  # of a file of the package
# Words of the first version that have given way to the field's own, and a reference to a text that is not in the repository.
BANNED = re.compile(r"\bSOURCES\b|\b(most|least)_\w+|\bluck\b")


def test_constraints_are_bare_pins_of_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=!;~ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names - {line.split("==")[0] for line in lines} == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = _without_code((ROOT / document).read_text())
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists() or (anchor and anchor not in _anchors(file.read_text())):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_tests_that_documents_name_are_there(document: str) -> None:
    text = (ROOT / document).read_text()
    paths = re.findall(r"\btests/[\w/]+\.\w+", text)
    paths += [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m (tests\.[\w.]+)", text)]
    assert [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_lines_of_documents_fit_a_screen(document: str) -> None:
    """Only rows of tables may be longer: Markdown can't break them."""
    lines = enumerate((ROOT / document).read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > MAX_LINE and not line.lstrip().startswith("|")] == []


@pytest.mark.parametrize("file", SOURCES_OF_THE_PACKAGE)
def test_files_of_the_package_are_short_and_use_the_words_of_the_field(file: str) -> None:
    lines = (ROOT / file).read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert [(number, line.strip()) for number, line in enumerate(lines, 1) if BANNED.search(line)] == []


def test_the_site_builds_without_warnings_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    loads = re.compile(r"<(?:script|img|iframe|source)[^>]+src=\"?https?://|<link(?![^>]+canonical)[^>]+href=\"?https?://")
    for page in tmp_path.rglob("*.html"):
        assert loads.findall(page.read_text()) == [], page.name
    for sheet in tmp_path.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", sheet.read_text()) == [], sheet.name


def test_the_reference_of_the_config_is_current() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs" / "make_reference.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert made.reference() == made.PAGE.read_text(encoding="utf-8"), "run `make reference`"
    for name in Config.model_fields:
        assert f"`{name}`" in made.reference()


def test_there_is_no_import_circle() -> None:
    """Neither between the modules, nor between packages at any level."""
    graph = grimp.build_graph("rayrec", cache_dir=None)
    imports = [(module, imported) for module in graph.modules for imported in graph.find_modules_directly_imported_by(module)]
    for level in range(2, 6):
        nodes: dict[str, set[str]] = {}
        for pair in imports:
            module, imported = (".".join(name.split(".")[:level]) for name in pair)
            nodes.setdefault(module, set()).update({imported} - {module})
        graphlib.TopologicalSorter(nodes).prepare()  # raises a CycleError that names the circle


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`(?!\])", "", text, flags=re.DOTALL)


def _anchors(text: str) -> set[str]:
    """The anchors of the headings, as the site and the repository's pages make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}
