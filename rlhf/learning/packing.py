"""Rows that begin alike, packed: what they share is computed once.

A tree holds rows whose sequences begin alike: each token stands in it once, under all that comes
before it, at the position of its depth, and sees itself and what is above it. A completion token's
log-probability is read off the logits of the token before it; the last token of a row is never
read, so it is not in the tree. Small trees stand side by side in a line, where padding would be:
none sees another.

Dimensions: R rows, C completion tokens, B lines of trees, T tokens of the largest tree, N places
whose logits are asked for, V vocabulary, E completion tokens of all rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.learning.logprobs import counted
from rlhf.records import TokenIds, Tokens

UNLIMITED = 1 << 30
LEAST_SHARED = 0.25
"""Of a row's tokens; for less, a mask is not worth its while."""
_BELOW = np.tri(128, dtype=bool)
_CHUNK_NUMBERS = 1 << 24
"""Logits that are held in fp32 at once (64 MiB)."""


@dataclass(frozen=True, slots=True)
class Packing:
    """What must be known of a model to choose which of its rows become a tree."""

    width: int
    """Of its hidden states: a row of n tokens costs n + n²/(6 width) in relative terms, layers
    being 24 width² operations a token and attention 4 width n."""
    longest: int
    """Tokens up to which every token sees all that come before it."""

    @property
    def has_window(self) -> bool:
        """Whether some rows may be too long for trees."""
        return self.longest < UNLIMITED

    def fits(self, rows: Iterable[Tokens]) -> bool:
        """Whether the model's attention is that of trees for all these rows."""
        return not self.has_window or all(
            len(row.prompt) + len(row.completion) <= self.longest for row in rows
        )

    def trees(self, rows: Sequence[Tokens]) -> list["Tree"]:
        """The rows in trees, each row in one; a row joins where that is less work than its own."""
        whole = [_all_tokens(row) for row in rows]
        keys = [tokens.astype(">i4").tobytes() for tokens in whole]  # which compare as ids do
        order = sorted(range(len(rows)), key=keys.__getitem__)
        found: list[Tree] = []
        last = np.empty(0, dtype=np.intc)
        for i in order:
            tokens, before = _read(whole[i]), len(rows[i].prompt) - 1
            shared = _shared(last, tokens)
            if found and self._pays(found[-1].num_tokens, len(tokens), shared):
                tree = found[-1]
                num_tokens = tree.num_tokens + len(tokens) - shared
                found[-1] = Tree((*tree.rows, i), num_tokens, min(tree.num_before, before))
            else:
                found.append(Tree((i,), len(tokens), before))
            last = tokens
        return found

    def _pays(self, tree: int, row: int, shared: int) -> bool:
        """Whether a row is less work in a tree than alone, all in tokens."""
        together = self._cost(tree + row - shared)
        return shared >= LEAST_SHARED * row and together <= self._cost(tree) + self._cost(row)

    def _cost(self, num_tokens: int) -> float:
        return num_tokens + num_tokens**2 / (6 * self.width)


class Tree(NamedTuple):
    """Rows, by their index, that are computed as one."""

    rows: tuple[int, ...]
    """In the order of their tokens, so that each shares most with the one before it."""
    num_tokens: int
    num_before: int
    """Of those, at its beginning, whose logits nobody asks for."""


def lines_of(trees: Sequence[Tree]) -> list[list[Tree]]:
    """The trees side by side, as many in a line as fit beside each other in the width of the
    largest; each by itself if that would ask for more logits."""
    widest = max(tree.num_tokens for tree in trees)
    lines: list[list[Tree]] = []
    rooms: list[int] = []
    for tree in sorted(trees, key=lambda tree: (-tree.num_tokens, tree.rows)):
        line = next((b for b, room in enumerate(rooms) if tree.num_tokens <= room), None)
        if line is None:
            lines.append([tree])
            rooms.append(widest - tree.num_tokens)
        else:
            lines[line].append(tree)
            rooms[line] -= tree.num_tokens
    kept = max(tree.num_tokens - tree.num_before for tree in trees)
    return lines if len(lines) * widest <= len(trees) * kept else [[tree] for tree in trees]


class PackedTokens(NamedTuple):
    """Lines of trees ready for a forward pass, padded on the left."""

    input_ids_BT: Tensor
    visible_BTT: Tensor
    position_ids_BT: Tensor
    num_kept: int
    """Logits are asked for at so many last places of each line."""
    node_E: Tensor
    """On the CPU, ascending: the place among the `B x num_kept` whose logits give a token."""
    target_E: Tensor
    place_RC: Tensor
    """Where in E a completion token stands; E itself if it is padding or only observed."""
    weight_RC: Tensor


def pack(
    rows: Sequence[Tokens], trees: Sequence[Tree], device: torch.device | str = "cpu"
) -> PackedTokens:
    """Trees of `rows`, each row in one of them; of completions, what was only observed has no
    log-probability, and what is emphasised has its weight."""
    lines = lines_of(trees)
    largest_T = max(tree.num_tokens for tree in trees)
    if torch.device(device).type == "cuda":
        largest_T = -(-largest_T // 8) * 8  # the quick kernels take masks of such widths alone
    width_C = max(len(row.completion) for row in rows)
    ids = np.zeros((len(lines), largest_T), dtype=np.int64)
    positions = np.zeros_like(ids)
    visible = np.zeros((len(lines), largest_T, largest_T), dtype=bool)
    nodes = np.zeros((len(rows), width_C), dtype=np.int64)
    targets = np.zeros_like(nodes)
    first = largest_T - 1
    for b, line in enumerate(lines):
        start = largest_T - sum(tree.num_tokens for tree in line)
        np.fill_diagonal(visible[b, :start, :start], True)  # padding sees itself, lest it be nan
        for tree in line:
            inside = [rows[i] for i in tree.rows]
            paths = _grow(inside, ids[b], positions[b], visible[b], start)
            for i, row, (tokens, path) in zip(tree.rows, inside, paths, strict=True):
                length = len(row.completion)
                before = path[len(row.prompt) - 1 :][:length]
                nodes[i, : len(before)] = b * largest_T + before
                targets[i, :length] = tokens[len(tokens) - length :]
                first = min(first, int(before[0]) if length else first)
            start += tree.num_tokens
    has, weight = counted(rows, width_C)
    num_kept = largest_T - first
    places_E = nodes[has]
    places_E -= (places_E // largest_T) * first + first  # of T places each, to the kept ones
    order = np.argsort(places_E, kind="stable")
    place = np.full(has.shape, len(order))
    rank_E = np.empty_like(order)
    rank_E[order] = np.arange(len(order))
    place[has] = rank_E
    targets_E = targets[has]

    def there(array: Any) -> Tensor:
        return torch.from_numpy(array).to(device)

    return PackedTokens(
        there(ids),
        there(visible),
        there(positions),
        int(num_kept),
        torch.from_numpy(places_E[order]),
        there(targets_E[order]),
        there(place),
        there(weight),
    )


def packed_logprobs(model: Any, packed: PackedTokens) -> Tensor:
    """Log-probability of every row's completion tokens `(R, C)`, fp32 nats, 0.0 where there is
    none, and as many times as it counts."""
    logits_BNV = model(
        input_ids=packed.input_ids_BT,
        attention_mask=packed.visible_BTT[:, None],
        position_ids=packed.position_ids_BT,
        logits_to_keep=packed.num_kept,
        use_cache=False,
    ).logits
    values_E = _logprobs_at(logits_BNV.flatten(0, 1), packed.node_E, packed.target_E)
    return torch.cat([values_E, values_E.new_zeros(1)])[packed.place_RC] * packed.weight_RC


def _logprobs_at(logits_NV: Tensor, node_E: Tensor, target_E: Tensor) -> Tensor:
    """Log-softmax at the targets in fp32, a slice of N at a time, each computed again in the
    backward pass, so that the fp32 logits never exist together."""
    step = max(1, _CHUNK_NUMBERS // logits_NV.shape[1])
    if step >= len(logits_NV):
        return _gather(logits_NV, node_E.to(logits_NV.device), target_E)
    ends = torch.arange(0, len(logits_NV) + step, step)
    cuts = torch.searchsorted(node_E, ends).tolist()
    values = []
    for slice_NV, start, a, b in zip(logits_NV.split(step), ends, cuts, cuts[1:], strict=False):
        local = (node_E[a:b] - start).to(logits_NV.device)
        values.append(checkpoint(_gather, slice_NV, local, target_E[a:b], use_reentrant=False))
    return torch.cat(values)


def _gather(logits_NV: Tensor, node_E: Tensor, target_E: Tensor) -> Tensor:
    logits_NV = logits_NV.float()
    return logits_NV[node_E, target_E] - logits_NV.logsumexp(-1)[node_E]


def _grow(
    rows: Sequence[Tokens], ids: Any, positions: Any, visible: Any, start: int
) -> Iterator[tuple[Any, Any]]:
    """Fills in one tree from `start` on; yields each row's tokens, and the places of those that are
    read."""
    last = path = np.empty(0, dtype=np.intc)
    for row in rows:
        whole = _all_tokens(row)
        tokens = _read(whole)
        shared = _shared(last, tokens)
        end = start + len(tokens) - shared
        ids[start:end] = tokens[shared:]
        positions[start:end] = np.arange(shared, len(tokens))
        visible[start:end, path[:shared]] = True
        visible[start:end, start:end] = _below(end - start)
        path = np.concatenate([path[:shared], np.arange(start, end)])
        yield whole, path
        last, start = tokens, end


def _all_tokens(row: Tokens) -> Any:
    return TokenIds(row.prompt + row.completion).array  # type: ignore[operator]  # of one kind


def _read(tokens: Any) -> Any:
    """Of a row's tokens those that a model must read: all but the last."""
    return tokens[: max(1, len(tokens) - 1)]


def _shared(a: Any, b: Any) -> int:
    """How many tokens two sequences have in common from their beginnings.

    As two long numbers, which for rows of some tokens takes a tenth of an array's comparison.
    """
    length = min(len(a), len(b))
    one, other = (int.from_bytes(tokens[:length].tobytes(), "little") for tokens in (a, b))
    differ = one ^ other
    return ((differ & -differ).bit_length() - 1) // (8 * a.itemsize) if differ else length


def _below(size: int) -> Any:
    """Which of so many tokens in a row each of them sees."""
    return _BELOW[:size, :size] if size <= len(_BELOW) else np.tri(size, dtype=bool)
