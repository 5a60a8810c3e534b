"""Work done side by side by Ray's processes, on this machine or on a cluster with a shared file system (S4.23).

Where RAY_ADDRESS names a cluster, that one is used; otherwise processes are started here and ended afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from maskprep.base import missing_extra

R = TypeVar("R")


def in_order(
    work: Callable[..., R], given: Sequence[tuple[Any, ...]], count: int, go_on: Callable[[], bool] = lambda: True
) -> Iterator[R]:
    """What ``work`` returns for each of some arguments, in their order, ``count`` of them at once.

    Every process computes with as many threads as this one, as sums of floats depend on their number, and has a share
    of the GPUs.

    Args:
        work: a function of a module, whose arguments and results can be pickled.
        given: the arguments.
        count: how many processes.
        go_on: asked before each but the first is begun; what has been begun is finished all the same.

    Raises:
        UserError: Ray is missing; or what ``work`` raises.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "ray") from error
    import torch

    cluster = bool(os.environ.get("RAY_ADDRESS"))
    here = {} if cluster else {"num_cpus": count, "num_gpus": torch.cuda.device_count(), "include_dashboard": False}
    ray.init(log_to_driver=False, logging_level="error", **here)
    try:
        gpus = ray.cluster_resources().get("GPU", 0.0)
        remote = ray.remote(num_cpus=1, num_gpus=min(1.0, gpus / count), max_retries=0)(_called)
        about = (str(Path.cwd()), torch.get_num_threads())
        waiting = list(enumerate(given))
        running: dict[Any, int] = {}
        finished: dict[int, Any] = {}
        asked, following, last = 0, 0, len(waiting)
        while following < last:
            while waiting and len(running) < count:
                if asked and not go_on():
                    waiting.clear()
                    last = asked
                    break
                number, arguments = waiting.pop(0)
                running[remote.remote(work, arguments, *about)] = number
                asked += 1
            if following in finished:
                yield finished.pop(following)
                following += 1
            elif running:
                done, _ = ray.wait(list(running), num_returns=1)
                finished[running.pop(done[0])] = _result(ray.get(done[0]))
    finally:
        ray.shutdown()


def _called(work: Callable[..., Any], arguments: tuple[Any, ...], folder: str, threads: int) -> tuple[str, Any]:
    """In a process of Ray's: do it as this one would."""
    import torch

    from maskprep.base import UserError

    os.chdir(folder)
    torch.set_num_threads(threads)
    try:
        return "done", work(*arguments)
    except UserError as error:  # Ray would wrap it in one of its own
        return "failed", (error.message, error.hint, error.code)


def _result(told: tuple[str, Any]) -> Any:
    from maskprep.base import UserError

    if told[0] == "failed":
        raise UserError(*told[1])
    return told[1]
