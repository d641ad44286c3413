"""A package imports only from those above it; torch stays in the runtime; files stay short."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "penstock"
LAYERS = [
    *("units", "core", "schedules", "lower", "cost", "engine", "predict", "search", "view"),
    *("runtime", "calibrate", "export", "api", "cli"),
]
MOST_LINES = 300
LONGER = {"runtime/split.py": 320}
"""Files that may be longer, and how long; shrink them, add none."""
HEAVY = {"torch", "transformers", "numba", "matplotlib"}


def files():
    return sorted(ROOT.rglob("*.py"))


def name(path):
    return path.relative_to(ROOT).as_posix()


def layer(path):
    """The layer of a file; the package's door belongs to none."""
    top = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return "cli" if top == "__main__" else top


@cache
def imports(path):
    """Every module a file imports, wherever in it."""
    return [*_imports(path)]


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(path)} line {node.lineno}: write the import out from penstock on"
            if node.module == "penstock":
                yield from (f"penstock.{alias.name}" for alias in node.names)
            yield node.module


@pytest.mark.parametrize("path", [path for path in files() if path != ROOT / "__init__.py"], ids=name)
def test_imports_point_upwards_in_the_list(path):
    here = LAYERS.index(layer(path))
    for module in imports(path):
        parts = module.split(".")
        if parts[0] != "penstock" or len(parts) == 1:
            continue
        there = parts[1]
        assert there in LAYERS, f"{name(path)} imports {module}, which no layer holds"
        assert LAYERS.index(there) <= here, f"{name(path)} imports {module} from a layer below it"


@pytest.mark.parametrize("path", files(), ids=name)
def test_torch_stays_in_the_runtime(path):
    heavy = {module.split(".")[0] for module in imports(path)} & {"torch", "transformers", "safetensors", "tokenizers"}
    assert not heavy or layer(path) == "runtime" or path.is_relative_to(ROOT / "calibrate" / "bench")


@pytest.mark.parametrize("path", files(), ids=name)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    assert lines <= LONGER.get(name(path), MOST_LINES)


def loaded_after(code):
    """Modules that a fresh interpreter has loaded after some code."""
    ends = "\nimport sys\nprint('\\n@', *sorted(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code + ends], capture_output=True, text=True, check=True, timeout=60)
    return set(run.stdout.rsplit("@", 1)[1].split())


def test_importing_penstock_loads_nothing_heavy():
    loaded = loaded_after("import penstock")
    assert not loaded & {*HEAVY, "numpy", "pydantic", "cyclopts", "rich"}


def command(*words):
    return f"from penstock.cli.main import main\nmain({list(words)!r})"


@pytest.mark.parametrize("name", ["gpipe", "zb-h1"])
def test_schedule_loads_nothing_heavy(name):
    loaded = loaded_after(command("schedule", name, "--ranks", "8", "--micros", "32"))
    assert not loaded & HEAVY


def test_the_command_line_begins_without_arrays():
    assert "numpy" not in loaded_after("import penstock.cli.main")


def test_no_planning_command_loads_torch(tmp_path):
    out = [f"--{kind}={tmp_path / f'a.{kind}'}" for kind in ("csv", "json", "html", "png")]
    words = ["schedule", "1f1b", "--ranks", "2", "--micros", "2"]
    loaded = loaded_after(command(*words, *out) + "\n" + command("simulate", str(tmp_path / "a.csv")))
    assert "torch" not in loaded
    assert "matplotlib" in loaded


def test_every_public_name_is_there():
    import penstock

    for public in penstock.__all__:
        assert getattr(penstock, public) is not None
        assert public in dir(penstock)
    with pytest.raises(AttributeError, match="no attribute 'bild'"):
        penstock.bild  # noqa: B018
