import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from penstock.view import plot


def test_png_has_the_size_asked_and_is_not_blank(make, tmp_path: Path) -> None:
    from matplotlib.image import imread

    path = tmp_path / "a.png"
    plot.save([make(ranks=4, micros=8)], path, dpi=100)
    pixels = imread(path)
    assert pixels.shape[1] == 1200
    assert 250 < pixels.shape[0] < 800
    assert len({tuple(row) for row in (pixels[:, 600, :3] * 255).astype(int).tolist()}) > 3


def test_svg_is_xml_with_one_text_per_op(make, tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    timeline = make("zb-h1", ranks=4, micros=8, sends=True, link_s=0.2, step_s=1.0)
    plot.save([timeline], path, title="A & B <c>")
    root = ElementTree.parse(path).getroot()
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "A & B <c>" in texts
    assert texts.count("7") == 4 * 3  # F, I and W of the last micro-batch on four ranks
    assert {"rank 0", "rank 3", "optimizer step", "buffers"} <= set(texts)
    assert not any("nan" in node.get("d", "") for node in root.iter())


def test_a_block_has_one_label_and_work_on_links_no_bar(dressed, tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    timeline = dressed()
    plot.save([timeline], path)
    texts = [node.text for node in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert sum("+" in (text or "") for text in texts) == timeline.plan.fused.sum()
    assert "F3+B1" in texts
    assert {"gathered weights", "drop gathered weights"} <= set(texts)
    assert not {"gather weights", "reduce gradients", "copy to the host"} & set(texts)


def test_timelines_share_one_time_axis(make, tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    plot.save([make(), make(slower=2.0, label="measured")], path)
    texts = [node.text for node in ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert any(text and text.startswith("predicted") for text in texts)
    assert any(text and text.startswith("measured") for text in texts)
    assert texts.count("10 s") == 1


def test_same_timeline_gives_same_bytes(make, tmp_path: Path) -> None:
    digests = set()
    for name in ("a.svg", "b.svg"):
        plot.save([make()], tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_large_svgs_hold_a_bitmap(make, tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    plot.save([make(ranks=16, micros=800)], path)
    assert b"<image" in path.read_bytes()
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", ["a.pdf", "a"])
def test_other_suffixes_are_refused(make, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"pictures end in \.png or \.svg"):
        plot.save([make()], tmp_path / name)


def test_no_timeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no timeline"):
        plot.save([], tmp_path / "a.png")


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path: Path) -> None:
    code = (
        "import sys; from penstock.view import plot; from penstock.schedules import build;"
        "from penstock.engine import simulate; from penstock.core.costs import Costs;"
        "assert 'matplotlib' not in sys.modules;"
        "plan = build('1f1b', ranks=2, micros=2);"
        f"plot.save([simulate(plan, Costs.uniform(plan.placement))], {str(tmp_path / 'a.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
