"""Numbers and names the logical axes of a work, once all that walk the same entries are known."""

from collections.abc import Mapping, Sequence

from emu.axes import Dims, Factors, Ids
from emu.tape import Touch, held
from emu.values import Buffer
from emu.work import Axis


class Numbering:
    """Numbers axes in the order in which they are first asked for."""

    def __init__(self, factors: Factors, buffers: Mapping[Buffer, Dims]) -> None:
        factors.settle()
        self._factors, self._buffers = factors, buffers
        self._numbers: dict[int, int] = {}
        self._known: dict[Ids, Ids] = {}
        self.axes: list[Axis] = []

    def dims(self, dims: Dims, name: str) -> Dims:
        """A tensor's axes by dimension; those not seen before are named after it."""
        found = []
        for d, ids in enumerate(dims):
            atoms = self._factors.atoms(ids)
            for place, atom in enumerate(atoms):
                several = f".{place}" if len(atoms) > 1 else ""
                self._number(atom, f"{name}[{d}]{several}")
            found.append(tuple(self._numbers[atom] for atom in atoms))
        return tuple(found)

    def all_of(self, ids: Ids, name: str) -> Ids:
        """Some axes, each once; those not seen before are named after the op."""
        known = self._known.get(ids)
        if known is None:
            atoms = self._factors.atoms(ids)
            known = tuple(dict.fromkeys(self._number(atom, name) for atom in atoms))
            self._known[ids] = known
        return known

    def touch(self, touch: Touch, own: Sequence[Ids] | None, name: str) -> Ids:
        """The axes that a touch is spread over; `own`: of the leaf that it is of, if it is one."""
        ids = touch.axes
        if isinstance(touch.tensor, Buffer):
            dims = self._buffers.get(touch.tensor, ())
            own = [self.all_of(axes, name) for axes in dims]
        mine = {i for axes in own or () for i in axes}
        if not ids and not touch.parts and touch.elements >= held(touch.tensor):
            return tuple(dict.fromkeys(i for axes in own or () for i in axes))
        found = dict.fromkeys(self.all_of(ids, name))
        for part in touch.parts:
            whole = self.all_of(part, name)
            found.update(dict.fromkeys([i for i in whole if i in mine] or whole))
        if touch.picked is not None:
            kept = [i for i in found if i in mine]
            found = dict.fromkeys((*self.all_of(touch.picked.axes, name), *kept))
        return tuple(found)

    def _number(self, atom: int, name: str) -> int:
        number = self._numbers.get(atom)
        if number is None:
            number = self._numbers[atom] = len(self.axes)
            self.axes.append(Axis(size=self._factors.size((atom,)), name=name))
        return number
