"""Whether this process was submitted to a cluster."""

import os

JOB_ENVIRONMENT = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set for the entry point of a submitted job."""


def in_job() -> bool:
    """Whether this process is the entry point of `ray job submit`."""
    return JOB_ENVIRONMENT in os.environ
