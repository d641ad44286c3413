"""What rated power leaves of the rate of single kernels, on devices that were fitted, their kin, and unknown ones."""

from dataclasses import replace

import pytest

from penstock.calibrate.unknown import UNKNOWN, strange
from penstock.core.device import device
from penstock.cost.constants import constants, levels
from penstock.cost.lasting import FITTED, USUAL, power_share, powered, sustained, sustained_key
from penstock.cost.passes import ATTENTION, LOW_PRODUCT, MEMORY, PRODUCT


def test_clocks_follow_power_until_it_binds_no_more():
    chip = device("h100-80gb-sxm")
    less, more = (power_share(replace(chip, power_w=chip.power_w * share)) for share in (0.5, 4.0))
    assert less == pytest.approx(power_share(chip) * 0.5 ** constants("power")["clock"])
    assert more == 1.0
    assert power_share(replace(chip, power_w=None)) == power_share(device("cpu")) == USUAL < 1.0


@pytest.mark.parametrize("architecture", FITTED)
def test_devices_that_shares_were_fitted_to_have_them_as_they_are(architecture):
    chip = device(FITTED[architecture])
    assert chip.architecture == architecture
    key = sustained_key(architecture, "attention")
    assert powered(chip, "attention", key, 0.7) == pytest.approx(0.7)


def test_devices_of_one_architecture_differ_by_power_and_peak():
    names = ("h100-80gb-pcie", "h100-80gb-sxm", "h20")
    pcie, sxm, few = (sustained(device(name), "fp8", "bf16") for name in names)
    for kind in (PRODUCT, LOW_PRODUCT, ATTENTION):
        assert pcie[kind] < sxm[kind] < few[kind] <= 1.0
    assert pcie[MEMORY] == sxm[MEMORY] == few[MEMORY]
    assert sustained(device("h200-141gb-sxm"), "fp8", "bf16").tolist() == sxm.tolist()


@pytest.mark.parametrize("name", ["a100-80gb-sxm", "h100-80gb-sxm", "b200"])
def test_a_datasheet_alone_says_about_what_runs_say(name):
    known, alone = (sustained(chip, "bf16", "bf16") for chip in (device(name), strange(device(name))))
    assert alone[PRODUCT] == pytest.approx(levels("sustained")["default"][0] * power_share(device(name)))
    assert alone[PRODUCT] == pytest.approx(known[PRODUCT], rel=0.06)
    assert alone[ATTENTION] == pytest.approx(known[ATTENTION], rel=0.12)
    assert strange(device(name)).architecture == UNKNOWN
