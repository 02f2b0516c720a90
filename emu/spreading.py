"""One rank's share of a work: what it holds, what it computes, and what ranks exchange.

Every count of the work is divided by the degrees of the axes that it is spread over (`emu.splits`):
an op's FLOPs, the bytes of a leaf or of activations that it touches. Exchanges follow from what is
split:

- an op that sums over a split axis leaves partial sums: an all-reduce of what it gives;
- rows looked up in a table whose rows are split: an all-reduce of them, since one rank has each;
- an op that needs all entries of a split axis: an all-gather of what it reads, before it;
- a split axis that the last product leaves: an all-gather of the result;
- a cache that ranks share by sequences: one all-to-all of the queries and one of the results;
- experts that are split: one all-reduce of a vector for each token after the last product of the
  experts; or, where an expert's tokens come from several replicas, one all-to-all that sends each
  token's vector to the ranks of its experts and one that brings the results back;
- stages: one permute of the hidden vectors at each border.

An exchange stands after the kernel that makes what it sends, and is a kernel of its own. One token
passes all stages one after the other, so that the work of one rank is that of one of each stage's,
in sequence. Where experts are spread, it is the rank with the most to do (`emu.busiest`).

Not modelled: sequence parallelism, exchanges overlapped with arithmetic.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from emu.busiest import busiest_distinct, busiest_pairs, expected_distinct
from emu.errors import EmuError
from emu.jaxprs import bits_of
from emu.kept import Kept
from emu.ranks import Ranks
from emu.splits import Chosen, Split, choose
from emu.stacks import Stack
from emu.stages import Part, Stage, parts_of, stages_of
from emu.system import System
from emu.work import Access, Collective, Dot, Leaf, Op, Routed, Work


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Spread:
    """A work over a system's ranks."""

    work: Work  # of one rank of each stage, in sequence
    ranks: Ranks
    stages: tuple[Stage, ...]
    splits: Mapping[str, tuple[int, ...]]  # by how much each dimension of each leaf is split
    rank_bytes: Mapping[str, int]  # of each leaf, what a rank has of it, all stages together
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def leaf_bytes(self) -> dict[str, tuple[int, ...]]:
        """Bytes of each leaf on one rank of each stage."""
        return {
            leaf.path: tuple(stage.held(leaf, self.rank_bytes[leaf.path]) for stage in self.stages)
            for leaf in self.work.leaves
        }


_made: Kept[Spread] = Kept()


def spread(work: Work, system: System, splits: Sequence[Split] = ()) -> Spread:
    """One rank's share of a work on a system.

    Args:
      work: of the whole batch, from `emu.trace`.
      system: its degrees say over how many ranks; its stack whether uneven sizes are padded.
      splits: ordered rules for single leaves, over what the work itself suggests.

    Raises:
      EmuError: sizes that the degrees do not divide, more stages than layers, experts that are not
        there, a rule that matches no leaf, a system whose chips are a pool.
    """
    ranks = system.ranks
    if ranks is None:
        if system.data == 1:
            raise EmuError(
                "spread: the system has no degrees; give tensor=, pipeline= or expert= so that "
                f"they multiply to its {system.chips} chips"
            )
        ranks = Ranks(data=system.data)
    stack = system.software
    decides = (
        ranks,
        tuple(splits),
        stack.pads,
        stack.all_experts,
        stack.cache_by_sequence,
        stack.head_whole,
    )
    made = _made.find(work, by=decides)
    if made is None:
        made = _made.keep(_spread(work, ranks, tuple(splits), stack), work, by=decides)
    return made


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shares:
    """What of a spread work does not depend on the number of stages."""

    chosen: Chosen
    parts: tuple[Part, ...]
    rank_bytes: Mapping[str, int]
    kernels: tuple["_Kernel", ...]
    peak_activation_bytes: int  # on one rank

    def stages(self, work: Work, count: int) -> tuple[Stage, ...]:
        """So many pipeline stages. Raises EmuError where there are too few layers."""
        return stages_of(self.parts, self.rank_bytes, work.leaves, count)


def shares(work: Work, ranks: Ranks, splits: Sequence[Split], stack: Stack) -> Shares:
    """One rank's share of every op and leaf. Raises EmuError as `spread` does."""
    chosen = choose(work, ranks, splits, stack.pads, stack.cache_by_sequence, stack.head_whole)
    kernels = _combined(work, tuple(_Ops(work, chosen, ranks, stack.all_experts).kernels()))
    return Shares(
        chosen=chosen,
        parts=parts_of(work),
        rank_bytes={leaf.path: _of_rank(leaf, chosen).bytes for leaf in work.leaves},
        kernels=kernels,
        peak_activation_bytes=_peak(work, [op for kernel in kernels for op in kernel.ops]),
    )


def _spread(work: Work, ranks: Ranks, splits: tuple[Split, ...], stack: Stack) -> Spread:
    made = shares(work, ranks, splits, stack)
    stages = made.stages(work, ranks.pipeline)
    hidden = _hidden_bytes(work, made.chosen, made.parts)
    notes = (*made.chosen.notes, *_notes(work, made.chosen, ranks))
    return Spread(
        work=Work(
            leaves=tuple(_of_rank(leaf, made.chosen) for leaf in work.leaves),
            ops=_renumbered(_with_permutes(made.kernels, stages, hidden)),
            peak_activation_bytes=made.peak_activation_bytes,
            notes=(*work.notes, *notes),
        ),
        ranks=ranks,
        stages=stages,
        splits={leaf.path: made.chosen.dims(leaf) for leaf in work.leaves},
        rank_bytes=made.rank_bytes,
        notes=notes,
    )


def _notes(work: Work, chosen: Chosen, ranks: Ranks) -> Iterable[str]:
    weights = [leaf for leaf in work.leaves if leaf.kind == "weights"]
    held, total = 0, sum(leaf.bytes for leaf in weights)
    for leaf in weights:
        held += leaf.bytes if max(chosen.dims(leaf), default=1) == 1 else 0
    if ranks.stage > 1 and 100 * held > total:
        yield (
            f"{held / 1e6:,.1f} of {total / 1e6:,.1f} MB of weights are whole on each of the "
            f"{ranks.stage} ranks of a stage"
        )


def _of_rank(leaf: Leaf, chosen: Chosen) -> Leaf:
    return dataclasses.replace(leaf, shape=chosen.shape(leaf), axes=())


class _Ops:
    """The ops of one rank, exchanges among them."""

    def __init__(self, work: Work, chosen: Chosen, ranks: Ranks, all_experts: bool) -> None:
        self.work, self.chosen, self.ranks = work, chosen, ranks
        self.all_experts = all_experts  # are read, whoever is routed to
        self.groups = _expert_groups(work)
        self.last_product = _last_product(work)

    def kernels(self) -> Iterable["_Kernel"]:
        """All kernels in order, each with the exchanges before and after it."""
        every, first = self.work.ops, 0
        while first < len(every):
            stop = first + 1
            while stop < len(every) and _together(every[stop - 1], every[stop]):
                stop += 1
            before = [sent for at in range(first, stop) for sent in self._gathers(every[at])]
            here = [self.op(every[at], at) for at in range(first, stop)]
            after = [sent for at in range(first, stop) for sent in self._after(every[at], at)]
            yield _Kernel(ops=(*_merged(before), *here, *_merged(after)), first=first, stop=stop)
            first = stop

    def op(self, op: Op, at: int) -> Op:
        """One rank's share of an op."""
        kept = self._kept(op)
        group = self.groups.get(at)
        part = Fraction(1) if group is None else self._share_of_pairs(group.routed)
        flops_part = part / self._flops_degree(op, kept)
        return dataclasses.replace(
            op,
            flops={d: math.ceil(n * flops_part) for d, n in op.flops.items()},
            reads=tuple(self._access(access, op, kept, part) for access in op.reads),
            writes=tuple(self._access(access, op, kept, part) for access in op.writes),
            dot=None if op.dot is None else self._dot(op.dot, op, kept, part),
            axes=(),
            summed=(),
            indexed=(),
            whole=(),
        )

    def _kept(self, op: Op) -> frozenset[int]:
        """Axes that this op does not split, although others do."""
        kept = set(op.whole)
        for access in op.reads:
            if access.tensor in self.chosen.whole:
                kept |= {a for a in access.axes if a in self.chosen.summing}
        return frozenset(kept & self.chosen.summing)

    def _degree(self, axes: Iterable[int], kept: frozenset[int], routed: bool) -> int | Fraction:
        """By how much something over these axes is split."""
        axes = set(axes) - kept - self.chosen.axes.experts
        if routed and self.ranks.gathers_replicas:  # its tokens come from all replicas
            axes -= {self.chosen.axes.batch}
        return self.chosen.of(axes)

    def _flops_degree(self, op: Op, kept: frozenset[int]) -> Fraction:
        routed = _routed(op) is not None
        whole = self._degree(op.axes, kept, routed)
        stored = [a for a in op.reads if a.kind == "weights" and a.axes and not routed]
        if op.kind != "dot" or len(stored) < 2:
            return Fraction(whole)
        # Several matrices at once: keys and values may be split over fewer ranks than queries.
        all_axes = {axis for access in stored for axis in access.axes}
        others = set(op.axes) - all_axes
        parts = sum(
            Fraction(a.bytes, self._degree({*a.axes, *others}, kept, routed)) for a in stored
        )
        return sum(a.bytes for a in stored) / parts if parts else Fraction(whole)

    def _access(self, access: Access, op: Op, kept: frozenset[int], part: Fraction) -> Access:
        if access.routed is not None:
            return self._routed_access(access, kept)
        routed = _routed(op) is not None
        share = part if access.kind == "activations" else Fraction(1)
        axes = {a for a in access.axes if self.chosen.leaf_degree(access.tensor, a) > 1}
        degree = self._degree(axes, kept, routed) * self.chosen.of_sequences(access.tensor)
        return dataclasses.replace(
            access, bytes=math.ceil(access.bytes * share / degree), axes=(), contracted=()
        )

    def _routed_access(self, access: Access, kept: frozenset[int]) -> Access:
        """Experts' weights: of those that the busiest rank has to read."""
        of = access.routed
        assert of is not None
        degree = self._degree(access.axes, kept, routed=True)
        all_read = expected_distinct(of.experts, of.chosen, of.tokens)
        if self.all_experts:
            here = of.experts / self._expert_ranks(of)
        else:
            here = busiest_distinct(of.experts, of.chosen, self._tokens(of), self._expert_ranks(of))
        count = math.ceil(access.bytes * _share(here / all_read) / degree) if all_read else 0
        return dataclasses.replace(access, bytes=count, axes=(), contracted=(), routed=None)

    def _expert_ranks(self, of: Routed) -> int:
        ranks = self.ranks.expert
        return ranks if of.experts % ranks == 0 else math.gcd(of.experts, ranks)

    def _tokens(self, of: Routed) -> int:
        """Tokens among which the experts of one rank choose."""
        if self.ranks.gathers_replicas or self.ranks.data == 1:
            return of.tokens
        return -(-of.tokens // self.ranks.data)

    def _share_of_pairs(self, of: Routed) -> Fraction:
        """The busiest rank's share of what all experts do for the tokens that its ranks see."""
        ranks = self._expert_ranks(of)
        if ranks == 1:
            return Fraction(1)
        tokens = self._tokens(of)
        pairs = busiest_pairs(of.experts, of.chosen, tokens, ranks)
        return _share(pairs / (tokens * of.chosen))

    def _dot(self, dot: Dot, op: Op, kept: frozenset[int], part: Fraction) -> Dot:
        """Sizes of a product on one rank: of those that are split, whichever they go into."""
        routed = _routed(op) is not None
        inner = self._degree(op.summed, kept, routed)
        left = max(1, int(self._degree(op.axes, kept, routed) / inner))
        sizes = {"n": dot.n, "m": dot.m, "batch": dot.batch}
        for name in ("batch", "n", "m"):
            share = math.gcd(left, sizes[name])
            sizes[name] //= share
            left //= share
        batch = math.ceil(sizes["batch"] * part)
        return Dot(batch=batch, m=sizes["m"], n=-(-sizes["n"] // left), k=-(-dot.k // inner))

    # Exchanges.

    def _gathers(self, op: Op) -> list[Op]:
        """All-gathers of what an op reads of axes that it needs whole."""
        kept = self._kept(op)
        found = self._to_sharers(op, op.reads)
        if not kept:
            return found
        for access in op.reads:
            split = [a for a in access.axes if a in kept]
            if access.kind == "activations" and split:
                group = self.chosen.ranks(split)
                rest = self._degree(access.axes, kept, routed=False)
                found.append(_exchange("all_gather", -(-access.bytes // rest), group, op))
        return found

    def _to_sharers(self, op: Op, moved: Sequence[Access]) -> list[Op]:
        """All-to-alls of queries, or results, among ranks that share a cache by sequences."""
        group = max((self.chosen.sharers.get(a.tensor, 1) for a in op.reads), default=1)
        if op.kind != "dot" or group == 1:
            return []
        return [
            _exchange(
                "all_to_all", -(-a.bytes // self._degree(a.axes, frozenset(), False)), group, op
            )
            for a in moved
            if a.kind == "activations"
        ]

    def _after(self, op: Op, at: int) -> list[Op]:
        """What has to be exchanged once an op is done."""
        group = self.groups.get(at)
        if group is not None:
            return self._after_experts(op, group) if at == group.last else []
        kept = self._kept(op)
        found = self._to_sharers(op, op.writes)
        summed = [a for a in set(op.summed) & self.chosen.summing if a not in kept]
        if summed and (ranks := self.chosen.ranks(summed)) > 1:
            found.append(_exchange("all_reduce", self._result_bytes(op, at, kept), ranks, op))
        for access in op.reads:
            rows = [a for a in op.indexed if self.chosen.leaf_degree(access.tensor, a) > 1]
            looked_up = access.kind == "weights" and op.kind != "dot" and access.routed is None
            if looked_up and rows and (ranks := self._table_ranks(access.tensor, rows)) > 1:
                count = -(-access.bytes // self._degree(access.axes, kept, routed=False))
                found.append(_exchange("all_reduce", count, ranks, op))
        if at == self.last_product:
            used = {axis for later in self.work.ops[at + 1 :] for axis in later.whole}
            gone = {*kept, *op.summed, *used}
            left = [a for a in set(op.axes) & self.chosen.summing if a not in gone]
            if left and (ranks := self.chosen.ranks(left)) > 1:
                count = self._result_bytes(op, at, kept) * ranks
                found.append(_exchange("all_gather", count, ranks, op))
        return found

    def _table_ranks(self, path: str, rows: Iterable[int]) -> int:
        leaf = next(leaf for leaf in self.work.leaves if leaf.path == path)
        own = {axis for dim in leaf.axes for axis in dim}
        return self.chosen.ranks(axis for axis in rows if axis in own & self.chosen.summing)

    def _after_experts(self, op: Op, group: "_Group") -> list[Op]:
        """What brings the experts' sums to every rank that goes on with them."""
        of, ranks = group.routed, self.ranks
        tokens = self._tokens(of)
        vector = -(-group.result_bytes // max(1, of.tokens * of.chosen))
        count = tokens * vector
        inner = self.chosen.ranks(a for a in self._summed_in(group) if a in self.chosen.summing)
        if not ranks.gathers_replicas:
            all_ranks = ranks.expert * inner if not ranks.regrouped else ranks.tensor
            return [_exchange("all_reduce", count, all_ranks, op)] if all_ranks > 1 else []
        own = -(-of.tokens // (ranks.data * ranks.tensor))  # tensor ranks have the same tokens
        sent = own * vector * min(of.chosen, ranks.expert) * ranks.per_expert
        group_size = ranks.expert * ranks.per_expert
        found = [_exchange("all_to_all", sent, group_size, op) for _ in range(2)]
        if ranks.tensor > 1:
            back = -(-of.tokens // ranks.data) * vector
            found.append(_exchange("all_gather", back, ranks.tensor, op))
        return found

    def _summed_in(self, group: "_Group") -> set[int]:
        return {a for at in range(group.first, group.last + 1) for a in self.work.ops[at].summed}

    def _result_bytes(self, op: Op, at: int, kept: frozenset[int]) -> int:
        """Bytes of what an op gives on one rank, partial sums and shards included."""
        written = [a for a in op.writes if a.kind == "activations"]
        if written:
            return sum(-(-a.bytes // self._degree(a.axes, kept, routed=False)) for a in written)
        # Inside a kernel nothing is written: from the axes, in the dtype of the arithmetic.
        left = [axis for axis in set(op.axes) if axis not in op.summed]
        size = math.prod(self.work.axes[axis].size for axis in left)
        bits = max((bits_of(dtype) for dtype in op.flops), default=32)
        return -(-size * bits // (8 * self._degree(left, kept, routed=False)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Kernel:
    """Ops that run together, made from ops [first, stop) of the work, and their exchanges."""

    ops: tuple[Op, ...]
    first: int
    stop: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Group:
    """The ops from the first to the last product of one layer's experts."""

    routed: Routed
    first: int
    last: int
    result_bytes: int


def _expert_groups(work: Work) -> dict[int, _Group]:
    """The group that each op is in, for those in one."""
    runs: list[list[int]] = []
    read: set[str] = set()
    before: Op | None = None
    for at, op in enumerate(work.ops):
        stored = {a.tensor for a in op.reads if a.kind == "weights"}
        mine = {a.tensor for a in op.reads if a.routed is not None}
        if before is not None and before.count != op.count:
            read = set()
        if op.kind == "dot" and (stored - mine or mine & read):
            read = set()
        if mine and op.kind == "dot":
            if read:
                runs[-1].append(at)
            else:
                runs.append([at])
            read |= mine
        before = op
    groups: dict[int, _Group] = {}
    for run in runs:
        last = work.ops[run[-1]]
        of = next(a.routed for a in last.reads if a.routed is not None)
        written = sum(a.bytes for a in last.writes if a.kind == "activations")
        group = _Group(routed=of, first=run[0], last=run[-1], result_bytes=written)
        groups |= dict.fromkeys(range(run[0], run[-1] + 1), group)
    return groups


def _routed(op: Op) -> Routed | None:
    return next((a.routed for a in op.reads if a.routed is not None), None)


def _last_product(work: Work) -> int:
    """The last op that multiplies by weights; what it leaves split is the function's result."""
    return max(
        (
            at
            for at, op in enumerate(work.ops)
            if op.kind == "dot" and any(a.kind == "weights" for a in op.reads)
        ),
        default=-1,
    )


def _together(before: Op, op: Op) -> bool:
    """Whether two neighbouring ops run as one kernel: what rides along goes with what follows."""
    return before.count == op.count and (before.kernel is None or before.kernel == op.kernel)


def _exchange(kind: str, count: int, group: int, op: Op) -> Op:
    return Op(
        name=kind,
        kind="collective",
        scope=op.scope,
        line=op.line,
        count=op.count,
        collective=Collective(kind=kind, bytes=count, group=group),  # type: ignore[arg-type]
    )


def _merged(sent: Iterable[Op]) -> list[Op]:
    """Exchanges of one kernel: those of a kind among the same ranks are one."""
    found: list[Op] = []
    for op in sent:
        of = op.collective
        assert of is not None
        for at, known in enumerate(found):
            same = known.collective
            assert same is not None
            if (same.kind, same.group) == (of.kind, of.group) and of.kind != "all_to_all":
                both = dataclasses.replace(same, bytes=same.bytes + of.bytes)
                found[at] = dataclasses.replace(known, collective=both)
                break
        else:
            found.append(op)
    return found


def _combined(work: Work, kernels: Sequence[_Kernel]) -> tuple[_Kernel, ...]:
    """All-reduces that can wait for the next one are sent with it, as XLA and servers do.

    One can wait while nothing reads what it gives, which shows where that has axes that no other
    tensor has: routed experts' results have one for each of a token's experts, so that a shared
    expert's sum goes with theirs.
    """
    made = list(kernels)
    waiting: tuple[int, Op] | None = None
    given: frozenset[int] = frozenset()
    for at, kernel in enumerate(kernels):
        ops = work.ops[kernel.first : kernel.stop]
        read = {frozenset(a.axes) for op in ops for a in op.reads if a.kind == "activations"}
        sums = [op for op in kernel.ops if op.collective and op.collective.kind == "all_reduce"]
        if waiting is not None and (given in read or ops[0].count != waiting[1].count):
            waiting = None
        if not sums:
            continue
        if waiting is not None and len(sums) == 1:
            before, sent = waiting
            both = _merged([sent, sums[0]])
            if len(both) == 1:
                rest = tuple(op for op in made[before].ops if op is not sent)
                made[before] = dataclasses.replace(made[before], ops=rest)
                here = tuple(both[0] if op is sums[0] else op for op in kernel.ops)
                made[at] = dataclasses.replace(kernel, ops=here)
        waiting = (at, sums[0]) if len(sums) == 1 and made[at] is kernel else None
        written = [a.axes for a in ops[-1].writes if a.kind == "activations"]
        given = frozenset(written[0]) if written else frozenset()
    return tuple(made)


def _hidden_bytes(work: Work, chosen: Chosen, parts: Sequence[Part]) -> int:
    """Bytes of the hidden vectors that go from stage to stage, on one rank."""
    axes, layers = chosen.axes, [part for part in parts if part.layer]
    inside = {at for part in layers for at in range(part.first, part.stop)}
    written: dict[int, int] = collections.Counter()
    last = 0
    for at in inside or range(len(work.ops)):
        for access in work.ops[at].writes:
            if access.kind != "activations":
                continue
            last = access.bytes
            # Tokens may be any axes, but none that ranks split is in a hidden vector.
            if axes.residual & set(access.axes) and not set(access.axes) & chosen.summing:
                written[-(-access.bytes // chosen.of(access.axes))] += work.ops[at].count
    return max(written, key=lambda n: (written[n], -n), default=last)


def _with_permutes(kernels: Sequence[_Kernel], stages: Sequence[Stage], hidden: int) -> list[Op]:
    """The ops with a permute at each border of stages, after the kernel that ends there.

    Within a loop the borders of all turns stand together, after its body.
    """
    borders: dict[int, int] = collections.Counter()  # by the op that they stand after
    for stage in stages[:-1]:
        borders[stage.parts[-1].end - 1] += 1
    base = math.gcd(*(op.count for kernel in kernels for op in kernel.ops))
    ops: list[Op] = []
    for kernel in kernels:
        ops += kernel.ops
        crossed = sum(borders.get(at, 0) for at in range(kernel.first, kernel.stop))
        if crossed:
            sent = _exchange("permute", hidden, 2, kernel.ops[-1])
            ops.append(dataclasses.replace(sent, count=base * crossed))
    return ops


def _renumbered(ops: Sequence[Op]) -> tuple[Op, ...]:
    """Kernels numbered anew, exchanges among them."""
    numbers: dict[object, int] = {}
    made = []
    for at, op in enumerate(ops):
        if op.kernel is None and op.collective is None:
            made.append(op)
            continue
        key = ("made", at) if op.kernel is None else op.kernel
        made.append(dataclasses.replace(op, kernel=numbers.setdefault(key, len(numbers))))
    return tuple(made)


def _peak(work: Work, made: Sequence[Op]) -> int:
    """Activations alive at once on one rank.

    As much smaller than the whole work's as the largest exchange, or the largest op's operands and
    results, are: an estimate, since the peak is not known by axis.
    """

    largest, here = most_in_one_op(work.ops), most_in_one_op(made)
    if not largest:
        return work.peak_activation_bytes
    return min(work.peak_activation_bytes, -(-work.peak_activation_bytes * here // largest))


def most_in_one_op(ops: Iterable[Op]) -> int:
    """Bytes of activations that one op reads, writes and sends, at most."""
    return max(
        (
            (0 if op.collective is None else op.collective.bytes)
            + sum(a.bytes for a in (*op.reads, *op.writes) if a.kind == "activations")
            for op in ops
        ),
        default=0,
    )


def _share(part: float) -> Fraction:
    """A share that was computed in floats, without what they add to an exact one."""
    return Fraction(part).limit_denominator(10**9)
