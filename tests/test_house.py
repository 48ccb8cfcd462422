"""The house itself: pinned dependencies, documents whose links lead somewhere, and imports without a circle."""

import graphlib
import re
import tomllib
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]


def test_constraints_are_bare_pins_of_every_direct_dependency() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.+]*", line)] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(name for extra in project["optional-dependencies"].values() for name in extra)]
    names = {re.split(r"[\[<>=!;~ ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert names - {line.split("==")[0] for line in lines} == set()


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))])
def test_links_to_files_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / document).read_text())
    assert [target for target in targets if "://" not in target and not (ROOT / document).parent.joinpath(target).exists()] == []


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
