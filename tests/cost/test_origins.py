"""Where constants stand, what they mean and how sure they are."""

from dataclasses import fields

from penstock.core.device import device
from penstock.cost.constants import levels, table
from penstock.cost.origins import (
    KEPT_APART,
    Constant,
    constant,
    level,
    level_of,
    of_device,
    of_frameworks,
    of_stack,
)
from penstock.cost.stack import Stack, stack, tables

FIELDS = [field.name for field in fields(Stack) if field.name not in KEPT_APART]


def test_every_field_of_a_framework_has_a_range_a_meaning_and_a_source() -> None:
    assert sorted(tables()["ranges"]) == sorted(FIELDS)
    for name in FIELDS:
        found = of_stack(Stack(name="default"), name)
        assert found.range, name
        assert len(found.meaning) > 10, name
        assert found.source, name


def test_ranges_hold_the_values_of_all_frameworks() -> None:
    for found in of_frameworks():
        low, _, high = found.range.partition(" to ")
        if high and not isinstance(found.value, str):
            assert float(low) <= float(found.value) <= float(high), found


def test_fields_are_said_by_the_table_that_sets_them() -> None:
    """NeMo's own share, Megatron's buffers behind it, and the default behind both."""
    nemo = stack("nemo")
    names = {name: of_stack(nemo, name).name for name in ("gradient_bytes", "scratch_bytes", "graph_launch_s")}
    assert names == {
        "gradient_bytes": "nemo.gradient_bytes",
        "scratch_bytes": "megatron-core.scratch_bytes",
        "graph_launch_s": "default.graph_launch_s",
    }
    for name in names:
        assert of_stack(nemo, name).value == getattr(nemo, name)


def test_every_part_of_the_levels_has_a_meaning() -> None:
    assert set(table()["about"]) == set(table()["levels"])
    for part in table()["levels"]:
        for key, (value, error, measured) in levels(part).items():
            found = level(part, key)
            assert (found.value, found.error) == (value, error)
            assert not (found.guessed and measured)
            low, _, high = found.range.partition(" to ")
            assert float(low) <= value <= float(high), found


def test_what_nobody_measured_is_guessed() -> None:
    assert level("memory", "ampere").guessed
    assert not constant("memory", "latency_s").guessed
    assert not constant("matmul", "tail").guessed
    assert level("matmul", "default").guessed
    assert not level("matmul", "hopper bf16").guessed


def test_levels_of_curves_are_those_of_the_cluster_file() -> None:
    found = level_of("h100-80gb-sxm measured", 0.7, 0.04)
    assert (found.value, found.error, found.source, found.guessed) == (0.7, 0.04, "the cluster file", False)
    assert level_of("matmul hopper bf16", 0.0, 0.0) == level("matmul", "hopper bf16")


def test_facts_of_a_device() -> None:
    h100 = device("h100")
    peak = of_device(h100, "bf16")
    assert peak == Constant(name="h100-80gb-sxm.bf16", value=989.4e12, meaning=peak.meaning, source=h100.source)
    assert of_device(h100, "memory_bytes_per_s").value == h100.memory_bytes_per_s
