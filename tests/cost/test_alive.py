"""What is alive in a backward, and what kernels and recipes keep for it."""

from dataclasses import replace

from penstock.core.config import gpt, read_architecture
from penstock.cost.alive import backward_bytes
from penstock.cost.kept import kept
from penstock.cost.model_operators import operators
from penstock.cost.operators import FUSED, PLAIN, Microbatch, Operator, Tensor

SEQ, HIDDEN, HEADS = 64, 32, 4
BLOCK = gpt(layers=1, hidden=HIDDEN, heads=HEADS, vocab=96).blocks[0]
TENSOR = 2 * SEQ * HIDDEN


def held(block=BLOCK, again="none", discard=(), **batch):
    return kept(operators(block, Microbatch(micro=1, seq=SEQ, **batch)), again, discard)


def test_gradients_live_until_they_are_read():
    """Two operators in a row: the second's gradient needs both its tensors, its input's gradient and its result's."""
    x, y, z = Tensor("x", 10), Tensor("y", 100), Tensor("z", 1)
    first = Operator(name="first", kind="matmul", takes=(x,), makes=(y,), saves=(x,))
    second = Operator(name="second", kind="matmul", takes=(y,), makes=(z,), saves=(y,))
    assert backward_bytes([first, second], {"x": 10, "y": 100}) == 10 + 100 + 100 + 1
    assert backward_bytes([first], {"x": 10}) == 10 + 100 + 10


def test_what_an_earlier_operator_saved_too_stays():
    x, y, z = Tensor("x", 10), Tensor("y", 1), Tensor("z", 1)
    first = Operator(name="first", kind="matmul", takes=(x,), makes=(y,), saves=(x,))
    second = Operator(name="second", kind="matmul", takes=(y, x), makes=(z,), saves=(x,))
    assert backward_bytes([first, second], {"x": 10}) == 10 + 1 + 10 + 1


def test_the_most_of_a_block_is_at_its_last_product():
    """When all that was saved is still there: gradients of the residual, of the product's result and of its input."""
    saved = held()
    made = operators(BLOCK, Microbatch(micro=1, seq=SEQ))
    assert backward_bytes(made, saved) - sum(saved.values()) == TENSOR * (1 + 1 + 4)


def test_masks_of_dropout_are_a_byte_each():
    masks = sum(held(dropout=True).values()) - sum(held().values())
    assert masks == 2 * SEQ * HIDDEN
    unfused = replace(FUSED, attention=False)
    scores = HEADS * SEQ**2
    with_, without = (sum(held(kernels=unfused, dropout=drops).values()) for drops in (True, False))
    assert with_ - without == masks + scores * (1 + 2)


def test_a_softmax_of_several_kernels_keeps_scores_in_both_widths():
    unfused = replace(FUSED, attention=False)
    several = sum(held(kernels=replace(unfused, softmax=False)).values())
    assert several - sum(held(kernels=unfused).values()) == 4 * HEADS * SEQ**2


def test_one_kernel_for_a_softmax_takes_four_matrices_of_scores():
    """Six heads of one sequence are no multiple of four; those of two sequences are."""
    block, unfused = gpt(layers=1, hidden=48, heads=6, vocab=96).blocks[0], replace(FUSED, attention=False)
    several = replace(unfused, softmax=False)
    for micro, one_kernel in ((1, False), (2, True)):
        made, apart = (operators(block, Microbatch(micro=micro, seq=SEQ, kernels=k)) for k in (unfused, several))
        assert (sum(kept(made).values()) < sum(kept(apart).values())) == one_kernel
        assert (sum(op.launches for op in made) < sum(op.launches for op in apart)) == one_kernel


def test_products_in_low_precision_keep_a_copy_of_their_input():
    narrow = held(kept_bytes=1.0)
    assert narrow["attention_norm.y.narrow"] == TENSOR / 2
    assert "attention_norm.y" not in narrow
    assert narrow["attention.result"] == TENSOR  # attention itself reads it once more
    assert "mlp.product.narrow" not in held(kept_bytes=1.0, discard=["mlp.activation"])


def test_scans_of_one_kernel_make_their_states_again():
    block = next(block for block in read_architecture("nemotron-3-nano-30b-a3b").blocks if block.mlp is None)
    gone = held(block, kernels=replace(FUSED, states=True)).keys() - held(block).keys()
    assert gone == {"linear.states", "linear.conv.y"}
    assert "linear.states" in held(block, kernels=PLAIN)
