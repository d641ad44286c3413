"""Stages whose weights move while micro-batches are in flight: versions, kept as long as one needs them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.func import functional_call

from penstock.core.op import Kind
from penstock.core.plan import Plan
from penstock.engine.staleness import NONE, versions

Predict = Callable[[int], dict[str, Tensor]]
"""The weights of a stage as they will be after so many more updates, by parameter name."""
Version = tuple[int, int]
"""Number of updates that lie behind the weights, and of those over which they are extrapolated."""


class Stale:
    """Runs each forward of a stage's module with the version of its weights that the plan says.

    A version is a copy of the weights. Gradients are collected on it and handed to the module's own weights, the newest
    ones, when an update applies them.

    Args:
        module: of the stage; its backwards are whole.
        plan: with updates.
        stage: which.
        predict: used where ``plan.weights`` is ``predicted``.

    Attributes:
        newest: updates so far in this lane.
        most: most versions held at a time, the newest weights included.
    """

    def __init__(self, module: nn.Module, plan: Plan, stage: int, predict: Predict) -> None:
        self._module, self._predict = module, predict
        found = versions(plan)
        ahead = found.staleness[stage] if plan.weights == "predicted" else 0 * found.staleness[stage]
        self._plan = [(int(used), int(after)) for used, after in zip(found.used[stage], ahead, strict=True)]
        self.most = 1
        self.begin()

    def begin(self) -> None:
        """A lane starts: count updates from 0 again."""
        self.newest = 0
        self._held: dict[Version, dict[str, Tensor]] = {}
        self._needed = Counter(version for version in self._plan if version[0] != NONE)
        self._keep()

    def run(self, micro: int, *values: Tensor) -> Tensor:
        """The forward of a micro-batch."""
        version = self._plan[micro]
        if version not in self._held:
            self._held[version] = self._leaves(self._predict(version[1]))
        kept = {number for number, ahead in self._held if ahead == 0}
        self.most = max(self.most, len(self._held) + (self.newest not in kept))
        found: Tensor = functional_call(self._module, self._held[version], values)
        return found

    def done(self, micro: int) -> None:
        """The backward of a micro-batch is done: its version may go when its gradients have been applied."""
        self._needed[self._plan[micro]] -= 1

    def collect(self) -> None:
        """Hand the gradients of all versions to the weights, for an update."""
        for name, param in self._module.named_parameters():
            grads = [grad for held in self._held.values() if (grad := held[name].grad) is not None]
            param.grad = sum(grads[1:], grads[0]) if grads else None
            for held in self._held.values():
                held[name].grad = None

    def advance(self) -> None:
        """The weights have moved: keep them where a forward will run with them."""
        self.newest += 1
        self._held = {version: held for version, held in self._held.items() if self._needed[version] > 0}
        self._keep()

    def _keep(self) -> None:
        if self._needed[self.newest, 0] > 0:
            self._held[self.newest, 0] = self._leaves(dict(self._module.named_parameters()))

    def _leaves(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies that collect gradients of their own."""
        trained = {name for name, param in self._module.named_parameters() if param.requires_grad}
        return {name: each.detach().clone().requires_grad_(name in trained) for name, each in weights.items()}


def micros_per_update(plan: Plan) -> int:
    """Most micro-batches whose gradients one update applies."""
    most = 0
    for s in range(plan.placement.stages):
        mine = plan.ops[plan.ops[:, 1] == s, 0]
        done = (mine == Kind.UPDATE).cumsum()
        most = max(most, int(Counter(done[mine == Kind.B].tolist()).most_common(1)[0][1]))
    return most
