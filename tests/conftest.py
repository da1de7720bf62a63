"""Fixtures for all tests. Tests pass without the shared data; those that need it skip."""

import contextlib
import functools
import gc
import io
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serve.local import RAY_SETTINGS
from tests.s3_proxy import Proxy

# One thread per test process: two cores are all CI has, and small matrices lose by sharing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_metrics_report_interval_ms", "3000")  # some tests wait; each takes CPU
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")  # Ray's own figures of the node, which no test reads
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process per run, for clouds
for name, value in RAY_SETTINGS.items():  # now, as the cluster is there before the service
    os.environ.setdefault(name, value)

os.environ.setdefault("HYPOTHESIS_NO_PLUGINS", "1")  # that of trio imports it, which takes most of a second

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("RIGFACE_SHARED", ROOT.parent / "shared"))
SLOW_FIXTURES = {"ray_cluster", "s3_server", "s3_behind", "other_s3_server", "shared", "paired"}
SLOW_PATHS = tuple(Path(__file__).with_name("slow.txt").read_text().splitlines()[1:])
# Files that share one cluster, in one process: a second cluster takes ten seconds, and more while it idles. The service
# comes last, because its controller takes a fifteenth of a core as long as it is there.
CLUSTER_FILES = (
    "tests/pipelines/telemetry/test_metrics.py", "tests/pipelines/extract/test_job.py",
    "tests/pipelines/extract/test_resume.py", "tests/pipelines/extract/test_in_process.py",
    "tests/pipelines/train/test_ray_backend.py", "tests/pipelines/study/test_job.py",
    "tests/pipelines/examples/test_encode.py", "tests/drills/test_processes.py",
    "tests/pipelines/extract/test_ray_stage.py", "tests/pipelines/cluster/test_shortage.py",
    "tests/serve/test_faults.py", "tests/serve/test_app.py", "tests/serve/inference/test_model_routing.py",
    "tests/serve/web/test_photo_tab.py",
)  # fmt: skip
CLUSTER = contextlib.ExitStack()  # stops what runs on the cluster, and the cluster
# They begin first, and beside them other long ones, so that no process ends alone.
LONG_FILES = (
    *CLUSTER_FILES, "tests/drills/test_storage.py", "tests/pipelines/cluster/test_submit.py",
    "tests/pipelines/train/test_loop.py", "tests/pipelines/edit/test_field_files.py",
    "tests/test_released_weights.py", "tests/drills/test_inputs.py", "tests/pipelines/extract/test_hostile_inputs.py",
    "tests/pipelines/train/test_train_on_s3.py", "tests/test_packaging.py",
    "tests/pipelines/extract/test_brought_weights.py",
)  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """No search for garbage among the million objects of imported modules, neither now nor while tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests that start a cluster, server, browser or training, or take long, as `slow`; long files first."""
    for item in items:
        takes_cluster = "ray_cluster" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("drill")
        if takes_cluster and not item.nodeid.startswith(CLUSTER_FILES):
            raise pytest.UsageError(f"{item.nodeid} takes the cluster: add its file to CLUSTER_FILES")
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())) or item.nodeid.startswith(SLOW_PATHS):
            item.add_marker(pytest.mark.slow)
    rank = {path: place for place, path in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stop the cluster after the last file that takes it: it and its service take processor time when idle, too."""
    if item.nodeid.startswith(CLUSTER_FILES) and not (nextitem and nextitem.nodeid.startswith(CLUSTER_FILES)):
        CLUSTER.close()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """`--dist loadfile`, with the files that share the cluster as one."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "cluster" if nodeid.startswith(CLUSTER_FILES) else super()._split_scope(nodeid)

    return Files(config, log)


@pytest.fixture(scope="session", autouse=True)
def _signing_key(tmp_path_factory):
    """A signing key of the tests: none is made in the user's home, not even by child processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIGFACE_SIGNING_FOLDER", str(tmp_path_factory.mktemp("signing")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _mini_is_nowhere():
    """Hide the small models that ship, which would make tests slow and change them; a test asks for its own."""
    from rigface import assets

    with pytest.MonkeyPatch.context() as patch:
        for name in ("refiner", "mini"):
            patch.setitem(assets.ASSETS, name, replace(assets.ASSETS[name], package=""))
        yield


@pytest.fixture
def mini(tmp_path_factory, monkeypatch) -> Path:
    """An untrained `mini` of 64 px, under that name in child processes too; it gives the preview back."""
    from rigface.face.head.open_head import OpenHead
    from rigface.model import checkpoint
    from rigface.model.model_config import ModelConfig, Process

    folder = tmp_path_factory.mktemp("assets")
    process = Process("bridge", bridge_noise=0.0, scheduler="euler", steps=1)
    config = ModelConfig(process, head=OpenHead.load().spec, render_style="texture", size=64, detail=True)
    made = checkpoint.fresh(config, (16, 32), (8, 16), expression=52, text=(2, 24), heads=4, layers=1, groups=4)
    for parameter in made.model.denoiser.conv_out.parameters():
        parameter.data.zero_()  # as before the first step of training: the preview comes back
    checkpoint.save(folder / "mini", made)
    monkeypatch.setenv("RIGFACE_ASSETS", str(folder))
    return folder / "mini"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real clips, portraits, hostile inputs and reference figures, where it is there."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"needs the shared data at {SHARED}; set RIGFACE_SHARED")
    return SHARED


@pytest.fixture
def no_room() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """Inside `no_room(n)` no file grows beyond n bytes, as on a disk that is full."""

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Small files that ship with the tests."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """Some thirty units of work for disturbed runs: cut and short videos, a picture, nobody, two bad files."""
    from rigface.image import encode_jpeg
    from rigface.testing import fakes

    folder = tmp_path_factory.mktemp("clips")
    for i in range(6):
        fakes.video(folder / f"long {i}.mp4", (0.1 * i, 0.1 * i + 0.45), frames=26, seed=i)
    for i in range(3):
        fakes.video(folder / f"short {i}.mp4", (0.3 * i,), frames=6, seed=i)
    fakes.video(folder / "no face.mp4", (), frames=20)
    (folder / "picture.jpg").write_bytes(encode_jpeg(fakes.picture((0.7,))))
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "torn.mp4").write_bytes((folder / "long 0.mp4").read_bytes()[:3000])
    return folder


S3_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "RIGFACE_S3_SILENT_S": "1.5",  # a drill that makes the storage silent should not take minutes
}


@pytest.fixture(scope="session")
def s3_behind() -> Iterator[Proxy]:
    """An S3 look-alike (moto) in this process, and before it a proxy that breaks nothing unless a test asks it to."""
    from botocore.loaders import JSONFileLoader
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    description = functools.cache(JSONFileLoader().load_file)  # of S3: a sixth of a second for each of many clients
    with pytest.MonkeyPatch.context() as patch, Proxy(f"http://{host}:{port}", hold_s=2) as proxy:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: description(path))
        yield proxy
    server.stop()


@pytest.fixture(scope="session")
def s3_server(s3_behind) -> Iterator[str]:
    """The address of that proxy, which boto3 and pyarrow, and clusters that start later, are told to use."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**S3_ENVIRONMENT, "AWS_ENDPOINT_URL": s3_behind.url}.items():
            patch.setenv(name, value)
        yield s3_behind.url


@pytest.fixture(scope="session")
def other_s3_server(tmp_path_factory) -> Iterator[str]:
    """The address of a second one, written by others (localbucket): folders on a disk, no `If-Match`, no keys."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "localbucket", str(tmp_path_factory.mktemp("localbucket")), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 30
        while time.monotonic() < limit:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def bucket(s3_server) -> str:
    """s3://faces on it."""
    make_bucket("faces")
    return "s3://faces"


def make_bucket(name: str) -> None:
    """Have a bucket; tried again on a busy machine, as all else is."""
    from rigface.storage import s3_client

    with contextlib.suppress(OSError):  # it is there
        s3_client.call(lambda client: client.create_bucket(Bucket=name), f"s3://{name}")


@pytest.fixture(scope="session")
def ray_cluster(bucket):
    """The address of a cluster of this process, whose workers know the bucket.

    Eight logical CPUs, whatever the machine has: the service of the tests holds three for a whole session, and a job
    with a pool per stage needs four beside it.
    """
    import logging

    import ray
    import ray.data
    from ray._private.node import Node

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # pytest would show pages of it beside any failure
    with pytest.MonkeyPatch.context() as patch:
        for name in ("start_log_monitor", "start_monitor"):  # processes that no test needs
            patch.setattr(Node, name, lambda self: None)
        ray.init(
            address="local",
            num_cpus=8,
            object_store_memory=150 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    CLUSTER.callback(ray.shutdown)
    return ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def on_cluster(ray_cluster) -> contextlib.ExitStack:
    """The stack of what is stopped before the cluster."""
    return CLUSTER


@pytest.fixture
def silent():
    """A display that shows nothing."""
    from rich.console import Console

    from pipelines.extract.progress import Progress

    return Progress(Console(file=io.StringIO()))


@pytest.fixture
def clip_folder(tmp_path):
    """A CLIP text model of toy size and its tokenizer, written as transformers writes them."""
    from rigface.testing.toy_start import write_text

    write_text(tmp_path / "clip", length=7)
    return tmp_path / "clip"
