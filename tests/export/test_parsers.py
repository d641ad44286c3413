"""Exports are accepted by the frameworks' own parsers, where these can be imported here."""

import argparse
import importlib
import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
from exported import CLUSTER, asked, setups
from hypothesis import given, reject
from hypothesis import strategies as st
from test_round_trip import SLOWLY

from penstock.core.config import read_architecture
from penstock.export.frameworks import export
from penstock.export.shell import arguments, script_words
from penstock.export.torchtitan import FLAVORS, IN_V, ORDERS
from penstock.export.torchtitan_python import FILE as PYTHON
from penstock.export.torchtitan_python import MODULES

PARSERS = {
    "megatron": "megatron.training.arguments",
    "torchtitan": "torchtitan.config.manager",
    "deepspeed": "deepspeed.runtime.config",
    "accelerate": "accelerate.commands.config.config_args",
}


MODELS = st.sampled_from(list(FLAVORS)).map(read_architecture)
"""Those that torchtitan has."""


def parser(name, module=""):
    """The module that parses, or another one, or a skip with the reason."""
    try:
        return importlib.import_module(module or PARSERS[name])
    except Exception as error:
        pytest.skip(f"{module or PARSERS[name]} cannot be imported here: {type(error).__name__}: {error}")


def written(name, path, what):
    try:
        export(f"{name}:{path}", what[0], CLUSTER, what[1])
    except ValueError:
        reject()
    return what[1]


def test_megatron_takes_every_argument(tmp_path, monkeypatch):
    module = parser("megatron")
    made = module.add_megatron_arguments(argparse.ArgumentParser(allow_abbrev=False))
    _as_on_hopper(module, monkeypatch)
    layout = importlib.import_module("megatron.core.transformer.pipeline_parallel_layer_layout")
    file = tmp_path / "train.sh"

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("megatron", file, what)
        found = arguments(script_words(file.read_text()))
        given_ = {key: value for key, value in found.items() if key not in TORCHRUN}
        words = [word for key, value in given_.items() for word in (f"--{key}", *_values(key, value))]
        got = made.parse_args([*words, "--train-iters", "10", "--lr", "1e-4"])
        assert (got.tensor_model_parallel_size, got.pipeline_model_parallel_size) == (setup.tp, setup.pp)
        assert (got.micro_batch_size, got.global_batch_size) == (setup.micro, setup.batch)
        assert (got.context_parallel_size, got.use_distributed_optimizer) == (setup.cp, setup.zero > 0)
        if got.pipeline_model_parallel_layout:
            stages = layout.PipelineParallelLayerLayout(got.pipeline_model_parallel_layout, setup.pp)
            stages.validate_layer_layout(what[0].layers, None)
            counts = [stages.layout[s % setup.pp][s // setup.pp] for s in range(setup.stages)]
            sizes = [sum(layer.name == "decoder" for layer in stage) for stage in counts]
            assert sizes == [len(layers) for layers in setup.layers_of(what[0].layers)]
        one = "export CUDA_DEVICE_MAX_CONNECTIONS=1" in file.read_text()
        monkeypatch.setenv("CUDA_DEVICE_MAX_CONNECTIONS", "1" if one else "8")
        got.rank, got.world_size = 1, setup.devices
        module.validate_args(got, {})
        assert got.data_parallel_size == setup.dp

    check()


def _as_on_hopper(module, monkeypatch):
    """Let the arguments be validated where there are neither GPUs nor Transformer Engine."""
    torch = importlib.import_module("torch")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(major=9, minor=0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(module, "is_te_min_version", lambda *_, **__: True)


TORCHRUN = ("nnodes", "nproc-per-node", "rdzv-id", "rdzv-backend", "rdzv-endpoint")


def _values(key, value):
    if value == "true":
        return []
    return value.split() if key in ("recompute-modules", "offload-modules") else [value]


def test_torchtitan_takes_the_table(tmp_path):
    parser("torchtitan", "torchtitan.config.job_config")
    module = parser("torchtitan")

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("torchtitan", tmp_path, what)
        got = module.ConfigManager().parse_args(["--job.config_file", str(tmp_path / "train.toml")])
        dims = importlib.import_module("torchtitan.distributed.parallel_dims").ParallelDims(
            dp_replicate=got.parallelism.data_parallel_replicate_degree,
            dp_shard=got.parallelism.data_parallel_shard_degree,
            cp=got.parallelism.context_parallel_degree,
            tp=got.parallelism.tensor_parallel_degree,
            pp=got.parallelism.pipeline_parallel_degree,
            ep=got.parallelism.expert_parallel_degree,
            etp=got.parallelism.expert_tensor_parallel_degree,
            world_size=setup.devices,
        )
        assert dims.dp_replicate * dims.dp_shard == setup.dp
        assert got.training.global_batch_size % (got.training.local_batch_size * setup.dp) == 0
        if setup.pp > 1:
            assert len(got.parallelism.module_fqns_per_model_part) == setup.stages
            file = got.parallelism.pipeline_parallel_schedule_csv
            assert not file or os.path.isfile(file)

    check()


def test_torchtitan_takes_the_module(tmp_path, monkeypatch):
    parser("torchtitan", "torchtitan.config.configs")
    dims = importlib.import_module("torchtitan.distributed.parallel_dims").ParallelDims
    module = parser("torchtitan")
    monkeypatch.syspath_prepend(tmp_path)
    for recipe in ("float8", "mx"):
        monkeypatch.setattr(f"torchtitan.components.quantization.{recipe}.has_cuda_capability", lambda *_: True)
    read = []

    @SLOWLY
    @given(MODELS.flatmap(lambda one: st.tuples(st.just(one), setups(one))))
    def check(what):
        (tmp_path / PYTHON).unlink(missing_ok=True)
        sys.modules.pop("train_config", None)
        importlib.invalidate_caches()
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        setup = written("torchtitan", tmp_path, what)
        if not (tmp_path / PYTHON).exists():
            return
        got = module.ConfigManager().parse_args(["--module", "train_config", "--config", "train"])
        mesh = dims.from_config(got.parallelism, setup.devices)
        assert (mesh.dp_replicate * mesh.dp_shard, mesh.cp, mesh.tp, mesh.pp, mesh.ep) == (
            *(setup.dp, setup.cp, setup.tp, setup.pp, setup.ep),
        )
        assert (got.training.seq_len, got.training.global_batch_size) == (setup.seq, setup.batch)
        assert got.training.global_batch_size % (got.training.local_batch_size * setup.dp) == 0
        assert len(got.model_spec.model.layers) == what[0].layers
        if setup.pp > 1:
            assert len(got.parallelism.module_fqns_per_model_part) == setup.stages
        read.append(setup)

    check()
    assert len(read) > 20


@pytest.mark.parametrize("ours", FLAVORS)
def test_flavors_of_torchtitan_have_the_sizes_of_our_models(ours):
    name, flavor = FLAVORS[ours]
    model = read_architecture(ours)
    try:
        theirs = importlib.import_module("torchtitan.protocols.train_spec").get_train_spec(name).model_args[flavor]
        assert (model.layers, model.hidden) == (theirs.n_layers, theirs.dim)
    except ImportError:
        if name not in MODULES:
            pytest.skip(f"no torchtitan that has {name} can be imported here")
        theirs = parser("torchtitan", f"torchtitan.models.{name}").model_registry(flavor, attn_backend="flex").model
        assert (model.layers, model.hidden) == (len(theirs.layers), theirs.dim)


@pytest.mark.parametrize("name", [*ORDERS.values(), IN_V, "PipelineScheduleMulti", "PipelineScheduleSingle"])
def test_pytorch_knows_the_names_of_orders(name):
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch names schedules")
    assert schedules.get_schedule_class(name)


def test_deepspeed_takes_the_object(tmp_path, monkeypatch):
    module = parser("deepspeed")
    monkeypatch.setattr(module.dist, "get_rank", lambda: 0)
    file = tmp_path / "ds.json"

    class Ranks:
        """A mesh of data-parallel ranks in place of processes."""

        def __init__(self, count):
            self.count = count

        def get_data_parallel_world_size(self):
            return self.count

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("deepspeed", file, what)
        got = module.DeepSpeedConfig(str(file), mpu=Ranks(setup.dp))
        assert (got.train_batch_size, got.train_micro_batch_size_per_gpu) == (setup.batch, setup.micro)
        assert (got.gradient_accumulation_steps, got.zero_config.stage) == (setup.micros, setup.zero)
        assert got.bfloat16_config.enabled == (setup.precision not in ("fp16", "fp32"))

    check()


def test_accelerate_takes_the_file(tmp_path):
    module = parser("accelerate")
    axes = importlib.import_module("accelerate.parallelism_config").ParallelismConfig
    file = tmp_path / "config.yaml"

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("accelerate", file, what)
        got = module.load_config_from_file(str(file))
        assert got.num_processes == setup.devices
        if got.parallelism_config:
            sizes = {key.removeprefix("parallelism_config_"): value for key, value in got.parallelism_config.items()}
            made = axes(**{key: value for key, value in sizes.items() if key.endswith("_size")})
            assert made.total_size == setup.devices

    check()


def test_json_and_yaml_are_what_they_say(tmp_path):
    yaml = pytest.importorskip("yaml", reason="PyYAML reads the export for accelerate")

    @SLOWLY
    @given(asked())
    def check(what):
        setup = written("deepspeed", tmp_path / "ds.json", what)
        assert json.loads((tmp_path / "ds.json").read_text())["train_batch_size"] == setup.batch

    @SLOWLY
    @given(asked())
    def check_yaml(what):
        setup = written("accelerate", tmp_path / "c.yaml", what)
        assert yaml.safe_load((tmp_path / "c.yaml").read_text())["num_processes"] == setup.devices

    check()
    check_yaml()
