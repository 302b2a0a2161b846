"""The only place that starts or joins Ray."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray

from cluster.placement import Role, local_resources, shortages
from rlhf.problems import InputError


@contextmanager
def session(address: str | None, roles: Sequence[Role]) -> Iterator[None]:
    """Within it, Ray is there and has room for the roles; raises InputError if it has not.

    Without an address Ray starts on this machine and ends with the session. If Ray is already
    there, as under a sweep's launcher, it is used and left as it is.
    """
    if ray.is_initialized():
        _refuse(shortages(roles, ray.cluster_resources()))
        yield
        return
    if address is None:
        # Ray's default of 15 starves its workers whenever the machine has anything else to do.
        os.environ.setdefault("RAY_worker_niceness", "0")
        resources = local_resources(roles)
        _refuse(shortages(roles, resources))
        ray.init(
            "local",  # even where another Ray is running
            num_cpus=int(resources["CPU"]),
            num_gpus=int(resources["GPU"]),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    else:
        try:
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except ConnectionError as error:
            raise InputError(
                [f"cluster.address={address}: no Ray cluster answers there ({error}); "
                 "`cluster=local` starts one here"]
            ) from error  # fmt: skip
    try:
        _refuse(shortages(roles, ray.cluster_resources()))
        yield
    finally:
        ray.shutdown()


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise InputError(problems)
