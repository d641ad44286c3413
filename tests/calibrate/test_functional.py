"""Megatron-LM's functional tests: their arguments are read, and their exact memory is predicted."""

import csv
import json

import numpy as np
import pytest
from launches import FILE, read_launches

from penstock.predict import predict

LAUNCHES, LEFT = read_launches(FILE)
ARGUMENTS = {
    "num-layers": "12",
    "hidden-size": "512",
    "num-attention-heads": "8",
    "micro-batch-size": "4",
    "global-batch-size": "32",
    "seq-length": "1024",
    "max-position-embeddings": "1024",
    "transformer-impl": "transformer_engine",
    "bf16": "true",
}


def error(launch):
    """Of the last rank."""
    found = predict(launch.model, launch.cluster, launch.setup, launch.stack)
    return found.rooms[-1].counted("allocated") / launch.peak_bytes - 1


def launched(tmp_path, family="gpt", devices="8", **arguments):
    given = ARGUMENTS | {name.replace("_", "-"): str(value) for name, value in arguments.items()}
    row = {"family": family, "test": "t", "golden_file": "g.json", "platform": "a100", "devices": devices}
    row |= {"mem_max_allocated_bytes": "1000", "mem_allocated_bytes": "500", "all_args": json.dumps(given)}
    with (tmp_path / "launches.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)
    return read_launches(tmp_path / "launches.csv")


def test_nearly_all_can_be_read():
    assert len(LAUNCHES) >= 360
    assert set(LEFT.values()) >= {"--multi-latent-attention: latent attention cannot be read"}


def test_half_of_them_are_within_two_per_cent():
    errors = np.abs([error(launch) for launch in LAUNCHES])
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.75) < 0.06


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("gpt3_7b_tp1_pp4_memory_speed/golden_values_dev_dgx_a100", 0.01),
        ("uniform_full_recompute/golden_values_dev_dgx_h100", 0.02),
        ("gpt3_mcore_te_tp1_pp4_vp1/golden_values_dev_dgx_a100", 0.03),
        ("tp2_zp_z3_resume_fsdp_dtensor/golden_values_dev_dgx_gb200", 0.05),
        ("tp2_pp2_cp2_nondeterministic/golden_values_dev_dgx_h100", 0.05),
        ("gpt3_mcore_tp1_pp4_resume_torch_dist/golden_values_dev_dgx_a100", 0.03),
    ],
)
def test_one_of_each_kind(name, most):
    errors = [error(each) for each in LAUNCHES if name in each.name]
    assert errors
    assert max(map(abs, errors)) < most


def test_arguments_mean_what_megatron_means(tmp_path):
    (launch,), _ = launched(
        tmp_path,
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=4,
        num_layers_per_virtual_pipeline_stage=1,
        sequence_parallel="true",
        use_distributed_optimizer="true",
        attention_backend="unfused",
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    setup = launch.setup
    assert (setup.tp, setup.pp, setup.dp, setup.chunks, setup.schedule) == (2, 4, 1, 3, "interleaved")
    assert (setup.sp, setup.zero, setup.flash, setup.dropout) == (True, 1, False, False)
    assert launch.model.vocab == 50432  # 50,257 up to a multiple of 128 on each of two ranks
    assert launch.model.head.tied


def test_ends_that_count_as_layers(tmp_path):
    ends = {f"account_for_{end}_in_pipeline_split": "true" for end in ("embedding", "loss")}
    (launch,), _ = launched(tmp_path, num_layers=6, pipeline_model_parallel_size=4, **ends)
    assert launch.setup.stage_layers == (1, 2, 2, 1)
    first = {"decoder_first_pipeline_num_layers": 2, "decoder_last_pipeline_num_layers": 4}
    (launch,), _ = launched(tmp_path, pipeline_model_parallel_size=4, **first)
    assert launch.setup.stage_layers == (2, 3, 3, 4)
    only = {"decoder_first_pipeline_num_layers": 3}
    (launch,), _ = launched(tmp_path, pipeline_model_parallel_size=4, **only)
    assert launch.setup.stage_layers == (3, 3, 3, 3)
    chunks = {"num_virtual_stages_per_pipeline_rank": 2, "decoder_last_pipeline_num_layers": 4}
    (launch,), _ = launched(tmp_path, num_layers=28, pipeline_model_parallel_size=4, **chunks)
    assert launch.setup.stage_layers == (4, 4, 4, 2, 4, 4, 4, 2)
    both = {"decoder_first_pipeline_num_layers": 5, "decoder_last_pipeline_num_layers": 7}
    (launch,), _ = launched(tmp_path, pipeline_model_parallel_size=2, **both)
    assert launch.setup.stage_layers == (5, 7)
    _, left = launched(tmp_path, pipeline_model_parallel_size=2, **both | {"decoder_last_pipeline_num_layers": "x"})
    assert left == {"gpt/t/g.json": "--decoder-last-pipeline-num-layers x is no whole number"}


def test_experts_are_split_over_ranks_as_columns_are(tmp_path):
    experts = {"num_experts": 8, "expert_model_parallel_size": 2, "tensor_model_parallel_size": 2}
    (launch,), _ = launched(tmp_path, "moe", **experts)
    assert (launch.setup.ep, launch.setup.etp) == (2, 2)


@pytest.mark.parametrize(
    ("family", "arguments", "why"),
    [
        ("t5", {}, "family t5 is no decoder with attention alone"),
        ("gpt", {"hybrid-layer-pattern": "M*"}, "--hybrid-layer-pattern: hybrid layers cannot be read"),
        ("moe", {"moe-layer-freq": "2"}, "--moe-layer-freq 2: only first layers without experts are read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, family, arguments, why):
    found, left = launched(tmp_path, family, **arguments)
    assert found == []
    assert list(left.values()) == [why]
