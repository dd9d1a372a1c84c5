"""The node, made once for this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.bad_input.node import DEADLINE_S, MARK, Site
from tests.support import cluster
from tests.support.daemon import Daemon, configure
from tests.support.doors import Doors
from tests.support.offline import Disk


@pytest.fixture(scope="package")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = cluster.make(tmp_path_factory.mktemp("bad"))
    short = {"http_header_deadline_s": DEADLINE_S, "http_body_deadline_s": DEADLINE_S}
    configure(made.directory, "limits", **short, http_connections=64)
    with Daemon(made.directory) as daemon, Doors(daemon, made.operator) as doors:
        doors.furnish("acme", "web")
        doors.set("acme/web", A="value of A")
        reader = doors.mint("acme", "action = secrets:read")
        yield Site(doors, Disk(made.directory), reader)
        said = daemon.said()
        assert MARK not in said
        unexpected = [e for e in daemon.events() if e["level"] == "error"]
        assert unexpected == []
