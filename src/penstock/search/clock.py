"""The time of a search: what would still end in it, and how long the next pieces of work are."""

from __future__ import annotations

import time

from penstock.search.solution import Options

BEGIN = 0.25
"""Share of the time after which no further way is begun that needs its orders finished; and that all ways together
take to try where to begin, about."""
LEAST_STINT_S, FIRST_STINT_S, BEGIN_STINT_S, LAST_STINT_S = 0.0625, 0.25, 0.5, 2.0
"""Stints double from the second to the last, so that a short search tries everything too; those that only try where to
begin end at the third. Where little time is left they are shorter, down to the first."""
MANY, OP_S = 32, 20e-6
"""Stints that a search has time for at least, about; and seconds for each op of a plan below which one is too short."""
PROOFS = 0.25
"""Share of the work that proofs may take."""


class Clock:
    """How long a search has worked at what.

    Args:
        options: what it was told.
        processes: that work side by side.
        begun: when it began.
    """

    def __init__(self, options: Options, processes: int, begun: float) -> None:
        self.options, self.processes, self.begun = options, processes, begun
        self.rounds = 0
        self.last_s, self.pace = [0.0] * 3, 1.0
        """Seconds of the last round of each step; how many times as long as asked for those took that improve."""
        self.worked_s = self.proved_s = 0.0
        """Seconds that were asked for, of stints and proofs; and of proofs."""

    @property
    def over_s(self) -> float:
        """Seconds since the search began."""
        return time.perf_counter() - self.begun

    def in_time(self, needs_s: float, time_s: float | None = None) -> bool:
        """Whether work of so many seconds would end when so many have passed, or all there are without noise."""
        return self.over_s + needs_s <= (self.options.first_s if time_s is None else time_s)

    def holds(self, step: int) -> bool:
        """Whether a round of a step would end in time."""
        return self.in_time(self.last_s[step])

    @property
    def patience_s(self) -> float | None:
        """Seconds for which stints are still waited for; ``None`` where not the time says how far the search goes."""
        return None if self.options.stints is not None else max(0.0, self.options.first_s - self.over_s)

    def begin_s(self, ways: int) -> float:
        """How long stints are that try where to begin on so many ways."""
        each = BEGIN * self.options.first_s * self.processes / max(1, ways)
        return min(BEGIN_STINT_S, max(LEAST_STINT_S, each), FIRST_STINT_S * 2.0**self.rounds)

    def improve_s(self, ops: int) -> float:
        """How long stints are that improve plans of so many ops: what has been reached of the doubling, or as much of
        it as the time holds."""
        each = self.options.first_s * self.processes / MANY
        seconds = min(LAST_STINT_S, max(FIRST_STINT_S, each, OP_S * ops), FIRST_STINT_S * 2.0**self.rounds)
        while seconds > LEAST_STINT_S and not self.in_time(self.pace * seconds):
            seconds /= 2
        return seconds

    def has_proofs(self, seconds: float) -> bool:
        """Whether a proof of so many seconds would end in time, while proofs do not have more than their share."""
        return self.proved_s <= PROOFS * self.worked_s and self.in_time(seconds)

    def after(self, step: int, began: float, stints_s: float, proofs_s: float, pace: float | None) -> None:
        """A round is done.

        Args:
            step: that was due.
            began: when.
            stints_s, proofs_s: what was asked for, of all of them.
            pace: seconds that one stint was to take, if it was to improve.
        """
        self.rounds += 1
        self.worked_s += stints_s + proofs_s
        self.proved_s += proofs_s
        self.last_s[step] = time.perf_counter() - began
        if pace is not None:
            self.pace = max(1.0, self.last_s[step] / pace)
