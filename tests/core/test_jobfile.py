import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.job import Job, RunSettings, RunSpec, Strategy, settings
from penstock.core.jobfile import make_spec, read_job, spec_to_toml

FILE = """
model = "tiny-gpt2"

[job]
steps = 7
learning_rate = 1

[strategy]
ranks = 4
stage_layers = [1, 2, 3, 0]

[run]
resume = true
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = written(tmp_path, FILE)
    spec = make_spec(path, {"steps": 9, "out": "elsewhere"})
    assert spec == RunSpec(
        model="tiny-gpt2",
        job=Job(steps=9, learning_rate=1.0),
        strategy=Strategy(ranks=4, stage_layers=(1, 2, 3, 0)),
        run=RunSettings(resume=True, out="elsewhere"),
    )
    assert isinstance(spec.job.learning_rate, float)
    assert make_spec(None, {}) == RunSpec()
    assert make_spec(path, {"model": "tiny-llama"}).model == "tiny-llama"
    assert read_job(path)["stage_layers"] == (1, 2, 3, 0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps = ", "job.toml is not TOML: Invalid value (at end of document)"),
        ("[job]\nsteps = 3 4", "is not TOML: Expected newline or end of document after a statement (at line 2, column"),
        ("[jb]\nsteps = 3", "unknown table [jb]; did you mean 'job'?"),
        ("[job]\nstps = 3", "[job] has the unknown key 'stps'; did you mean 'steps'?"),
        ("[job]\nranx = 3", "[job] has the unknown key 'ranx'; did you mean 'ranks' in [strategy]?"),
        ("[job]\nranks = 3", "[job] has the key 'ranks', which belongs in [strategy]"),
        ("[job]\nmodel = 'x'", "[job] has the key 'model', which belongs at the top, above every table"),
        ("[job]\nzzzz = 3", "choose from data, seq_length"),
        ("steps = 3", "the top has the key 'steps', which belongs in [job]"),
        ("modle = 'x'", "the top has the unknown key 'modle'; did you mean 'model'?"),
        ("job = 3", "job = 3 must be a table; write [job] and its keys below"),
        ("[job]\nsteps = 'many'", "[job] steps = 'many' must be a whole number"),
        ("[job]\nsteps = true", "[job] steps = True must be a whole number"),
        ("[job]\nsteps = 1.5", "[job] steps = 1.5 must be a whole number"),
        ("[job]\nlearning_rate = '1e-3'", "learning_rate = '1e-3' must be a number"),
        ("[job]\ndata = 3", "data = 3 must be text in quotes"),
        ("[job]\nprecision = 'bf16'", "must be one of float32, float64, bfloat16; did you mean 'bfloat16'?"),
        ("[job]\nprecision = 16", "precision = 16 must be one of float32, float64, bfloat16"),
        ("[run]\nresume = 1", "[run] resume = 1 must be true or false"),
        ("[strategy]\nstage_layers = [1, 'a']", "must be a list of whole numbers such as [2, 4]"),
        ("[strategy]\nstage_layers = 3", "stage_layers = 3 must be a list of whole numbers"),
        ("[job]\nsteps = 0", "steps=0 is too small; use 1 or more"),
        ("[job]\nlearning_rate = nan", "learning_rate=nan is not a finite number"),
        ("[strategy]\nmicro_batches = 5", "micro_batches=5 does not divide batch=8"),
    ],
)
def test_bad_files_get_one_line_with_the_fix(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        make_spec(written(tmp_path, text), {})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_are_named_with_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, FILE)
    with pytest.raises(ValueError, match=r"jobb.toml does not exist; did you mean .*job.toml\?"):
        read_job(tmp_path / "jobb.toml")
    with pytest.raises(ValueError, match=r"does not exist; there is no job file like it in"):
        read_job(tmp_path / "none" / "other")
    with pytest.raises(ValueError, match=r"is a folder, not a job file"):
        read_job(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"model = '\xe9'")
    with pytest.raises(ValueError, match=r"latin.toml is not UTF-8 text \(byte 9\)"):
        read_job(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"micro_batchs": 4}, "--micro-batchs is unknown; did you mean 'micro_batches'?"),
        ({"micro_batches": "4"}, "--micro-batches '4' must be a whole number"),
        ({"sends": "block"}, "--sends 'block' must be one of overlapped, blocking, batched; did you mean 'blocking'?"),
    ],
)
def test_bad_flags_get_one_line_with_the_fix(flags: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is compared below)
        make_spec(None, flags)
    assert str(caught.value) == says


def values_of(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation is bool:
        return st.booleans()
    if annotation is str:
        return st.text(min_size=1).filter(str.strip)
    if annotation is float:
        return st.floats(min_value=1e-9, max_value=0.999, allow_subnormal=False)
    if annotation is int:
        return st.integers(min_value=2, max_value=60000)
    return st.sampled_from(annotation.__args__)


FREE = [s for s in settings().values() if s.name not in ("stage_layers", "micro_batches", "batch", "ranks", "chunks")]


@given(
    free=st.fixed_dictionaries(
        {}, optional={s.name: values_of(s.type) for s in FREE} | {"vocabulary": st.integers(0, 2)}
    ),
    layers=st.none() | st.lists(st.integers(0, 9), min_size=1, max_size=8).map(tuple),
    micro_batches=st.integers(1, 64),
    each=st.integers(1, 64),
)
def test_toml_brings_back_the_same_spec(
    tmp_path_factory: pytest.TempPathFactory,
    free: dict[str, object],
    layers: tuple[int, ...] | None,
    micro_batches: int,
    each: int,
) -> None:
    split = {"micro_batches": micro_batches, "batch": micro_batches * each}
    cut = {"ranks": len(layers), "stage_layers": layers} if layers else {}
    spec = make_spec(None, {**free, **split, **cut})
    path = tmp_path_factory.getbasetemp() / "round.toml"
    path.write_text(spec_to_toml(spec), encoding="utf-8")
    assert make_spec(path, {}) == spec


def test_importing_reads_neither_pydantic_nor_torch() -> None:
    code = "import sys, penstock.core.jobfile; print({'pydantic', 'torch', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
