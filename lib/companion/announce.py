"""papermill's engine with a line, now and then, that says where a notebook is."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from papermill.engines import NBClientEngine, papermill_engines

ENGINE = "alertclip"
LINE_EVERY_S = 5.0  # a progress line at most this often


class Announcer:
    """Prints where a notebook is; the estimate comes from the cells' times in the last run."""

    def __init__(self, label: str, seconds: Sequence[float]):
        self.label, self.seconds = label, seconds
        self.start, self.last = time.monotonic(), -LINE_EVERY_S

    def __call__(self, index: int, total: int) -> None:
        now = time.monotonic()
        known = len(self.seconds) == total
        long_cell = known and self.seconds[index] > LINE_EVERY_S
        if now - self.last < LINE_EVERY_S and not long_cell:
            return
        self.last = now
        left = (
            f"about {sum(self.seconds[index:]):.0f} s left" if known else "first run: no estimate"
        )
        elapsed = f"{now - self.start:.0f} s so far, {left}"
        print(f"{self.label}: cell {index + 1}/{total}, {elapsed}", file=sys.stderr, flush=True)


class _Engine(NBClientEngine):
    """papermill's own engine, calling ``announce(index, total)`` as each cell starts."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: Any, kernel_name: str, announce: Callable[[int, int], None], **kwargs: Any
    ) -> Any:
        cell_start = nb_man.cell_start

        def start(cell: Any, cell_index: int | None = None, **options: Any) -> None:
            announce(cell_index or 0, len(nb_man.nb.cells))
            cell_start(cell, cell_index, **options)

        nb_man.cell_start = start
        # The kernel's own remarks (ports, shutdown) help no reader; the cells' stderr still comes.
        quiet = ["--IPKernelApp.log_level=50"]
        return super().execute_managed_notebook(
            nb_man, kernel_name, extra_arguments=quiet, **kwargs
        )


papermill_engines.register(ENGINE, _Engine)
