"""Parameters of every family, to the last one, beside transformers on the meta device."""

import json
from pathlib import Path
from typing import Any

import family_defaults
import pytest
from families import CASES, CONFIGS

from penstock.core.config import architecture_from_config, catalogue, gpt, read_architecture
from penstock.core.config.families import OTHERS, STYLES

def meta(family: str, config: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    from transformers import AutoConfig, AutoModelForCausalLM

    made = AutoConfig.for_model(family, **{"pad_token_id": 0, **config})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(made)
    model.tie_weights()
    return model


@pytest.mark.parametrize("case", CASES)
def test_parameters_equal_those_of_transformers(case: str) -> None:
    family, config = CASES[case]
    ours = architecture_from_config(case, {"model_type": family, **config}, "config.json")
    theirs = dict(meta(family, config).named_parameters())
    assert ours.parameters == sum(value.numel() for value in theirs.values()), {
        name: tuple(value.shape) for name, value in theirs.items()
    }


def test_every_family_of_transformers_is_compared() -> None:
    assert set(CONFIGS) == {*STYLES, *OTHERS} - family_defaults.NOT_IN_TRANSFORMERS


def test_silent_keys_mean_what_transformers_takes() -> None:
    pytest.importorskip("transformers")
    assert family_defaults.FILE.read_text() == family_defaults.text(), "run python tests/family_defaults.py"
