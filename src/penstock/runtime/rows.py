"""Some rows of a tensor that others hold the rest of, as a checkpoint sees them: saved and loaded as the whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


class Rows(Tensor):
    """Rows of a whole tensor, with the shape of the whole, for torch's distributed checkpoint alone: it asks tensors
    of any class for what the dunders give. No other operation works on them.

    Args:
        rows: a tensor.
        start: number of its first row.
        of: how many the whole has.
    """

    rows: Tensor
    start: int

    def __new__(cls, rows: Tensor, start: int, of: int) -> Rows:
        """See the class."""
        made: Rows = Tensor._make_wrapper_subclass(cls, (of, *rows.shape[1:]), dtype=rows.dtype, device=rows.device)
        made.rows, made.start = rows.detach(), start
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise NotImplementedError(f"{func} on rows of a tensor")

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        return [ChunkStorageMetadata(self._offsets, self.rows.shape)] if len(self.rows) else []

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(fqn, self._offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, TensorProperties.create_from_tensor(self.rows), self.size()),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return self.rows

    @property
    def _offsets(self) -> torch.Size:
        return torch.Size([self.start, *[0] * (self.rows.ndim - 1)])


def as_rows(tree: Mapping[str, Any], held: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """A tree of tensors by parameter name with ``Rows`` in place of those of split parameters.

    Args:
        tree: tensors, or mappings of tensors (moments), by parameter name.
        held: first row and number of rows of the whole, by name of each split parameter.
    """
    return {name: _rows(value, *held[name]) if name in held else value for name, value in tree.items()}


def _rows(value: Any, start: int, of: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _rows(each, start, of) for key, each in value.items()}
    return Rows(value, start, of) if value.ndim > 1 else value
