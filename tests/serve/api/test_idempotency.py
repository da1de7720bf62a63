"""Idempotency keys: sharing, cancellation, expiry."""

import asyncio
import json
import threading
from types import SimpleNamespace

import pytest

from rigface.edits import FaceEdit
from serve.api.idempotency import KEEP_S, IdempotencyCache
from serve.problems import ApiError
from tests.serve.conftest import listening, run


def test_concurrent_repeats_share_one_result_if_one_caller_disconnects():
    async def story():
        repeats, began, may_end = IdempotencyCache(len), [], asyncio.Event()

        async def work():
            began.append(1)
            await may_end.wait()
            return b"picture"

        first, second = (asyncio.ensure_future(repeats.once("key", b"a", work)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        may_end.set()
        assert await second == await repeats.once("key", b"a", work) == b"picture"
        assert began == [1]
        with pytest.raises(ApiError, match="another request"):
            await repeats.once("key", b"b", work)

    run(story())


def test_work_without_callers_is_cancelled_and_restarted_by_a_repeat():
    async def story():
        repeats, calls = IdempotencyCache(len), []

        async def work():
            calls.append("began")
            try:
                await asyncio.sleep(0.05 if len(calls) > 2 else 30)
            finally:
                calls.append("ended")
            return b"picture"

        waits = [asyncio.ensure_future(repeats.once("key", b"a", work)) for _ in range(2)]
        await asyncio.sleep(0.01)
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        assert calls == ["began", "ended"]  # before those who left are told: their places are free only then
        assert await repeats.once("key", b"a", work) == b"picture"
        assert calls == ["began", "ended"] * 2

    run(story())


def test_failed_work_is_repeated():
    async def story():
        repeats, tries = IdempotencyCache(len), []

        async def work():
            tries.append(1)
            if len(tries) == 1:
                raise ApiError("busy")
            return b"picture"

        with pytest.raises(ApiError):
            await repeats.once("key", b"a", work)
        assert await repeats.once("key", b"a", work) == b"picture"

    run(story())


def test_results_expire_by_age_and_size_but_running_work_is_kept():
    async def story():
        now, done = [0.0], []
        repeats, may_end = IdempotencyCache(len, max_bytes=250, now=lambda: now[0]), asyncio.Event()

        def ask(name, size=100, wait=False):
            async def work():
                done.append(name)
                if wait:
                    await may_end.wait()
                return bytes(size)

            return asyncio.ensure_future(repeats.once(name, b"", work))

        slow = ask("slow", wait=True)
        for name in "abc":
            await ask(name)
        assert len(repeats._known) == 3  # slow, b, c
        await ask("b")
        await ask("a")
        assert done == ["slow", "a", "b", "c", "a"]
        now[0] = KEEP_S + 1
        await ask("d")
        assert set(repeats._known) == {"slow", "d"}
        again = ask("slow", wait=True)
        may_end.set()
        assert await slow == await again
        assert done.count("slow") == 1

    run(story())


def test_disconnect_cancels_a_keyed_edit_and_counts_until_it_stopped(services, png):
    import httpx

    began, left = threading.Event(), threading.Event()

    async def slow(*_):
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            left.set()

    services.face_worker = SimpleNamespace(edit_without_diffusion=slow)
    with listening(services) as url:
        files = {"picture": png, "request": (None, json.dumps({"edit": {"yaw_deg": 3}, "model": "preview"}))}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/edits", files=files, headers={"Idempotency-Key": "gone"}, timeout=1)
        assert began.is_set()
        assert left.wait(5)
        assert run(services.gate.drain(5)) is True


def test_kept_edit_has_its_result_but_not_its_source(services, png):
    from serve.content_cache import picture_id
    from serve.inference.edit_service import EditRunner
    from serve.messages import EditInput
    from serve.schemas import EditRequest, PictureRef
    from serve.security.api_keys import OPEN
    from serve.telemetry.metrics import GatewayMetrics

    name = picture_id(png)
    asked = EditRequest(picture=PictureRef(base64="AAAA"), edit={"yaw_deg": 3}, model="preview")
    editing = EditRunner(services, GatewayMetrics())
    plan = editing.plan(asked, EditInput(name, (FaceEdit(edit=asked.edit),), {name: png}), "image/png", OPEN, "1")
    done = run(editing.run(plan))
    assert (done.data[:4], done.plan.edit_input.picture) == (b"\x89PNG", name)
    assert done.plan.edit_input.pictures == {}
    assert done.plan.asked.picture is None
