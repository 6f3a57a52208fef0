"""Imports go one way: none in a circle, and none hides in a function to avoid one."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "actionrec"
# Each room may import from those before it. What stands in one line knows nothing of each other.
FLOORS = (
    {"errors", "memory", "recipes"},
    {"text"},
    {"files", "downloads", "progress", "signals"},
    {"storage"},
    {"processes"},
    {"video"},
    {"datasets"},
    {"devices"},
    {"models"},
    {"config"},
    {"prediction", "explanation", "export"},
    # Timelines are measured too.
    {"evaluation"},
    {"quantize", "recognizer", "training"},
    {"app"},
    {"cli"},
    {"__main__", "__init__"},
)


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(
        ".__init__"
    )


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(tree):
    """The modules of ours that are imported anywhere in a tree, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found = [name for name in names if name in MODULES]
        # The longest name: from actionrec.models import catalogue means the module.
        yield from {name for name in found if not any(o.startswith(f"{name}.") for o in found)}


GRAPH = {name: set(imports(ast.parse(path.read_text()))) for name, path in MODULES.items()}


def room(name):
    return name.split(".")[1] if "." in name else "__init__"


def floor(name):
    [number] = [number for number, rooms in enumerate(FLOORS) if room(name) in rooms]
    return number


def test_no_modules_import_each_other_in_a_circle_not_even_inside_functions():
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_from_its_own_room_or_from_below(name):
    wrong = [
        other
        for other in GRAPH[name]
        if room(other) != room(name) and not floor(other) < floor(name)
    ]
    assert not wrong, f"{name} must not know {', '.join(wrong)}"


def test_reading_videos_knows_no_network_and_networks_know_no_file_of_videos():
    for name in MODULES:
        if room(name) == "video":
            assert not [other for other in GRAPH[name] if room(other) in ("models", "datasets")]
        if room(name) == "models":
            files = ("actionrec.video.index", "actionrec.video.reader", "actionrec.video.decoders")
            assert not [other for other in GRAPH[name] if other in files]
