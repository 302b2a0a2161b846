"""What stands where Ray has its agents, against Ray's own messages."""

import json

import pytest
from ray._private.runtime_env.context import RuntimeEnvContext
from ray.core.generated import runtime_env_agent_pb2 as messages

from cluster.node_agents import answer, fields, is_known, read_varint, varint

CREATE, DELETE = "/get_or_create_runtime_env", "/delete_runtime_env_if_possible"


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"env_vars": {"A": "ü", "B": "x" * 300}},
        {"env_vars": {}, "py_executable": "python -I 'a b'"},
    ],
)
def test_variables_and_a_command_are_given_as_they_were_asked_for(wanted):
    asked = messages.GetOrCreateRuntimeEnvRequest(
        serialized_runtime_env=json.dumps(wanted), job_id=b"\1\0\0\0", source_process="raylet"
    )
    asked.runtime_env_config.setup_timeout_seconds = 600
    reply = messages.GetOrCreateRuntimeEnvReply()
    reply.ParseFromString(answer(CREATE, asked.SerializeToString()))
    assert reply.status == messages.AGENT_RPC_STATUS_OK and not reply.error_message
    found = RuntimeEnvContext.deserialize(reply.serialized_runtime_env_context)
    assert found.env_vars == wanted.get("env_vars", {})
    assert found.py_executable == wanted.get("py_executable", RuntimeEnvContext().py_executable)
    over = messages.DeleteRuntimeEnvIfPossibleRequest(serialized_runtime_env=json.dumps(wanted))
    done = messages.DeleteRuntimeEnvIfPossibleReply()
    done.ParseFromString(answer(DELETE, over.SerializeToString()))
    assert done.status == messages.AGENT_RPC_STATUS_OK


@pytest.mark.parametrize("path", [CREATE, DELETE, "/get_runtime_envs_info"])
def test_what_must_be_made_is_left_to_rays_own(path):
    asked = messages.GetOrCreateRuntimeEnvRequest(serialized_runtime_env='{"pip": ["a"]}')
    assert answer(path, asked.SerializeToString()) is None


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**32])
def test_numbers_come_back(number):
    assert read_varint(b"?" + varint(number) + b"?", 1) == (number, 1 + len(varint(number)))
    assert varint(300) == bytes([0b10101100, 0b10])


def test_what_is_of_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="type 5"):
        fields(bytes([1 << 3 | 5, 0, 0, 0, 0]))


def test_only_who_has_the_token_is_known_where_ray_asks_for_one(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert is_known("")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "ä")
    assert is_known("Bearer ä") and not is_known("Bearer b") and not is_known("")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert is_known("Bearer from a file") and not is_known("Bearer ä")
