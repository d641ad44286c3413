"""The plan by which a run evaluates: the forwards of its training plan."""

from __future__ import annotations

from penstock.core.lane import Lane
from penstock.core.op import Kind, Op
from penstock.core.plan import Plan
from penstock.engine.check import check
from penstock.lower import add_sends, algorithm_of, split_vocabulary


def evaluation_plan(plan: Plan) -> Plan:
    """Forwards alone, each micro-batch through the chain it takes in training; those that can run first come first."""
    placement = plan.placement
    chain_of = {op.micro: placement.chain_of[op.stage] for lane in plan.lanes for op in lane if op.kind == Kind.F}
    nth, on_chain = {}, [0] * placement.chains
    for i in sorted(chain_of):
        nth[i] = on_chain[chain_of[i]]
        on_chain[chain_of[i]] += 1

    def turn(op: Op) -> tuple[int, int]:
        return nth[op.micro] + placement.depth_of[op.stage], placement.chain_of[op.stage]

    rows = [sorted([op for op in lane if op.kind == Kind.F], key=turn) for lane in plan.lanes]
    lanes = tuple(map(Lane.of, rows))
    bare = Plan("evaluation", placement, plan.micros, lanes, slices=plan.slices, slice_lengths=plan.slice_lengths)
    check(bare)
    algorithm = algorithm_of(plan)
    if algorithm:
        bare = split_vocabulary(bare, algorithm)
    lowered = add_sends(bare, plan.sends)
    check(lowered)
    return lowered
