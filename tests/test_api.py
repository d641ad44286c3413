import json

import pytest

import penstock

PLAN = penstock.build("1f1b", 2, 3)
TIMELINE = penstock.simulate(PLAN, penstock.Costs.uniform(PLAN.placement))


@pytest.mark.parametrize("thing", [PLAN, TIMELINE], ids=["plan", "timeline"])
@pytest.mark.parametrize("suffix", [".txt", ".png", ".svg", ".html", ".json"])
def test_show_writes_each_kind_of_file(tmp_path, thing, suffix):
    file = tmp_path / f"a{suffix}"
    assert penstock.show(thing, file) == penstock.show(thing)
    assert file.stat().st_size > 100


def test_plans_read_back(tmp_path):
    for suffix in (".txt", ".json"):
        file = tmp_path / f"a{suffix}"
        penstock.show(PLAN, file)
        assert penstock.read_plan(file) == PLAN
    (tmp_path / "a.csv").write_text(penstock.to_csv(PLAN))
    assert penstock.read_plan(tmp_path / "a.csv").lanes == PLAN.lanes


def test_a_timeline_s_json_is_a_trace(tmp_path):
    penstock.show(TIMELINE, tmp_path / "a.json")
    assert "traceEvents" in json.loads((tmp_path / "a.json").read_text())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.pgn", r"cannot write .pgn; did you mean '.png'\?"),
        ("a", "cannot write a file without suffix; choose from .txt, .png, .svg, .html, .json"),
        ("no/a.png", "the folder .*/no does not exist"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, name, says):
    with pytest.raises(ValueError, match=says):
        penstock.show(PLAN, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_reading_names_the_file(tmp_path):
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json: malformed JSON"):
        penstock.read_plan(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        penstock.read_plan(tmp_path / "b.json")
