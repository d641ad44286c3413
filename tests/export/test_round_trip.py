"""What is written for another framework and read again is the same setup, up to what is said to be left out."""

from dataclasses import asdict, fields

import pytest
from exported import CLUSTER, asked
from hypothesis import HealthCheck, Phase, given, reject, settings

from penstock.core.disks import idle
from penstock.core.recipes import WIDE
from penstock.core.setup import Setup
from penstock.export.frameworks import export
from penstock.export.read import read_file

NAMES = {"megatron": "train.sh", "bridge": "bridge.sh", "torchtitan": "", "deepspeed": "ds.json"}
PYTHON = "train_config.py"
SLOWLY = settings(
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def there_and_back(name, folder, model, setup):
    """The setup that is read, and the names of fields that the file leaves out."""
    path = folder / NAMES[name]
    try:
        left = export(f"{name}:{path}", model, CLUSTER, setup)
    except ValueError as error:
        if not str(error).startswith((f"{name}: ", "PyTorch")):
            raise
        reject()
    read = read_file(path / "train.toml" if name == "torchtitan" else path, setup.devices)
    assert read.unread == ()
    missing = {left_out.field for left_out in left}
    if name == "torchtitan" and (path / PYTHON).exists():
        again = read_file(path / PYTHON, setup.devices)
        assert {field for field in read.fields if again.fields.get(field) != read.fields[field]} <= missing
        assert (again.model, again.unread) == (read.model, read.unread)
    lacking = {field: getattr(setup, field) for field in missing if field not in read.fields and field != "model"}
    if read.fields["precision"] in WIDE:
        lacking = {field: value for field, value in lacking.items() if not field.startswith(("wide_", "low_"))}
    again = asdict(setup) | read.fields | lacking
    if idle(setup.disk, again):
        lacking["disk"] = "none"
    return read, Setup(**read.fields | lacking), missing


def differing(a, b):
    return {field.name for field in fields(Setup) if getattr(a, field.name) != getattr(b, field.name)}


@pytest.mark.parametrize("name", NAMES)
def test_what_is_read_is_what_was_written_but_for_what_was_said_to_be_left(name, tmp_path):
    tried = set()

    @SLOWLY
    @given(asked())
    def check(what):
        model, setup = what
        _, again, missing = there_and_back(name, tmp_path, model, setup)
        tried.add(setup)
        assert differing(setup, again) <= missing

    check()
    assert len(tried) >= SLOWLY.max_examples // 2
