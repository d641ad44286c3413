"""Published laws of batches and rates give what their papers say, and one is taken by the rule that is stated."""

import math

import pytest

from penstock import plan
from penstock.core.config import gpt
from penstock.core.config.text import model_of
from penstock.cost.laws import laws, quantities_of, rounded, suggested


def deepseek(layers, hidden, heads, kv_heads, ffn):
    return gpt(
        layers=layers, hidden=hidden, heads=heads, kv_heads=kv_heads, vocab=102400, ffn=ffn, gated=True, bias=False,
        rms=True, positions=4096, learned_positions=False, tied=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "batch", "rate"),
    [
        (deepseek(30, 4096, 32, 32, 11008), 2304, 4.2e-4),
        (deepseek(95, 8192, 64, 8, 22016), 4608, 3.2e-4),
    ],
)
def test_deepseek_s_own_two_models_follow_its_law(model, batch, rate):
    """Table 2 of arXiv:2401.02954: 7B and 67B on 2e12 tokens, sequences of 4096."""
    law, quantities = laws()["deepseek"], quantities_of(model, 4096, 2e12)
    assert law.batch.of(quantities) / 4096 == pytest.approx(batch, rel=0.05)
    assert law.rate.of(quantities) == pytest.approx(rate, rel=0.02)
    assert not law.beyond(quantities)


MEASURED = [
    (214_663_680, 4e9, 5e-4, 8e-3, 1e5, 4e5),
    (1_073_741_824, 1e11, 4e-4, 4e-3, 5e5, 4e6),
]


@pytest.mark.parametrize(("parameters", "tokens", "low", "high", "least", "most"), MEASURED)
def test_step_law_lies_where_its_runs_were_best(parameters, tokens, low, high, least, most):
    """Rates and batches of runs with least loss, within a step of the grid; github.com/step-law/steplaw."""
    law, quantities = laws()["step-law"], {"parameters": parameters, "tokens": tokens}
    assert low < law.rate.of(quantities) < high
    assert least < law.batch.of(quantities) < most
    assert not law.beyond(quantities)


def test_step_law_is_the_mean_of_what_was_fitted_to_its_runs():
    """Means of 1,000 fits in data/1004_fitted_lr_bs_scaling_model_parameters.csv of github.com/step-law/steplaw."""
    law, quantities = laws()["step-law"], {"parameters": 1e9, "tokens": 1e11}
    rate = math.exp(0.58631) * 1e9**-0.71292 * 1e11**0.30749
    assert law.rate.of(quantities) == pytest.approx(rate, rel=0.02)
    assert law.batch.of(quantities) == pytest.approx(math.exp(-0.54354) * 1e11**0.57094, rel=0.01)


def test_the_critical_batch_by_tokens_is_that_by_parameters_at_20_tokens_each():
    """Both fits of arXiv:2410.21676: 22.91 x D^0.47 and 93.20 x N^0.47 in millions, sequences of 512."""
    law = laws()["critical-batch"]
    for millions in (85, 302, 1200):
        by_tokens = law.batch.of({"tokens": 20e6 * millions}) / 512
        assert by_tokens == pytest.approx(93.20 * millions**0.47, rel=0.02)


def test_the_power_schedule_grows_with_the_batch_and_ends_at_its_most():
    rate = laws()["power-schedule"].rate
    one = rate.of({"batch": 4096 * 128, "tokens": 1e12})
    assert rate.of({"batch": 4096 * 256, "tokens": 1e12}) == pytest.approx(2 * one)
    assert rate.of({"batch": 4096 * 1e6, "tokens": 1e9}) == 0.02


@pytest.mark.parametrize("name", ["step-law", "deepseek", "critical-batch"])
def test_more_tokens_never_ask_for_smaller_batches(name):
    model = model_of("llama-3-8b")
    sizes = [laws()[name].batch.of(quantities_of(model, 4096, tokens)) for tokens in (1e9, 1e10, 1e11, 1e12, 1e13)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_law_whose_range_is_nearest_is_taken():
    small, large = deepseek(16, 1408, 11, 11, 3904), model_of("llama-3-70b")
    assert suggested(small, 2048, 8, 1e10).law == "step-law"
    assert suggested(large, 8192, 512, 1.4e12).law == "deepseek"
    assert suggested(large, 8192, 512, 1.4e12).rate < suggested(small, 2048, 8, 1e10).rate


def test_without_tokens_there_are_20_for_each_active_parameter():
    dense, experts = model_of("llama-3-8b"), model_of("mixtral-8x7b")
    for model in (dense, experts):
        found = suggested(model, 4096, 64)
        assert found.assumed
        assert found.tokens == 20 * model.active_parameters
        assert found.over == pytest.approx(1)
    assert suggested(dense, 4096, 64, 15e12).over == pytest.approx(93, rel=0.01)


@pytest.mark.parametrize("devices", [1, 24, 128, 1000])
@pytest.mark.parametrize("sequences", [0.3, 5, 77, 916, 12345])
def test_rounded_batches_and_devices_divide_and_are_near(devices, sequences):
    size = rounded(sequences, devices)
    assert size % devices == 0 or devices % size == 0
    if sequences >= devices:
        assert 0.75 <= size / sequences <= 4 / 3


@pytest.mark.parametrize("wrong", [{"seq": 0}, {"devices": 0}, {"tokens": 0.0}, {"tokens": float("nan")}])
def test_what_is_not_above_0_is_refused(wrong):
    with pytest.raises(ValueError, match="above 0"):
        suggested(model_of("llama-3-8b"), **{"seq": 4096, "devices": 8} | wrong)


def test_a_plan_without_a_batch_takes_the_one_that_is_suggested():
    found = plan("llama-3-8b", "dgx-h100:1", seq=4096, fix="tp=8,pp=1,cp=1,zero=1", top=1)
    assert found.suggested is not None
    assert found.best.setup.batch == found.suggested.batch == suggested(model_of("llama-3-8b"), 4096, 8).batch
