"""What every test may ask for. Tests pass without the shared data; those that need it say so and skip."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

# One thread per test process: two cores are all CI has, and small matrices lose by sharing.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_metrics_report_interval_ms", "1000")  # some tests wait for them
os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")  # as serve/local.py, before a cluster is there
os.environ.setdefault("RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S", "30")

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("RIGFACE_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session", autouse=True)
def _mini_is_nowhere():
    """Tests decide for themselves whether the small model is there; the one that ships would make them slow, and change them."""
    from rigface import assets

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(assets.ASSETS, "mini", replace(assets.ASSETS["mini"], package=""))
        yield


@pytest.fixture
def mini(tmp_path_factory, monkeypatch) -> Path:
    """An untrained `mini` of 64 px, which its name then means everywhere, in child processes too; it gives the preview back."""
    from rigface.face.open_head import OpenHead
    from rigface.model import checkpoint
    from rigface.model.diffusion import Process

    folder = tmp_path_factory.mktemp("assets")
    process = Process("bridge", bridge_noise=0.0, scheduler="euler", steps=1)
    config = checkpoint.ModelConfig(process, head=OpenHead.load().spec, render_style="texture", size=64, detail=True)
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


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Small files that ship with the tests."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def bucket():
    """s3://faces on an S3 look-alike in this process, which boto3 and pyarrow are told to use."""
    import boto3
    from moto.server import ThreadedMotoServer

    from rigface import storage

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        storage.filesystem.cache_clear()
        storage.s3_client.cache_clear()
        boto3.client("s3").create_bucket(Bucket="faces")
        yield "s3://faces"
    storage.filesystem.cache_clear()
    storage.s3_client.cache_clear()
    server.stop()
