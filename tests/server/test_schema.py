"""Generated requests, right and wrong: none is answered with 500 or with what is not documented."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sandbox_runtime.server.app import AppSettings, document
from sandbox_runtime.server.hosting import HostSettings
from sandbox_runtime.settings import MIB, Limits
from server.conftest import NO_POOLS

if TYPE_CHECKING:
    from schemathesis import Case

    from server.conftest import Server

SETTINGS = AppSettings(
    host=HostSettings(
        limits=Limits(processes=64, workspace_bytes=16 * MIB, tmp_bytes=16 * MIB),
        command_timeout_s=5,
        code_timeout_s=5,
        pools=NO_POOLS,
        most_sandboxes=4,
        most_sessions=8,
        most_contexts=3,
    )
)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]

schema = schemathesis.openapi.from_dict(json.loads(document()))


@schema.parametrize()
@settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@pytest.mark.filterwarnings("ignore")
def test_every_answer_is_documented_and_none_is_500(case: Case[Any], server: Server) -> None:
    if case.path == "/api/port-watch" and isinstance(case.body, dict):
        case.body["timeoutMs"] = 20  # nobody will ever listen there
    url = f"http://127.0.0.1:{server.port}"
    case.call_and_validate(base_url=url, checks=CHECKS, timeout=30)
