"""Work spread over processes, one thread each, so that results do not depend on how many there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from multiprocessing import active_children, get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def each(work: Callable[[Item], Result], items: Iterable[Item], jobs: int) -> Iterator[tuple[Item, Result]]:
    """Yield every item with its result as they come: from this process for one job, else from fresh ones.

    An error in a worker is raised here, as is an interrupt, and the other workers are stopped.

    Args:
        work: A function of a module; it and the items can be pickled.
        items: What is to be done.
        jobs: Processes at once.
    """
    if jobs == 1:
        yield from ((item, on_one_thread(work, item)) for item in items)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        waiting = {pool.submit(partial(on_one_thread, work), item): item for item in items}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                worker.terminate()
            raise


def over_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield the results in the order of the items, each made by one thread, so that they do not depend on how many there are.

    Items are asked for as they are needed: two for each thread are waiting at most.

    Args:
        work: A function that spends its time in torch.
        items: What is to be done.
        threads: At once; with one, nothing is started.
    """
    if threads == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(on_one_thread, work, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def on_one_thread(work: Callable[[Item], Result], item: Item) -> Result:
    """Return the work's result, with torch held to one thread."""
    import torch

    torch.set_num_threads(1)
    return work(item)
