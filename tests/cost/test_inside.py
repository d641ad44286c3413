"""What measured blocks say of the operators inside of them, on a CPU whose blocks are made up."""

from dataclasses import replace

import numpy as np
import pytest

from penstock.calibrate.shapes import blocks
from penstock.core.cluster import Cluster
from penstock.core.config import architecture_from_config
from penstock.core.curves import COLUMNS, Curves
from penstock.core.device import device
from penstock.core.setup import Setup
from penstock.cost.constants import constants
from penstock.cost.inside import NOISE, _parts, host_paces, inside
from penstock.cost.passes import ATTENTION, MEMORY, PRODUCT
from penstock.cost.stack import stack
from penstock.predict.micro import Rank
from penstock.predict.part import both_s

SLOWER, FORWARD_S, BACKWARD_S = (1.3, 1.05, 1.6), 3e-5, 1.2e-5


def measured(noise=0.0):
    """A CPU, and the passes that it would have shown."""
    plain, draw = device("cpu"), np.random.default_rng(0)
    rows = []
    for shape in blocks():
        for gradient in (False, True):
            row = {"precision": "fp32", **shape._asdict(), "gradient": gradient}
            seconds = float(np.dot(list(_parts(plain, row)), (*SLOWER, FORWARD_S, BACKWARD_S)))
            rows.append([*row.values(), seconds * float(np.exp(noise * draw.normal()))])
    table = {"block": {"columns": list(COLUMNS["block"]), "rows": rows}}
    return replace(plain, name="made-up", curves=Curves.read("made-up", table))


def test_blocks_tell_how_much_slower_kernels_are_in_them_and_what_the_host_does():
    found = inside(measured())
    assert 1 / found.shares[[PRODUCT, ATTENTION, MEMORY]] == pytest.approx(SLOWER, rel=0.05)
    assert (found.forward_s, found.backward_s) == pytest.approx((FORWARD_S, BACKWARD_S), rel=0.05)
    assert found.error < 0.01
    assert inside(device("cpu")) is None


def test_noise_of_measurements_moves_no_factor_far():
    found = inside(measured(NOISE))
    assert (1 / found.shares[[PRODUCT, ATTENTION, MEMORY]] > 0.7).all()
    assert 0.01 < found.error < NOISE
    assert min(found.forward_s, found.backward_s) > 0


@pytest.mark.parametrize("at", range(0, 16, 5))
def test_a_measured_block_is_predicted_to_take_what_it_took(at):
    chip = measured()
    row = {name: values[at].item() for name, values in chip.curves.rows("block").items()}
    keys = {"hidden_size": "hidden", "intermediate_size": "inner", "num_attention_heads": "heads"}
    config = {name: row[key] for name, key in (keys | {"num_key_value_heads": "kv_heads"}).items()}
    config |= {"model_type": "llama", "vocab_size": 64, "num_hidden_layers": row["layers"]}
    model = architecture_from_config("block", config, "block")
    plain = Cluster.read("laptop:1")
    cluster = replace(plain, groups=((replace(plain.node_of(0), device=chip), 1),))
    setup = Setup(seq=row["seq"], batch=row["batch"] * 1000, micro=row["batch"], precision="fp32")
    part = Rank(model, cluster, setup, stack("penstock")).parts[model.blocks[0]]
    seconds = part.i_s + part.w_s if row["gradient"] else part.f_s
    assert row["layers"] * seconds == pytest.approx(row["seconds"], rel=0.02)


def test_the_host_of_a_cpu_and_the_cpu_take_turns():
    assert both_s(device("cpu"), 2.0, 1.0) == 3.0
    power = constants("host")["overlap"]
    assert both_s(device("h100"), 2.0, 1.0) == pytest.approx((2.0**power + 1.0) ** (1 / power))
    assert device("a64fx").is_cpu
    assert not device("mi300a").is_cpu


def test_paces_are_those_of_blocks_where_they_were_measured():
    usual_s = stack("penstock").launch_s
    assert host_paces(measured()) == pytest.approx((FORWARD_S / usual_s, BACKWARD_S / usual_s), rel=0.05)
    assert host_paces(device("cpu")) == (1.0, 1.0)
