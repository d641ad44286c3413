"""The dependency rule and the simulator once more, plain and slow: what the fast ones are compared with."""

from collections import defaultdict

from penstock.core.op import AMONG_RANKS, COLLECTIVES, HOST, NEEDS, POSTED, RECVS, SENDS, Hop, Kind, Op
from penstock.core.placement import NO_STAGE

MESSAGES = {*SENDS, *RECVS}


class Listed:
    """A plan as lists. An op is known by its rank and its place in the lane, as some stand several times."""

    def __init__(self, plan):
        self.plan, self.placement = plan, plan.placement
        self.lanes = [list(lane) for lane in plan.lanes]
        self.ids = [(r, n) for r, lane in enumerate(self.lanes) for n in range(len(lane))]
        self.ops_list = [op for lane in self.lanes for op in lane]
        self.has_sends = any(op.kind in MESSAGES for op in self.ops_list)
        self.where = {op: (r, n) for r, lane in enumerate(self.lanes) for n, op in enumerate(lane)}
        self.kinds = {op.kind for op in self.ops_list}

    def op(self, one):
        return self.lanes[one[0]][one[1]]

    def part(self, rank):
        """The stage by which a rank's part of the vocabulary goes."""
        return self.placement.on(rank)[0]

    def other_end(self, op):
        """The send of a receive and the receive of a send."""
        place = self.placement
        return {
            Kind.SEND_F: lambda: Op(Kind.RECV_F, place.next[op.stage], op.micro),
            Kind.RECV_F: lambda: Op(Kind.SEND_F, place.prev[op.stage], op.micro),
            Kind.SEND_B: lambda: Op(Kind.RECV_B, place.prev[op.stage], op.micro),
            Kind.RECV_B: lambda: Op(Kind.SEND_B, place.next[op.stage], op.micro),
        }[op.kind]()

    def together(self, one):
        """All that end when this one ends; None if the plan lacks some of them."""
        op = self.op(one)
        if op.kind in MESSAGES:
            other = self.where.get(self.other_end(op))
            return None if other is None else {one, other}
        if op.kind in AMONG_RANKS:
            found = {other for other in self.ids if self.op(other)[0::2] == (op.kind, op.micro)}
            return found if len(found) == self.placement.ranks else None
        if op.kind == Kind.REDUCE_GRAD:
            replicas = self.replicas(op.stage)
            nth = [n for r, n in self.ids if r == one[0] and self.lanes[r][n] == op].index(one[1])
            found = set()
            for stage in replicas:
                rows = [other for other in self.ids if self.op(other) == Op(Kind.REDUCE_GRAD, stage)]
                if nth < len(rows):
                    found.add(rows[nth])
            return found if len(found) == len(replicas) else None
        return {one}

    def replicas(self, stage):
        part_of = self.placement.part_of
        return [s for s in range(len(part_of)) if part_of[s] == part_of[stage]]


def hop_to(listed, op, hop):
    """The stage over a hop, NO_STAGE if there is none."""
    place = listed.placement
    rank = place.rank_of[op.stage]
    first, last = place.prev.index(NO_STAGE), place.next.index(NO_STAGE)
    is_part = op.stage == listed.part(rank)
    return {
        Hop.SAME: op.stage,
        Hop.PREV: place.prev[op.stage],
        Hop.NEXT: place.next[op.stage],
        Hop.FIRST_HERE: first if is_part and place.rank_of[first] == rank else NO_STAGE,
        Hop.LAST_HERE: last if is_part and place.rank_of[last] == rank else NO_STAGE,
        Hop.PART_OF_FIRST: listed.part(rank) if op.stage == first else NO_STAGE,
        Hop.PART_OF_LAST: listed.part(rank) if op.stage == last else NO_STAGE,
    }[hop]


def needs(listed, one):
    """Ops that must finish before an op, by words of the rule; ``None`` stands for one that the plan lacks."""
    op, found = listed.op(one), []
    for rule in NEEDS[op.kind]:
        stage = hop_to(listed, op, rule.at)
        if stage == NO_STAGE or (rule.if_any and not listed.kinds.intersection(rule.made_by)):
            continue
        if rule.latest:
            rows = [n for n, x in enumerate(listed.lanes[one[0]]) if x.kind in rule.made_by and x.stage == stage]
            if rows or not rule.if_any:
                found.append(max(((one[0], n) for n in rows if n < one[1]), default=None))
            continue
        micro = op.micro + rule.slices
        if micro // listed.plan.slices != op.micro // listed.plan.slices or (rule.slices and listed.plan.slices == 1):
            continue
        crosses = listed.placement.rank_of[stage] != listed.placement.rank_of[op.stage]
        if rule.via is not None and listed.has_sends and crosses:
            makers = [Op(rule.via, op.stage, op.micro)]
        else:
            makers = [Op(kind, stage, micro) for kind in rule.made_by]
        made = next((listed.where[maker] for maker in makers if maker in listed.where), None)
        if made is not None or not rule.if_any:
            found.append(made)
    return found


class Simulator:
    """Let the rank that is furthest behind in time, of those that can go on, do its next op, until none can."""

    def __init__(self, plan, seconds, hop_s, host_of=None):
        self.plan, self.listed = plan, Listed(plan)
        self.seconds = dict(zip(self.listed.ids, seconds, strict=True))
        self.hop_s = hop_s
        self.host_of = host_of if host_of is not None else range(plan.placement.ranks)
        self.start, self.end, self.ready = {}, {}, {}
        self.step_start, self.step_end = {}, {}
        self.clock = [0.0] * plan.placement.ranks
        self.free = defaultdict(float)
        self.sent_on = defaultdict(list)
        for one in self.listed.ids:
            if self.listed.op(one).kind in SENDS and self.listed.together(one):
                self.sent_on[self.resource(one)].append(one)

    def run(self):
        """Start and end of every op by rank and place, or ``None`` if the lanes cannot run to their end."""
        lanes = [self.blocks(r) for r in range(len(self.listed.lanes))]
        while True:
            by_time = sorted(range(len(lanes)), key=lambda r: (self.clock[r], r))
            begun = len(self.start)
            able = next((r for r in by_time if lanes[r] and self.do(r, lanes[r][0])), None)
            if able is not None:
                lanes[able].pop(0)
            elif len(self.start) == begun:
                break
        posted = [one for one in self.listed.ids if self.listed.op(one).kind != Kind.STEP]
        if any(lanes) or any(one not in self.end for one in posted):
            return None
        self.steps()
        return self.start, self.end

    def blocks(self, r):
        """The lane without steps as lists of ops that are done at one time: fused pairs, and batches of messages."""
        lane, blocks = self.listed.lanes[r], []
        for n, op in enumerate(lane):
            if op.kind == Kind.STEP:
                continue
            second = n > 0 and self.plan.lanes[r].fused[n - 1]
            together = self.plan.sends == "batched" and n > 0 and {op.kind, lane[n - 1].kind} <= MESSAGES
            if blocks and (second or together):
                blocks[-1].append((r, n))
            else:
                blocks.append([(r, n)])
        return blocks

    def do(self, r, block):
        """Do a block, or as much of it as can be done now; whether it is all done."""
        if self.listed.op(block[0]).kind not in POSTED:
            return self.work(r, block)
        for one in block:
            if one not in self.start and not self.post(r, one):
                return False
        if self.plan.blocking and self.listed.op(block[0]).kind in MESSAGES:
            if any(one not in self.end for one in block):
                return False
            self.clock[r] = max(self.end[one] for one in block)
        return True

    def work(self, r, block):
        waits = [other for one in block for other in needs(self.listed, one)]
        if any(other not in self.end for other in waits):
            return False
        begin = max([self.clock[r], *(self.end[other] + self.lag(other[0], r) for other in waits)])
        for one in block:
            self.start[one], self.end[one] = begin, begin + self.seconds[one]
            self.clock[r] = self.end[one]
        return True

    def lag(self, a, b):
        return 0.0 if self.listed.has_sends else self.hop_s[a][b]

    def post(self, r, one):
        """Ask for work on a link; it passes once all who take part have asked and their links are free."""
        op, begin = self.listed.op(one), self.clock[r]
        waits = [] if op.kind in RECVS else needs(self.listed, one)
        if any(other not in self.end for other in waits):
            return False
        if op.kind in SENDS and self.plan.in_flight is not None and self.listed.together(one):
            queue = self.sent_on[self.resource(one)]
            nth = queue.index(one) - self.plan.in_flight
            if nth >= 0:
                if queue[nth] not in self.end:
                    return False
                begin = max(begin, self.end[queue[nth]])
        self.start[one] = self.clock[r] = begin
        self.ready[one] = max([begin, *(self.end[other] for other in waits)])
        self.try_to_pass(one)
        return True

    def try_to_pass(self, one):
        members = self.listed.together(one)
        if members is None or any(other not in self.start or self.behind(other, members) for other in members):
            return
        self.pass_on(members)
        for other in members:
            after = self.next_collective(other)
            if after in self.start and after not in self.end:
                self.try_to_pass(after)

    def collectives(self, r):
        lane = self.listed.lanes[r]
        return [(r, n) for n, op in enumerate(lane) if op.kind in COLLECTIVES]

    def behind(self, one, members):
        """Whether an earlier collective of the rank, other than those that end with this one, has not ended."""
        if self.listed.op(one).kind not in COLLECTIVES:
            return False
        return any(other not in self.end for other in self.collectives(one[0]) if other < one and other not in members)

    def next_collective(self, one):
        if self.listed.op(one).kind not in COLLECTIVES:
            return None
        return next((other for other in self.collectives(one[0]) if other > one), None)

    def pass_on(self, members):
        begin = max(max(self.ready[one], self.free[self.resource(one)]) for one in members)
        end = begin + max(self.takes(one) for one in members)
        for one in members:
            self.end[one] = self.free[self.resource(one)] = end

    def takes(self, one):
        kind = self.listed.op(one).kind
        if kind in MESSAGES:
            a, b = self.resource(one)
            return self.hop_s[a][b]
        return self.seconds[one]

    def resource(self, one):
        """The link from rank to rank, to or from a host, or a rank's collectives."""
        op = self.listed.op(one)
        if op.kind in MESSAGES:
            other = self.listed.where[self.listed.other_end(op)]
            return (one[0], other[0]) if op.kind in SENDS else (other[0], one[0])
        return (op.kind, self.host_of[one[0]]) if op.kind in HOST else ("collectives", one[0])

    def steps(self):
        for r, lane in enumerate(self.listed.lanes):
            mine = [self.end[one] for one in self.end if self.plan.barrier or one[0] == r]
            steps = [(r, n) for n, op in enumerate(lane) if op.kind == Kind.STEP]
            self.step_of(steps, max(mine, default=0.0))

    def step_of(self, steps, t):
        for one in steps:
            self.step_start[one], self.step_end[one] = t, t + self.seconds[one]
            t += self.seconds[one]


def simulate(plan, seconds, hop_s, host_of=None):
    """Start and end of every op id as lists, or ``None`` if the lanes cannot run to their end."""
    simulator = Simulator(plan, seconds, hop_s, host_of)
    if simulator.run() is None:
        return None
    start, end = simulator.start | simulator.step_start, simulator.end | simulator.step_end
    return [start[one] for one in simulator.listed.ids], [end[one] for one in simulator.listed.ids]
