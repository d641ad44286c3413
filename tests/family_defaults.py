"""What transformers takes for keys that a config leaves out, as ``data/families.json`` holds it.

``python tests/family_defaults.py`` writes that file anew from the installed version.
"""

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import penstock.core.config as package
from penstock.core.config.families import OTHERS, STYLES

ROOT = Path(package.__file__).parent
FILE = ROOT.parent.parent / "data" / "families.json"
NOT_IN_TRANSFORMERS = {"grok-1", "qwen"}


def words() -> set[str]:
    """Every text in the code that reads configs: what it may ask for."""
    trees = [ast.parse(path.read_text()) for path in [*ROOT.glob("*.py"), ROOT.parent / "keys.py"]]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    arguments = {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    return arguments | {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def defaults() -> dict[str, dict[str, Any]]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    asked, found = words(), {}
    for family in sorted({*STYLES, *OTHERS} - NOT_IN_TRANSFORMERS):
        made = CONFIG_MAPPING[family]
        names = {canonical: own for canonical, own in made.attribute_map.items() if {canonical, own} & asked}
        wanted = asked | set(names.values())
        values = {
            field.name: field.default
            for field in dataclasses.fields(made)
            if field.name in wanted and isinstance(field.default, bool | int | float | str | list)
        }
        found[family] = {"defaults": dict(sorted(values.items())), "names": dict(sorted(names.items()))}
    return found


def text() -> str:
    """One family a line."""
    lines = [f"{json.dumps(family)}: {json.dumps(facts)}" for family, facts in defaults().items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text())
