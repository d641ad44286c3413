import dataclasses
import math
from typing import Any

import pytest

from penstock.core.job import TABLES, Job, RunSettings, RunSpec, Strategy, settings
from penstock.core.model import model_from_config


def test_defaults_are_a_run() -> None:
    spec = RunSpec()
    assert spec.model == "tiny-llama"
    assert spec.strategy.stages == 2
    assert spec.sequences_per_micro_batch == 1
    assert spec.job.tokens_per_step == 8 * 256


def test_values_are_frozen_and_equal() -> None:
    assert Job(steps=5) == Job(steps=5) != Job(steps=6)
    assert hash(RunSpec()) == hash(RunSpec())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Job().steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("owner", "values", "says"),
    [
        (Job, {"steps": 0}, "steps=0 is too small; use 1 or more"),
        (Job, {"seq_length": 1}, "seq_length=1 is too small; use 2 or more"),
        (Job, {"learning_rate": 0.0}, "learning_rate=0.0 is too small; use more than 0"),
        (Job, {"learning_rate": math.nan}, "learning_rate=nan is not a finite number"),
        (Job, {"clip_norm": math.inf}, "clip_norm=inf is not a finite number"),
        (Job, {"beta2": 1.0}, "beta2=1.0 is too large; use 0.999999 or less"),
        (Job, {"min_learning_rate_ratio": 1.5}, "use 1 or less"),
        (Job, {"precision": "bf16"}, "precision='bf16' is unknown; did you mean 'bfloat16'?"),
        (Job, {"precision": "int8"}, "choose from float32, float64, bfloat16"),
        (Strategy, {"ranks": 0}, "ranks=0 is too small; use 1 or more"),
        (Strategy, {"sends": "overlap"}, "did you mean 'overlapped'?"),
        (Strategy, {"stage_layers": (3, 2, 1)}, "has 3 numbers for ranks=2 x chunks=1 = 2 stages; give 2 numbers"),
        (Strategy, {"stage_layers": (3, -1)}, "stage_layers=-1 is too small; use 0 or more"),
        (RunSettings, {"port": 70000}, "port=70000 is too large; use 65535 or less"),
        (RunSettings, {"timeout_s": 0}, "timeout_s=0 is too small; use more than 0"),
        (RunSpec, {"model": ""}, "names no model; use 'tiny-llama'"),
    ],
)
def test_bad_values_are_named_with_the_fix(owner: type, values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        owner(**values)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_micro_batches_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"micro_batches=5 does not divide batch=8; use 1, 2, 4, 8 .*or batch=10"):
        RunSpec(strategy=Strategy(micro_batches=5))
    with pytest.raises(ValueError, match=r"micro_batches=32 .*use 1, 2, 4, 8 micro-batches, or batch=32"):
        RunSpec(strategy=Strategy(micro_batches=32))


def test_a_model_must_fit_the_run() -> None:
    sizes = {"n_embd": 48, "n_layer": 6, "n_head": 4, "n_positions": 64, "vocab_size": 256}
    model = model_from_config("small", {"model_type": "gpt2", **sizes}, "config.json")
    spec = RunSpec(job=Job(seq_length=64))
    spec.check_model(model, spec.strategy.stages)
    with pytest.raises(ValueError, match="seq_length=256 is longer than small takes; use 64 or less"):
        RunSpec().check_model(model, 2)
    with pytest.raises(ValueError, match="stages=4 does not divide 6 layers"):
        dataclasses.replace(spec, strategy=Strategy(ranks=4)).check_model(model, 4)
    narrow = model_from_config("small", {"model_type": "gpt2", **sizes, "vocab_size": 96}, "config.json")
    with pytest.raises(ValueError, match=r"a vocabulary of 96, too small .* use vocab_size=256 or more"):
        spec.check_model(narrow, spec.strategy.stages)


def test_a_short_run_may_end_inside_the_warm_up() -> None:
    assert Job(steps=3).warmup_steps == 20


def test_settings_cover_every_field_once() -> None:
    fields = [field.name for owner in TABLES.values() for field in dataclasses.fields(owner)]
    assert len(set(fields)) == len(fields)
    assert set(settings()) == {*fields, "model"}
    for name, setting in settings().items():
        assert setting.help, name
        assert setting.default is not dataclasses.MISSING
    assert settings()["model"].table == ""
    assert settings()["stage_layers"].type == tuple[int, ...] | None
