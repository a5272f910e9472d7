"""Tables of vectors read a few rows at a time, and how far each row stands out in what a change makes of it.

No table is ever held whole in another precision, so that a vocabulary of any size fits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tools.words import robust_z
from tools.workers import over_threads

Result = TypeVar("Result")

HELD = 2**22
"""How many numbers a thread holds at once, of a table or of a product with it: a larger piece of memory is got anew each time."""
MOST_NORMS = 2**25
MOST_COLUMNS = 4096


@dataclass(frozen=True)
class Table:
    """Vectors, [row, d_model], that are read when asked for.

    Args:
        shape: Rows and width.
        rows: Returns the rows from one place to another.
        threads: Look at a part each.
    """

    shape: tuple[int, int]
    rows: Callable[[int, int], Tensor]
    threads: int = 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, i: int) -> Float[Tensor, " d_model"]:
        """Return one row, float32."""
        row: Tensor = self.rows(i, i + 1)[0].float()
        return row

    def over(self, work: Callable[[slice, Tensor], Result], n_columns: int = 1) -> Iterator[Result]:
        """Yield what `work` makes of all rows in turn, float32, so many at once as can be multiplied with `n_columns` columns."""
        n = max(1, HELD // max(self.shape[1], n_columns))
        places = (slice(start, min(start + n, len(self))) for start in range(0, len(self), n))
        return over_threads(lambda place: work(place, self.rows(place.start, place.stop).float()), places, self.threads)

    def mean(self) -> Float[Tensor, " d_model"]:
        """Return the mean of all rows, float64."""
        total = torch.zeros(self.shape[1], dtype=torch.float64)
        for part in self.over(lambda _, rows: rows.sum(0, dtype=torch.float64).cpu()):
            total += part
        return total / max(len(self), 1)

    def at(self, places: Sequence[int]) -> Table:
        """Return the table of some rows alone, which ascend; those that follow one another are read in one go."""
        runs: list[range] = []
        for i in places:
            start = runs.pop().start if runs and runs[-1].stop == i else i
            runs.append(range(start, i + 1))
        return table_of(torch.cat([self.rows(run.start, run.stop) for run in runs]))

    def centred(self) -> Table:
        """Return the table with the mean of its rows taken off."""
        mean = self.mean().float()
        return Table(self.shape, lambda start, stop: self._less(start, stop, mean), self.threads)

    def _less(self, start: int, stop: int, mean: Tensor) -> Tensor:
        rows = self.rows(start, stop).float()
        return rows - mean.to(rows.device)

    def times(self, directions: Float[Tensor, "d_model direction"]) -> Float[Tensor, "row direction"]:
        """Return every row's products with some directions, float32."""
        out = torch.zeros(len(self), directions.shape[1])

        def fill(place: slice, rows: Tensor) -> None:
            out[place] = (rows @ directions.to(rows)).cpu()

        deque(self.over(fill, directions.shape[1]), maxlen=0)
        return out


def table_of(weight: Float[Tensor, "row d_model"]) -> Table:
    """Return a tensor as a table."""
    held = weight.detach()
    return Table((held.shape[0], held.shape[1]), lambda start, stop: held[start:stop])


def standing_out(changes: Iterable[Sequence[Tensor]], table: Table, n_copies: int = 1) -> Float[Tensor, "copy row"]:
    """Return how far each row stands out in the norm `||x D||`, in robust deviations, averaged over modules; float64.

    Args:
        changes: For every module its copies, that of the change first and then of its controls: singular
            directions times singular values, [d_model, rank]. Asked for as they are needed.
        table: Whose rows are looked at.
        n_copies: How many copies a module has.

    Returns:
        Zeros where there is no module.
    """
    total, n = torch.zeros(n_copies, len(table), dtype=torch.float64), 0
    for group in _groups(changes, len(table)):
        for i, z in enumerate(over_threads(robust_z, _norms(group, table), table.threads)):
            total[i % n_copies] += z
        n += len(group) // n_copies
    return total / max(n, 1)


def _groups(changes: Iterable[Sequence[Tensor]], n_rows: int) -> Iterator[list[Tensor]]:
    """Yield the copies of some modules at a time, so many that neither they nor their norms take much room."""
    group: list[Tensor] = []
    for copies in changes:
        group += [copy.float() for copy in copies]
        if sum(one.shape[1] for one in group) >= MOST_COLUMNS or len(group) * n_rows >= MOST_NORMS:
            yield group
            group = []
    if group:
        yield group


def _norms(group: Sequence[Float[Tensor, "d_model _"]], table: Table) -> Float[Tensor, "copy row"]:
    """Return the norm of what each copy makes of each row."""
    ranks = [one.shape[1] for one in group]
    columns = torch.cat(list(group), dim=1).T
    out = torch.zeros(len(group), len(table))

    def fill(place: slice, rows: Tensor) -> None:
        made = columns.to(rows) @ rows.T
        out[:, place] = torch.stack([part.square_().sum(0).sqrt_() for part in torch.split(made, ranks)]).cpu()

    deque(table.over(fill, len(columns)), maxlen=0)
    return out
