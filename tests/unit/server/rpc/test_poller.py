"""How gRPC's poller thread is scheduled."""

from __future__ import annotations

import os
import threading

import grpc.aio

from petsem.server.rpc.poller import schedule_as_batch


async def test_the_poller_and_no_other_thread_is_scheduled_as_batch() -> None:
    """The thread that grpc.aio starts is found by its name; if that ever changes, this fails."""
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        schedule_as_batch()
        policies = {
            thread.name: os.sched_getscheduler(thread.native_id)
            for thread in threading.enumerate()
            if thread.native_id is not None
        }
    finally:
        await server.stop(None)
    batch = [name for name, policy in policies.items() if policy == os.SCHED_BATCH]
    assert len(batch) == 1
    assert threading.main_thread().name not in batch
