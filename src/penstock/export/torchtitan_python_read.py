"""torchtitan's configuration in Python, as 0.3 takes it, read into the tables of 0.2's TOML; nothing of it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from penstock.export.torchtitan_python import FLOAT8, GONE, LAYERS, MX, MX_EXPERTS, POLICIES

CONFIGS = {"TrainingConfig": "training", "ParallelismConfig": "parallelism", "CompileConfig": "compile"}
"""Calls whose arguments are tables."""
CONVERTERS = {"Float8LinearConverter": FLOAT8, "MXFP8LinearConverter": MX, "MXFP8GroupedExpertsConverter": MX_EXPERTS}
ALWAYS = {"disable_cuda_graphs": True}
"""What our exports say and 0.2 has no key for."""
Table = dict[str, Any]


def python_tables(text: str) -> dict[str, Table]:
    """Return the tables of a module with one training configuration.

    Raises:
        ValueError: it is no Python, has none or several of them, or a value is no plain one.
    """
    try:
        module = ast.parse(text)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno} is no Python: {error.msg}") from None
    calls = [(words, node) for node in ast.walk(module) if isinstance(node, ast.Call) and (words := _words(node.func))]
    if (count := sum(words[-2:] == ["Trainer", "Config"] for words, _ in calls)) != 1:
        raise ValueError(f"{count} calls of Trainer.Config; torchtitan's train_config.py has one, and one is read")
    known = _known(module)
    tables: dict[str, Table] = {"model": _model(module, calls), "activation_checkpoint": _policy(module)}
    for words, node in calls:
        if words[-1] in CONFIGS:
            tables[CONFIGS[words[-1]]] = _keywords(node, known)
    tables |= _converted(tables["model"], calls, known)
    training, compiled = tables.get("training", {}), tables.get("compile", {})
    for name, value in ALWAYS.items():
        if training.get(name) == value:
            del training[name]
    if (hidden := compiled.pop(GONE[1], None)) is not None:
        tables.setdefault("parallelism", {})[GONE[1]] = hidden
    return tables


def _words(node: ast.expr) -> list[str]:
    """Names of a dotted expression; none of any other."""
    if isinstance(node, ast.Attribute):
        before = _words(node.value)
        return [*before, node.attr] if before else []
    return [node.id] if isinstance(node, ast.Name) else []


def _known(module: ast.Module) -> dict[str, Any]:
    """Plain values that names of the module stand for."""
    found = {}
    for node in module.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Name):
            try:
                found[target.id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def _keywords(call: ast.Call, known: Mapping[str, Any]) -> Table:
    """Arguments of a call by name, those in a table that has a name too."""
    found: Table = {}
    for one in call.keywords:
        value = _value(one.value, known)
        found |= value if one.arg is None else {one.arg: value}
    return found


def _value(node: ast.expr, known: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"line {node.lineno}: {ast.unparse(node)} is no plain value; write it out") from None


def _model(module: ast.Module, calls: list[tuple[list[str], ast.Call]]) -> Table:
    """Name and flavor of the model."""
    found: Table = {}
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and any(one.name == "model_registry" for one in node.names):
            found["name"] = str(node.module).rpartition(".")[2]
    for words, call in calls:
        if words[-1] == "model_registry" and call.args and isinstance(call.args[0], ast.Constant):
            found["flavor"] = call.args[0].value
    return found


def _policy(module: ast.Module) -> Table:
    """What is made again; what stands nowhere is nothing."""
    keywords = (node for node in ast.walk(module) if isinstance(node, ast.keyword))
    given = next((one.value for one in keywords if one.arg == "activation_checkpoint"), None)
    said = ast.unparse(given).partition("(")[0] if given else "None"
    mode = next((mode for mode, words in POLICIES.items() if words.partition("(")[0] == said), said)
    return {"mode": mode} | ({"selective_ac_option": "op"} if mode == "selective" else {})


def _converted(model: Table, calls: list[tuple[list[str], ast.Call]], known: Mapping[str, Any]) -> dict[str, Table]:
    """The converters' tables; their names go into that of the model."""
    linear: dict[str, Table] = {}
    model["converters"] = []
    for words, call in calls:
        name = CONVERTERS.get(words[-2]) if len(words) > 1 else None
        if name is not None:
            model["converters"].append(name)
            given = _keywords(call, known)
            if name == FLOAT8:
                linear["float8"] = {"recipe_name": "rowwise", "filter_fqns": given.get("filter_fqns", [])}
            elif name == MX:
                linear["mx"] = {"filter_fqns": [*_wide(given.get("fqns", []), known)]}
    return {"quantize": {"linear": linear}} if linear else {}


def _wide(taken: list[str], known: Mapping[str, Any]) -> Iterator[str]:
    """Blocks that a converter of some leaves out, of as many as the module says that the model has."""
    layers = known.get(LAYERS, len(taken))
    yield from (block for layer in range(layers) if (block := f"layers.{layer}.") not in taken)
