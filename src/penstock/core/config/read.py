"""From a config to an ``Architecture``: a file, a folder, a name of the catalogue, or numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from penstock.core.architecture import Architecture
from penstock.core.config.families import ALIKE, FAMILIES, NESTED, architecture_of
from penstock.core.config.numbers import check_sizes
from penstock.core.keys import Keys, locate, read_json
from penstock.core.words import suggest


def read_architecture(path_or_name: str | Path) -> Architecture:
    """Return the model of a ``config.json``, of a folder that holds one, or of a name in the catalogue.

    Raises:
        ValueError: nothing there, not JSON, a key missing or impossible, or a family that is not known.

    >>> read_architecture("llama-3-8b").parameters
    8030261248
    """
    text = str(path_or_name)
    entries = catalogue()
    if text in entries:
        return architecture_from_config(text, entries[text], text)
    name, source = locate(text, entries)
    return architecture_from_config(name, read_json(source), str(source))


def architecture_from_config(name: str, config: Mapping[str, Any], source: str) -> Architecture:
    """Return the model that the keys of a ``config.json`` describe; ``source`` is what errors call it.

    Raises:
        ValueError: a key missing or impossible, or a family that is not known.
    """
    config, family = _text_part(config, source)
    if family not in FAMILIES:
        raise ValueError(f"{source}: model_type={family!r} is unknown; {suggest(family, FAMILIES)}")
    facts = _family_facts().get(ALIKE.get(family, family), {})
    config, defaults = dict(config), dict(facts.get("defaults", {}))
    for pair in facts.get("names", {}).items():
        for where in (config, defaults):
            for key, other in (pair, pair[::-1]):
                if other in where:
                    where.setdefault(key, where[other])
    for needed in ("num_hidden_layers", "hidden_size"):
        defaults.pop(needed, None)
    sizes = {key: config.get(key) for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")}
    check_sizes({key: size for key, size in sizes.items() if type(size) is int and size > 0}, f"{source}: ")
    return architecture_of(name, family, Keys(config, source, defaults))


@cache
def catalogue() -> dict[str, dict[str, Any]]:
    """Return the configs of published models by name: the keys that shape them, and ``source``, where they stand."""
    return _read("catalogue.json")


def _text_part(config: Mapping[str, Any], source: str) -> tuple[Mapping[str, Any], str]:
    """Return the keys of the language model, and its family; models of images and text keep them in an object."""
    family = config.get("model_type")
    if not isinstance(family, str):
        raise ValueError(f"{source} has no key 'model_type'; it must be one of {', '.join(FAMILIES)}")
    inner = config.get("text_config")
    if not isinstance(inner, dict):
        return config, NESTED.get(family, family)
    kept = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return {**kept, **inner}, inner.get("model_type") or NESTED.get(family, family)


@cache
def _family_facts() -> dict[str, dict[str, Any]]:
    """What transformers takes where a config is silent, and the names it has for keys, by family."""
    return _read("families.json")


def _read(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((resources.files("penstock") / "data" / name).read_text("utf-8"))
    return found
