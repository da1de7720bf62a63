"""Concurrent analysis: serialized detection, batched fits, results to their own callers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rigface.face.reconstruction.reconstructor import FitReconstructor
from rigface.testing.fakes import FakeDetector, FakeReconstructor
from serve.inference.batched_reconstruction import BatchedReconstructor, SerializedDetector


@pytest.fixture(scope="module")
def faces(fixtures):
    """Crops, landmarks and scores of one face in three frames, as a fit has them."""
    from rigface.face.detection.factory import load_detector
    from rigface.face.steps import align
    from rigface.video.decode import read_frames

    out, detector = [], load_detector()
    for frame in list(read_frames(str(fixtures / "clip.mp4")))[:30:10]:
        aligned = align([frame.image], detector(frame.image)[:1])
        out.append((aligned.crops, aligned.landmarks, aligned.blendshapes))
    return out


class Slow:
    """A reconstructor that is at work until it is let go."""

    def __init__(self, inner):
        self.head_spec, self.version, self._inner = inner.head_spec, inner.version, inner
        self.go, self.begun, self.sizes = threading.Event(), threading.Event(), []

    def __call__(self, crops, *rest):
        self.sizes.append(len(crops))
        self.begun.set()
        assert self.go.wait(10)
        return self._inner(crops, *rest)


def fit_concurrently(inner, asks):
    """The answers of all, where the first is under way while the others come."""
    slow = Slow(inner)
    together = BatchedReconstructor(slow)
    with ThreadPoolExecutor(len(asks)) as pool:
        first = pool.submit(together, *asks[0])
        assert slow.begun.wait(10)
        rest = [pool.submit(together, *ask) for ask in asks[1:]]
        while len(together._waiting) < len(rest):
            threading.Event().wait(0.002)
        slow.go.set()
        return slow.sizes, [f.exception() or f.result() for f in (first, *rest)]


def test_requests_during_a_fit_share_the_next(faces):
    inner, track = FitReconstructor(), np.arange(1)
    alone = [inner(*face, track) for face in faces]
    two = ([faces[0][0][0], faces[1][0][0]], *(np.concatenate([faces[0][k], faces[1][k]]) for k in (1, 2)))
    asks = [(*face, track) for face in faces] + [(*two, np.array([7, 3]))]
    sizes, fits = fit_concurrently(inner, asks)
    assert sizes == [1, 4]
    for fit, by_itself in zip(fits, [*alone, None]):
        if by_itself is not None:
            for name in ("shape", "expression", "head_rotation", "camera", "albedo", "light"):
                assert getattr(fit.params, name) == pytest.approx(getattr(by_itself.params, name), abs=1e-3), name
            assert fit.landmark_residual == pytest.approx(by_itself.landmark_residual, abs=1e-5)
    assert fits[3].params.batch == (2,)
    assert fits[3].params.head_rotation[1] == pytest.approx(alone[1].params.head_rotation[0], abs=1e-4)


def test_bad_request_fails_alone(faces):
    good = (*faces[0], np.arange(1))
    bad = (faces[1][0], faces[1][1][:, :300], faces[1][2], np.arange(1))
    _, (a, b, c) = fit_concurrently(FitReconstructor(), [good, bad, good])
    assert isinstance(b, ValueError)
    assert a.params.head_rotation == pytest.approx(c.params.head_rotation, abs=1e-5)


def test_failed_batch_is_fitted_one_by_one():
    fake = FakeReconstructor()

    def fussy(crops, landmarks, blendshapes, tracks):
        if len(crops) > 1:
            raise MemoryError
        return fake(crops, landmarks, blendshapes, tracks)

    fussy.head_spec, fussy.version = fake.head_spec, fake.version
    ask = ([np.zeros((64, 64, 3), np.uint8)], np.zeros((1, 478, 3), np.float32), None, np.arange(1))
    sizes, fits = fit_concurrently(fussy, [ask] * 3)
    assert sizes == [1, 2, 1, 1]
    assert [fit.params.batch for fit in fits] == [(1,)] * 3


def test_detector_gets_one_image_at_a_time():
    inside, most = [], []

    class Counting(FakeDetector):
        def __call__(self, image, **options):
            inside.append(1)
            most.append(len(inside))
            threading.Event().wait(0.01)
            inside.pop()
            return super().__call__(image, **options)

    detector = SerializedDetector(Counting())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(detector, [np.zeros((20, 20, 3), np.uint8)] * 6))
    assert max(most) == 1
    assert detector.spec == FakeDetector().spec


def test_watchdog_detects_hanging_thread_after_caller_left():
    import asyncio

    from serve.inference.watchdog import WatchdogExecutor

    end = threading.Event()

    async def ask():
        threads = WatchdogExecutor(stuck_s=0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(threads(end.wait, 10), 0.02)
        assert not threads.is_stuck
        await asyncio.sleep(0.1)
        assert threads.is_stuck
        end.set()
        while threads.is_stuck:
            await asyncio.sleep(0.01)
        assert await threads(max, 1, 2) == 2

    asyncio.run(ask())


def test_face_worker_with_hanging_thread_is_not_ready(face_worker, monkeypatch):
    import asyncio

    assert asyncio.run(face_worker.ready())
    monkeypatch.setattr(type(face_worker._threads), "is_stuck", True)
    with pytest.raises(RuntimeError, match="hangs"):
        asyncio.run(face_worker.ready())
