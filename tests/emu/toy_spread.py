"""Decoders as works written by hand, axes and all, to be spread over ranks."""

from emu.work import Access, Axis, Dot, Leaf, Op, Routed, Work


class Axes:
    """Names axes as they are first used, with their sizes."""

    def __init__(self):
        self.axes = []
        self.number = {}

    def __call__(self, **sizes):
        for name, size in sizes.items():
            self.number[name] = len(self.axes)
            self.axes.append(Axis(size=size, name=name))

    def of(self, names):
        return tuple(self.number[name] for name in names.split())

    def size(self, names):
        count = 1
        for axis in self.of(names):
            count *= self.axes[axis].size
        return count


class Writer:
    """Writes leaves and ops; activations are of 4 bytes."""

    def __init__(self, **sizes):
        self.ax = Axes()
        self.ax(**sizes)
        self.leaves, self.ops, self.kernel = [], [], 0

    def leaf(self, path, *dims, dtype="bfloat16", kind="weights"):
        shape = tuple(self.ax.size(dim) for dim in dims)
        axes = tuple(self.ax.of(dim) for dim in dims)
        self.leaves.append(Leaf(path=path, shape=shape, dtype=dtype, kind=kind, axes=axes))
        return path

    def held(self, path, axes, count, **more):
        """An access of (a turn's share of) a leaf that is spread over these axes."""
        leaf = next(leaf for leaf in self.leaves if leaf.path == path)
        each = leaf.bytes // leaf.size
        rows = (0, leaf.shape[0]) if leaf.shape else None
        size = self.ax.size(axes) * each
        return Access(
            tensor=path,
            kind=leaf.kind,
            bytes=more.pop("bytes", size),
            rows=rows,
            axes=self.ax.of(axes),
            **more,
        )

    def flow(self, axes):
        size = 4 * self.ax.size(axes)
        return Access(tensor="activations", kind="activations", bytes=size, axes=self.ax.of(axes))

    def op(self, kind, axes, reads, writes, count=1, summed="", indexed="", whole="", same=False):
        flops = self.ax.size(axes) * (2 if kind == "dot" else 1)
        self.kernel += not same
        self.ops.append(
            Op(
                name=kind,
                kind=kind,
                count=count,
                flops={"float32": flops} if kind != "gather" else {},
                reads=tuple(reads),
                writes=tuple(writes),
                dot=Dot(batch=1, m=1, n=flops // 2, k=1) if kind == "dot" else None,
                kernel=self.kernel,
                axes=self.ax.of(axes),
                summed=self.ax.of(summed),
                indexed=self.ax.of(indexed),
                whole=self.ax.of(whole),
            )
        )

    def work(self, **more):
        return Work(
            leaves=tuple(self.leaves), ops=tuple(self.ops), axes=tuple(self.ax.axes), **more
        )


def decoder(
    *,
    layers=4,
    width=64,
    kv=2,
    group=2,
    head=8,
    ffn=96,
    vocab=160,
    slots=32,
    batch=1,
    scanned=True,
    dtype="bfloat16",
    experts=0,
    chosen=2,
):
    """One decode step of a Llama-like decoder, or of a mixture of experts in gathered form."""
    w = Writer(
        L=layers, d=width, kv=kv, g=group, h=head, f=ffn, v=vocab, v2=vocab, s=slots, b=batch
    )
    b = "b" if batch > 1 else ""
    if experts:
        w.ax(e=experts, k=chosen)
    w.leaf("embedding/weight", "v", "d", dtype=dtype)
    w.leaf("head/kernel", "v2", "d", dtype=dtype)
    matrices = {"q": "kv g h|d", "k": "kv h|d", "v": "kv h|d", "o": "d|kv g h"}
    mlp = {"gate": "f|d", "up": "f|d", "down": "d|f"}
    of = [None] if scanned else range(layers)
    count = layers if scanned else 1

    def name(layer, rest):
        return f"layers/{rest}" if layer is None else f"layers/{layer}/{rest}"

    def stacked(path, *dims, **kw):
        return w.leaf(path, "L", *dims, **kw) if scanned else w.leaf(path, *dims, **kw)

    for n in of:
        for m, dims in matrices.items():
            stacked(name(n, f"attention/{m}/kernel"), *dims.split("|"), dtype=dtype)
        stacked(name(n, "norm/scale"), "d", dtype="float32")
        for m, dims in mlp.items():
            first = ("e",) if experts else ()
            stacked(name(n, f"mlp/{m}/kernel"), *first, *dims.split("|"), dtype=dtype)
        if experts:
            stacked(name(n, "router/kernel"), "e", "d", dtype="float32")
    w.leaf("norm/scale", "d", dtype="float32")
    for n in of:
        for which in ("keys", "values"):
            path = f"cache/{which}/{n or 0}"
            stacked(path, b, "kv", "s", "h", kind="cache")
    w.leaf("cache/position", b, dtype="int32", kind="cache")

    w.op(
        "gather",
        f"{b} d",
        [w.held("embedding/weight", f"{b} d", 1)],
        [w.flow(f"{b} d")],
        indexed="v",
    )
    for n in of:

        def held(rest, axes, count=count, n=n, **more):
            return w.held(name(n, rest), axes, count, **more)

        w.op(
            "elementwise",
            f"{b} d",
            [w.flow(f"{b} d"), held("norm/scale", "d")],
            [w.flow(f"{b} d")],
            count,
        )
        for m, out in (("q", "kv g h"), ("k", "kv h"), ("v", "kv h")):
            w.op(
                "dot",
                f"{b} {out} d",
                [w.flow(f"{b} d"), held(f"attention/{m}/kernel", f"{out} d")],
                [w.flow(f"{b} {out}")],
                count,
                summed="d",
            )
        keys, values = (f"cache/{which}/{n or 0}" for which in ("keys", "values"))
        for path in (keys, values):
            w.op(
                "update",
                f"{b} kv h",
                [w.flow(f"{b} kv h")],
                [w.held(path, f"{b} kv h", count)],
                count,
            )
        w.op(
            "dot",
            f"{b} kv g s h",
            [w.flow(f"{b} kv g h"), w.held(keys, f"{b} kv s h", count)],
            [w.flow(f"{b} kv g s")],
            count,
            summed="h",
        )
        w.op(
            "dot",
            f"{b} kv g s h",
            [w.flow(f"{b} kv g s"), w.held(values, f"{b} kv s h", count)],
            [w.flow(f"{b} kv g h")],
            count,
            summed="s",
        )
        w.op(
            "dot",
            f"{b} kv g h d",
            [w.flow(f"{b} kv g h"), held("attention/o/kernel", "kv g h d")],
            [w.flow(f"{b} d")],
            count,
            summed="kv g h",
        )
        w.op("elementwise", f"{b} d", [w.flow(f"{b} d")] * 2, [w.flow(f"{b} d")], count)
        more, indexed = {}, ""
        if experts:
            w.op(
                "dot",
                f"{b} e d",
                [w.flow(f"{b} d"), held("router/kernel", "e d")],
                [w.flow(f"{b} e")],
                count,
                summed="d",
            )
            w.op("sort", f"{b} e", [w.flow(f"{b} e")], [w.flow(f"{b} k")], count, whole="e")
            routed = Routed(experts=experts, chosen=chosen, tokens=batch)
            each = 2 * width * ffn
            distinct = experts * (1 - (1 - chosen / experts) ** batch)
            more, indexed = {"routed": routed, "bytes": round(each * distinct)}, "e"
        k = f"{b} k" if experts else b
        for m in ("gate", "up"):
            w.op(
                "dot",
                f"{k} f d",
                [w.flow(f"{b} d"), held(f"mlp/{m}/kernel", "f d", **more)],
                [w.flow(f"{k} f")],
                count,
                summed="d",
                indexed=indexed,
            )
        w.op("elementwise", f"{k} f", [w.flow(f"{k} f")] * 2, [w.flow(f"{k} f")], count)
        w.op(
            "dot",
            f"{k} f d",
            [w.flow(f"{k} f"), held("mlp/down/kernel", "f d", **more)],
            [w.flow(f"{k} d")],
            count,
            summed="f",
            indexed=indexed,
        )
        w.op("elementwise", f"{k} d", [w.flow(f"{k} d")], [w.flow(f"{b} d")], count)
    w.op(
        "elementwise",
        f"{b} d",
        [w.flow(f"{b} d"), w.held("norm/scale", "d", 1)],
        [w.flow(f"{b} d")],
    )
    w.op(
        "dot",
        f"{b} v2 d",
        [w.flow(f"{b} d"), w.held("head/kernel", "v2 d", 1)],
        [w.flow(f"{b} v2")],
        summed="d",
    )
    return w.work(peak_activation_bytes=1000)
