"""Launch scripts are read as a shell would, as far as that goes without running them."""

import pytest

from penstock.calibrate.megatron import fields_of, layout_of, layout_sizes
from penstock.export.shell import arguments, script_words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('A="\n  --num-layers 8\n  --bf16\n"\nrun $A', {"num-layers": "8", "bf16": "true"}),
        ('A+=("--fp8-format hybrid")', {"fp8-format": "hybrid"}),
        ("run --tp=2 --cp-comm-type a2a p2p; echo done", {"tp": "2", "cp-comm-type": "a2a p2p"}),
        (
            "N=4\nrun --ranks $((N * 2)) --half $((N/2)) --odd $((N**2))",
            {"ranks": "8", "half": "2", "odd": "$"},
        ),
        ("run --a $((2 + 3 * 4 - 8 / 3)) --b $((7/2*2))", {"a": "12", "b": "6"}),
        ("run --a ${X:-3} --b ${Y=4} --c $Z ${ARGS[@]}", {"a": "3", "b": "4", "c": "$Z"}),
        ("# --no 1\nrun --yes 1 # --no 2", {"yes": "1"}),
        ("TP=2\nTP=4\nrun --tp ${TP} \\\n  --pp 3", {"tp": "4", "pp": "3"}),
        ("run --layout 'E(tt|)*2,L' --freq '([0]*3+[1]*5)'", {"layout": "E(tt|)*2,L", "freq": "([0]*3+[1]*5)"}),
    ],
)
def test_arguments(text, found):
    assert arguments(script_words(text)) == found


def test_a_quotation_that_does_not_end_is_an_error():
    with pytest.raises(ValueError, match="quotation"):
        arguments(script_words("run --a 'b"))


def test_a_variable_without_a_value_is_named():
    with pytest.raises(ValueError, match=r"--tensor-model-parallel-size \$TP is no whole number"):
        fields_of(arguments(script_words("run --tensor-model-parallel-size $TP")), 8)


@pytest.mark.parametrize("sizes", [(1, 2), (0, 3, 3, 0), (2, 2, 2, 1)])
def test_layouts_come_back(sizes):
    assert layout_sizes(layout_of(sizes)) == sizes


def test_layouts_have_as_many_stages_for_each_rank():
    words = "run --num-layers 3 --pipeline-model-parallel-size 2 --pipeline-model-parallel-layout 'Et|t|tL'"
    with pytest.raises(ValueError, match="layout has 3 stages; give a multiple of 2"):
        fields_of(arguments(script_words(words)), 8)


@pytest.mark.parametrize("layout", ["", "Ex|L", "E[t]|L"])
def test_what_is_no_layout_is_refused(layout):
    with pytest.raises(ValueError, match="write E, t, m, L"):
        layout_sizes(layout)
