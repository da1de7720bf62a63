"""Continuous batching: independent requests, order of admission, cancellation, isolated errors."""

import asyncio
import time
from contextlib import aclosing

import numpy as np
import pytest

from rigface.types import Conditions
from serve.inference.diffusion_worker import DiffusionWorker, SampledImage, Step
from serve.messages import SampleRequest, SamplingOptions
from serve.problems import ApiError
from serve.protocols import sample_image
from tests.serve.conftest import photo, run


def conditions(seed: int) -> Conditions:
    a, b, c = (photo(3 * seed + i, (32, 32)) for i in range(3))
    return Conditions(a, b, c, np.random.default_rng(seed).normal(size=52).astype(np.float32))


async def sampled(diffusion_worker, model, conditions, options, timeout_s=120.0):
    return await sample_image(diffusion_worker, SampleRequest(model, conditions, options, timeout_s=timeout_s))


def test_image_does_not_depend_on_batch(diffusion_worker):
    options = [
        SamplingOptions(seed=1, steps=4),
        SamplingOptions(seed=2, steps=7, scheduler="euler"),
        SamplingOptions(seed=3, steps=2, identity_scale=1.5),
        SamplingOptions(seed=4, steps=5, scheduler="unipc"),
    ]

    async def all_at_once():
        return await asyncio.gather(
            *(sampled(diffusion_worker, "tiny", conditions(i), o) for i, o in enumerate(options))
        )

    batched = run(all_at_once())
    assert max(p.batch_rows for p in batched) > 1
    for i, o in enumerate(options):
        alone = run(sampled(diffusion_worker, "tiny", conditions(i), o))
        assert alone.batch_rows == (2 if i == 2 else 1)
        assert np.abs(alone.image.astype(int) - batched[i].image).max() <= 1  # 1e-4 before rounding to 8 bits


def test_step_events_follow_steps(diffusion_worker):
    async def follow():
        async with aclosing(
            diffusion_worker.sample(SampleRequest("tiny", conditions(0), SamplingOptions(steps=4), 2))
        ) as events:
            return [event async for event in events]

    *steps, last = run(follow())
    assert [(s.step, s.steps, s.preview is not None) for s in steps] == [
        (1, 4, False), (2, 4, True), (3, 4, False), (4, 4, False),
    ]  # fmt: skip
    assert isinstance(last, SampledImage)


def test_bad_request_does_not_affect_batch(diffusion_worker):
    async def both():
        work = [
            sampled(diffusion_worker, "tiny", conditions(0), SamplingOptions(steps=3)),
            sampled(diffusion_worker, "tiny", conditions(1), SamplingOptions(scheduler="nope")),
        ]
        return await asyncio.gather(*work, return_exceptions=True)

    good, bad = run(both())
    assert isinstance(good, SampledImage)
    assert isinstance(bad, ValueError)
    with pytest.raises(ApiError, match="unknown-model"):
        run(sampled(diffusion_worker, "other", conditions(0), SamplingOptions()))


def test_failing_scheduler_does_not_affect_batch(monkeypatch):
    from rigface.model.sampling import SamplingState

    advance = SamplingState.advance

    def breaks(state, *answer):
        if state.steps == 7 and state.index == 2:
            raise RuntimeError("no such step")
        advance(state, *answer)

    monkeypatch.setattr(SamplingState, "advance", breaks)
    diffusion_worker = slow_worker()

    async def three():
        work = [
            sampled(diffusion_worker, "a", conditions(i), SamplingOptions(steps=n)) for i, n in enumerate((6, 7, 8))
        ]
        return await asyncio.gather(*work, return_exceptions=True)

    try:
        first, bad, other = run(three())
    finally:
        diffusion_worker.close()
    assert isinstance(first, SampledImage)
    assert isinstance(other, SampledImage)
    assert first.batch_rows > 1
    assert isinstance(bad, RuntimeError)


def slow_worker(**options) -> DiffusionWorker:
    """One step at a time takes a while, so that things can happen between two."""

    def load(place):
        from rigface.model.pipeline import RigFacePipeline

        pipeline = RigFacePipeline.from_pretrained(place)
        inner = pipeline._predict

        def predict(*args, **kwargs):
            time.sleep(0.02)
            return inner(*args, **kwargs)

        pipeline._predict = predict
        return pipeline

    return DiffusionWorker({"a": "tiny", "b": "tiny", "c": "tiny"}, load, **options)


def test_abandoned_request_frees_its_rows():
    diffusion_worker = slow_worker(max_rows=1)

    async def scene():
        first = diffusion_worker.sample(SampleRequest("a", conditions(0), SamplingOptions(steps=100)))
        assert isinstance(await anext(first), Step)
        second = asyncio.ensure_future(sampled(diffusion_worker, "a", conditions(1), SamplingOptions(steps=2)))
        await asyncio.sleep(0.1)
        assert not second.done()  # one row, and it is taken
        await first.aclose()
        return await asyncio.wait_for(second, 5)

    assert run(scene()).queue_s >= 0.1
    diffusion_worker.close()


def test_full_queue_timeout_and_close():
    diffusion_worker = slow_worker(max_rows=1, max_waiting=1)

    async def scene():
        first = asyncio.ensure_future(sampled(diffusion_worker, "a", conditions(0), SamplingOptions(steps=20)))
        await asyncio.sleep(0.1)
        late = asyncio.ensure_future(sampled(diffusion_worker, "a", conditions(1), SamplingOptions(steps=100), 0.01))
        await asyncio.sleep(0.01)
        with pytest.raises(ApiError, match="busy"):
            await sampled(diffusion_worker, "a", conditions(2), SamplingOptions())
        with pytest.raises(ApiError, match="timeout"):
            await late
        diffusion_worker.close()
        with pytest.raises(ApiError, match="draining"):
            await sampled(diffusion_worker, "a", conditions(3), SamplingOptions())
        return await first  # what was under way is finished

    assert run(scene()).image.shape == (32, 32, 3)


def test_least_recently_used_model_is_dropped():
    diffusion_worker = slow_worker(max_loaded=2)
    for name in ("a", "b", "a", "c"):
        run(sampled(diffusion_worker, name, conditions(0), SamplingOptions(steps=1)))
    loaded = {m.name for m in run(diffusion_worker.models()) if m.loaded}
    assert loaded == {"a", "c", "preview"}
    diffusion_worker.close()


def test_reference_tokens_are_computed_once(diffusion_worker):
    calls = []
    model = diffusion_worker.pool.loaded["tiny"]
    inner = model.pipeline.encode_reference
    model.pipeline.encode_reference = lambda *picture: calls.append(1) or inner(*picture)
    for seed in range(3):
        run(sampled(diffusion_worker, "tiny", conditions(77), SamplingOptions(seed=seed, steps=1)))
    del model.pipeline.encode_reference
    assert len(calls) == 1
