import itertools
import json
from collections import defaultdict
from typing import Any

import pytest

from penstock.view.perfetto import trace

Event = dict[str, Any]


def _events(*timelines: Any) -> list[Event]:
    events: list[Event] = json.loads(trace(timelines))["traceEvents"]
    return events


def _slices(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            tracks[event["pid"], event["tid"]].append(event)
    return tracks


@pytest.mark.parametrize("words", [{}, {"sends": True}, {"sends": "blocking"}])
def test_events_are_sorted_and_slices_of_a_track_do_not_overlap(make, words: dict[str, bool]) -> None:
    timeline = make("zb-h1", ranks=4, micros=8, link_s=1.3, step_s=0.7, **words)
    events = _events(timeline)
    times = [event["ts"] for event in events if "ts" in event]
    assert times == sorted(times)
    for track in _slices(events).values():
        for a, b in itertools.pairwise(track):
            assert a["ts"] + a["dur"] <= b["ts"] + 1e-6
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_every_op_is_a_slice_with_its_facts(make) -> None:
    timeline = make(ranks=2, micros=3, sends=True, link_s=0.5, step_s=1.0)
    slices = [event for event in _events(timeline) if event["ph"] == "X"]
    assert sorted(event["name"] for event in slices) == sorted(str(op) for lane in timeline.plan.lanes for op in lane)
    (forward,) = (event for event in slices if event["name"] == "1F0")
    assert forward["ts"] == 1.5e6
    assert forward["dur"] == 1e6
    assert forward["args"] == {
        "kind": "forward",
        "stage": 1,
        "micro-batch": 0,
        "waited for": "1RECV_F0 on rank 1",
    }


@pytest.mark.parametrize("words", [{}, {"sends": True}])
def test_flows_begin_and_end_inside_the_right_slices(make, words: dict[str, bool]) -> None:
    timelines = [make("interleaved", 2, 4, 2, link_s=0.5, label=label, **words) for label in ("predicted", "measured")]
    events = _events(*timelines)
    tracks = _slices(events)
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
    assert len(flows) == 2 * 2 * 3 * 4  # timelines, directions, hops from stage to stage, micro-batches
    for parts in flows.values():
        assert [part["ph"] for part in parts] == (["s", "t", "f"] if words else ["s", "f"])
        names = []
        for part in parts:
            (inside,) = (
                one for one in tracks[part["pid"], part["tid"]] if one["ts"] < part["ts"] < one["ts"] + one["dur"]
            )
            names.append(inside["name"])
        maker, user = names[0], names[-1]
        step = 1 if "F" in maker else -1
        assert int(user[0]) == int(maker[0]) + step
        assert user[1:] == maker[1:]


def test_processes_and_tracks_are_named_and_memory_counted(make) -> None:
    predicted, measured = make(sends=True), make(sends=True, label="measured")
    events = _events(predicted, measured)
    processes = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert list(processes.values()) == [
        "predicted / rank 0",
        "predicted / rank 1",
        "measured / rank 0",
        "measured / rank 1",
    ]
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert set(_slices(events)) == set(named)
    assert [name for (pid, _), name in named.items() if pid == 1] == [
        "compute",
        "send to rank 1",
        "receive from rank 1",
    ]
    counters = [e for e in events if e["ph"] == "C" and e["pid"] == 1]
    totals = [e["args"]["activations"] + e["args"]["buffers"] for e in counters]
    assert max(totals) == predicted.memory[0].peak_bytes


def test_a_block_is_one_slice_in_which_its_messages_begin_and_end(dressed) -> None:
    timeline = dressed(overlap=0.5)
    plan, events = timeline.plan, _events(timeline)
    tracks = _slices(events)
    blocks = [event for event in events if event["ph"] == "X" and "+" in event["name"]]
    assert len(blocks) == plan.fused.sum()
    (one,) = (event for event in blocks if event["name"] == "0F3+3B1")
    assert one["dur"] == pytest.approx(1e6 * (0.5 + 1.0 - 0.5 * 0.5))
    assert one["args"]["with"] == {"kind": "backward", "stage": 3, "micro-batch": 1}
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            (inside,) = (e for e in tracks[event["pid"], event["tid"]] if e["ts"] < event["ts"] < e["ts"] + e["dur"])
            flows[event["id"]].append(inside["name"])
    assert len(flows) == 2 * 2 * plan.micros  # stages 0 to 1 and 2 to 3, forth and back
    assert all(len(pair) == 2 for pair in flows.values())
    assert any("+" in maker and "+" in user for maker, user in flows.values())


def test_work_on_links_has_named_tracks_of_its_own_where_nothing_overlaps(dressed) -> None:
    timeline = dressed()
    events = _events(timeline)
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    tracks = _slices(events)
    assert set(tracks) == set(named)
    kinds = defaultdict(set)
    for track, slices in tracks.items():
        for a, b in itertools.pairwise(slices):
            assert a["ts"] + a["dur"] <= b["ts"] + 1e-6
        kinds[named[track]] |= {event["args"]["kind"] for event in slices}
    assert kinds["host link"] == {"copy to the host", "copy from the host"}
    assert kinds["collectives"] <= {"gather weights", "reduce gradients"} >= kinds["collectives 2"]
    assert "drop gathered weights" in kinds["compute"]
    assert sum(len(slices) for slices in tracks.values()) == len(timeline.plan) - timeline.plan.fused.sum()
    assert max(e["args"]["gathered weights"] for e in events if e["ph"] == "C") == 1.0
