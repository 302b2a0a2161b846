"""Where a job may not put its results; that nodes see them is tried on a real cluster."""

from pathlib import Path

import pytest

from cluster.shared_storage import refuse_throwaway
from rlhf.problems import InputError

UNPACKED = "/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


@pytest.mark.parametrize("path", [UNPACKED, f"{UNPACKED}/outputs/2026-01-01/10-00-00"])
def test_a_job_s_working_directory_is_refused(path):
    with pytest.raises(InputError, match="is inside the job's working directory") as caught:
        refuse_throwaway("run.dir", Path(path))
    assert f"run.dir={path}" in str(caught.value)


@pytest.mark.parametrize("path", ["/shared/runs/a", "/tmp/ray/run", "/data/my_ray_pkg_1"])
def test_any_other_place_is_not(path):
    refuse_throwaway("run.dir", Path(path))
