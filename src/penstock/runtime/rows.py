"""Some rows of a tensor that others hold the rest of, as a checkpoint sees them: saved and loaded as the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a whole tensor. Torch's distributed checkpoint asks objects of any class for what the dunders give.

    Args:
        tensor: the rows.
        start: number of the first.
        of: how many the whole has.
    """

    tensor: Tensor
    start: int
    of: int

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return torch.Size([self.of, *self.tensor.shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        """Of both."""
        return self.tensor.dtype

    @property
    def nbytes(self) -> int:
        """Of the rows."""
        return self.tensor.nbytes

    def size(self) -> torch.Size:
        """Of the whole."""
        return self.shape

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        if not len(self.tensor):
            return []
        return [ChunkStorageMetadata(self._offsets, self.tensor.shape)]

    def __create_write_items__(self, fqn: str, object: Any) -> list[WriteItem]:
        return [
            WriteItem(
                index=MetadataIndex(fqn, self._offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk, TensorProperties.create_from_tensor(self.tensor), self.shape),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        return self.tensor

    @property
    def _offsets(self) -> torch.Size:
        return torch.Size([self.start, *[0] * (self.tensor.ndim - 1)])


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
