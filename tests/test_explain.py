"""The command ``penstock explain``."""

import json

import pytest

from penstock.units import human_bytes, human_s

FLAGS = (
    "--model gpt:L=24,h=2048,a=16,vocab=50304 --cluster a100-80gb:8 --seq 2048 --batch 64 --micro-batch 4 --tp 2 --pp 2"
)


@pytest.fixture
def said(penstock):
    """What explain prints for these words, which must be no error."""

    def say(words=""):
        code, out, err = penstock(f"explain {FLAGS} {words}")
        assert (code, err) == (0, "")
        return out

    return say


@pytest.fixture
def predicted(penstock, tmp_path):
    """A file that predict wrote."""
    file = tmp_path / "step.json"
    assert penstock(f"predict {FLAGS} --json {file}")[0] == 0
    return file


def walk(tree):
    yield tree
    for part in tree.get("parts", ()):
        yield from walk(part)


def test_the_text_says_what_the_json_does(said):
    text, tree = said(), json.loads(said("--json"))["time"]
    top = {line[2:].split("  ")[0]: line for line in text.splitlines() if line.startswith("  ") and line[2] != " "}
    assert list(top) == [part["name"] for part in sorted(tree["parts"], key=lambda part: -part["value"])]
    for part in tree["parts"]:
        assert human_s(part["value"]) in top[part["name"]]
    lines = {line.split()[0]: line for line in text.splitlines() if line}
    up = next(figure for figure in walk(tree) if figure["name"] == "mlp.up")
    for phase in up["parts"]:
        assert human_s(phase["value"]) in lines["mlp.up"]
    assert "compute" in lines["mlp.up"]
    assert lines["step"].split()[-1] == "100.0%"
    guessed = json.loads(said("--json"))["guessed_s"]
    assert guessed
    for name, seconds in guessed.items():
        assert f"{seconds / tree['value']:.1%}  {name} = " in text
    assert text.index("mlp.up ") < text.index("mlp.activation ")  # the longest first


def test_a_file_of_predict_is_what_was_asked(penstock, predicted, said):
    code, out, err = penstock(f"explain {predicted}")
    assert (code, err, out) == (0, "", said())
    facts = json.loads(predicted.read_text())
    tree = json.loads(penstock(f"explain {predicted} --json")[1])
    assert {part["name"]: part["value"] for part in tree["time"]["parts"]} == facts["parts_s"]
    assert [rank["value"] for rank in tree["memory"]] == facts["memory_by_rank_bytes"]


def test_tuples_come_back_from_a_file(penstock, tmp_path):
    file = tmp_path / "step.json"
    words = f"{FLAGS} --recompute mlp_norm,mlp.activation --stage-layers 11,13"
    assert penstock(f"predict {words} --json {file}")[0] == 0
    assert penstock(f"explain {file}")[1] == penstock(f"explain {words}")[1]


def test_one_figure_is_opened_to_the_bottom(said):
    out = said("--what blocks/mlp.up")
    figure = json.loads(said("--what blocks/mlp.up --json"))["figures"][0]
    assert figure["path"] == "blocks/attention and mlp/mlp.up"
    assert out.startswith(f"blocks / attention and mlp / mlp.up: {human_s(figure['value'])}")
    for phase in figure["parts"]:
        assert f"{phase['name']}: {human_s(phase['value'])}" in out
        assert phase["how"] in out
        for constant in phase["constants"]:
            row, below = out[out.index(f"  {constant['name']} = ") :].splitlines()[:2]
            assert constant["range"] in row
            assert ("guessed" in row) == constant["guessed"]
            assert below == f"    {constant['meaning'].rstrip('.')}; {constant['source']}"


def test_memory_rank_by_rank(said):
    trees = json.loads(said("--json"))["memory"]
    fullest = max(range(2), key=lambda rank: trees[rank]["value"])
    for rank, out in ((0, said("--memory --rank 0")), (1, said("--memory --rank 1")), (fullest, said("--memory"))):
        for tree in trees:
            assert human_bytes(tree["value"]) in out
        assert f"\nrank {rank} " in out
        for figure in walk(trees[rank]):
            assert f"{figure['name']} " in out
        assert trees[rank]["facts"]["activations_at_op"] in out
    opened = said("--memory --rank 0 --what weights/mlp.up")
    assert opened.startswith("weights / attention and mlp / mlp.up: ")
    assert said("--rank 0 --what activations").startswith("activations: ")  # not of seconds: of bytes, then


def test_json_files_hold_what_json_prints(said, tmp_path):
    file = tmp_path / "all.json"
    out = said(f"--json {file}")
    assert json.loads(file.read_text()) == json.loads(said("--json"))
    assert out == said()


def test_the_roofline_is_drawn(said, tmp_path):
    files = [tmp_path / f"{name}.svg" for name in "ab"]
    for file in files:
        assert said(f"--roofline {file}") == said()
    first, second = (file.read_bytes() for file in files)
    assert first == second
    text = first.decode()
    for words in ("mlp.up", "bf16 peak 312 TFLOP/s", "bf16 through a step", "memory 2,039 GB/s", "tp=2 pp=2 dp=2"):
        assert words in text
    assert "fp64 peak" not in text  # nothing runs in it


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--what blocks/mlp.upp", "'blocks/mlp.upp' is no figure of step; did you mean 'mlp.up'?"),
        ("--memory --what weigths", "'weigths' is no figure of rank"),
        ("--rank 2", "--rank 2: the pipeline has the ranks 0 to 1"),
        ("--roofline a.pdf", "'a.pdf': pictures end in .png or .svg, not in '.pdf'"),
        ("--json a.json b.json", "name one file, or none"),
        ("--json /nowhere/a.json", "the folder /nowhere does not exist"),
        ("--tq 3", "--tq"),
    ],
)
def test_errors_are_one_line(penstock, words, says):
    code, _, err = penstock(f"explain {FLAGS} {words}")
    assert (code, err.count("\n")) == (2, 1)
    assert says in err


def test_errors_about_what_is_asked(penstock, predicted, tmp_path):
    other = tmp_path / "other.json"
    other.write_text('{"seconds": 1}')
    for words, says in (
        ("", "--model is missing"),
        ("--model gpt2", "--cluster is missing; give it, or a file that penstock predict --json wrote"),
        (f"{predicted} --tp 2", "says what was asked; leave out --tp, or the file"),
        (f"{predicted} --micro-batch 2", "says what was asked; leave out --micro"),
        (str(other), "is not what penstock predict --json FILE writes"),
        (str(tmp_path / "none.json"), "No such file"),
    ):
        code, _, err = penstock(f"explain {words}")
        assert (code, err.count("\n")) == (2, 1), words
        assert says in err
