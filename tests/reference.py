"""The dependency rule and the simulator once more, plain and slow: what the fast ones are compared with."""

from collections import defaultdict

from penstock.core.op import NEEDS, Hop, Kind, Op
from penstock.core.placement import NO_STAGE

MESSAGES = {Kind.SEND_F, Kind.RECV_F, Kind.SEND_B, Kind.RECV_B}


def needs(plan, op):
    """Ops that must finish before an op, by words of the rule; ``None`` stands for one that the plan lacks."""
    present, place = set(plan.ops_list), plan.placement
    found = []
    for rule in NEEDS[op.kind]:
        stage = {Hop.SAME: op.stage, Hop.PREV: place.prev[op.stage], Hop.NEXT: place.next[op.stage]}[rule.at]
        if stage == NO_STAGE:
            continue
        crosses = place.rank_of[stage] != place.rank_of[op.stage]
        if rule.via is not None and plan.has_sends and crosses:
            makers = [Op(rule.via, op.stage, op.micro)]
        else:
            makers = [Op(kind, stage, op.micro) for kind in rule.made_by]
        found.append(next((maker for maker in makers if maker in present), None))
    return found


class Listed:
    """A plan as lists of ops."""

    def __init__(self, plan):
        self.plan, self.placement = plan, plan.placement
        self.lanes = [list(lane) for lane in plan.lanes]
        self.ops_list = [op for lane in self.lanes for op in lane]
        self.has_sends = any(op.kind in MESSAGES for op in self.ops_list)
        self.rank_of = {op: r for r, lane in enumerate(self.lanes) for op in lane}

    def other_end(self, op):
        """The send of a receive and the receive of a send."""
        place = self.placement
        return {
            Kind.SEND_F: lambda: Op(Kind.RECV_F, place.next[op.stage], op.micro),
            Kind.RECV_F: lambda: Op(Kind.SEND_F, place.prev[op.stage], op.micro),
            Kind.SEND_B: lambda: Op(Kind.RECV_B, place.prev[op.stage], op.micro),
            Kind.RECV_B: lambda: Op(Kind.SEND_B, place.next[op.stage], op.micro),
        }[op.kind]()


def simulate(plan, seconds_of, hop_s):
    """Start and end of every op as dicts, or ``None`` if the lanes cannot run to their end.

    Go round the ranks and let each do what it can, until nobody can do anything.
    """
    listed = Listed(plan)
    lanes = [[op for op in lane if op.kind != Kind.STEP] for lane in listed.lanes]
    sent_on = defaultdict(list)
    for op in listed.ops_list:
        if op.kind in (Kind.SEND_F, Kind.SEND_B):
            sent_on[link(listed, op)].append(op)
    start, end, clock, at = {}, {}, [0.0] * len(lanes), [0] * len(lanes)
    link_free = defaultdict(float)
    moved = True
    while moved:
        moved = False
        for r, lane in enumerate(lanes):
            while at[r] < len(lane):
                op = lane[at[r]]
                if op not in start and not begin(listed, op, r, start, end, clock, sent_on, seconds_of, hop_s):
                    break
                moved = True
                if op.kind in MESSAGES:
                    arrive(listed, op, start, end, link_free, hop_s)
                    if plan.blocking and op not in end:
                        moved = False
                        break
                    if plan.blocking:
                        clock[r] = end[op]
                at[r] += 1
        moved = moved or any(at[r] < len(lane) and plan.blocking and lane[at[r]] in end for r, lane in enumerate(lanes))
    if any(at[r] < len(lane) for r, lane in enumerate(lanes)):
        return None
    now = max(end.values(), default=0.0)
    for lane in listed.lanes:
        t = now
        for op in (op for op in lane if op.kind == Kind.STEP):
            start[op], t = t, t + seconds_of(op)
            end[op] = t
    return start, end


def begin(listed, op, r, start, end, clock, sent_on, seconds_of, hop_s):
    """Start an op (post a message) if all it waits for is done."""
    t = clock[r]
    waits = [] if op.kind in (Kind.RECV_F, Kind.RECV_B) else needs(listed, op)
    for other in waits:
        if other not in end:
            return False
        lag = 0.0 if listed.has_sends else hop_s[listed.rank_of[other], r]
        t = max(t, end[other] + lag)
    if op.kind in (Kind.SEND_F, Kind.SEND_B) and listed.plan.in_flight is not None:
        queue = sent_on[link(listed, op)]
        nth = queue.index(op) - listed.plan.in_flight
        if nth >= 0:
            if queue[nth] not in end:
                return False
            t = max(t, end[queue[nth]])
    start[op] = clock[r] = t
    if op.kind not in MESSAGES:
        end[op] = clock[r] = t + seconds_of(op)
    return True


def arrive(listed, op, start, end, link_free, hop_s):
    """A message passes once both ends are posted and the link is free."""
    other = listed.other_end(op)
    if op in end or other not in start:
        return
    a, b = link(listed, op)
    end[op] = end[other] = link_free[a, b] = max(start[op], start[other], link_free[a, b]) + hop_s[a, b]


def link(listed, op):
    """From rank, to rank."""
    ends = listed.rank_of[op], listed.rank_of.get(listed.other_end(op))
    return ends if op.kind in (Kind.SEND_F, Kind.SEND_B) else ends[::-1]
