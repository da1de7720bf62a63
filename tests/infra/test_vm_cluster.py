"""The configuration of `ray up`: schema of Ray, parameters of EC2, and access from outside."""

import copy
import shlex

import jsonschema
import pytest
import yaml

from tests.infra.conftest import INFRA, project

PATH = INFRA / "aws" / "cluster.yaml"


@pytest.fixture
def config():
    return yaml.safe_load(PATH.read_text())


def checked(config):
    """As `ray up` does before it asks Amazon anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_ray_up_accepts_config(config):
    prepared = checked(config)
    assert prepared["setup_commands"] == [], "nothing of Ray's defaults, which install another Ray"
    assert prepared["max_workers"] == sum(
        t["max_workers"] for n, t in prepared["available_node_types"].items() if n != "head"
    )


@pytest.mark.parametrize("change", [{"provider": {"typ": "aws"}}, {"max_worker": 3}, {"auth": {"user": "x"}}])
def test_mistake_is_found(config, change):
    with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
        checked({**config, **change})


def test_boto3_accepts_node_configs(config):
    import botocore.session
    from botocore.validate import ParamValidator

    shape = botocore.session.Session().get_service_model("ec2").operation_model("RunInstances").input_shape
    for name, kind in config["available_node_types"].items():
        asked = dict(kind["node_config"])
        subnets = asked.pop("SubnetIds")  # of Ray: it takes one subnet
        report = ParamValidator().validate({**asked, "SubnetId": subnets[0], "MinCount": 1, "MaxCount": 1}, shape)
        assert not report.has_errors(), f"{name}: {report.generate_report()}"


def test_only_workers_are_spot(config):
    kinds = config["available_node_types"]
    assert {n for n, k in kinds.items() if "InstanceMarketOptions" not in k["node_config"]} == {"head"}
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert config["head_node_type"] == "head"
    profiles = {n: k["node_config"]["IamInstanceProfile"]["Arn"].rpartition("/")[2] for n, k in kinds.items()}
    assert profiles == {"head": "rigface-head", "cpu": "rigface-worker", "gpu": "rigface-worker"}


def test_cluster_needs_token_and_is_private(config):
    (head,) = [c for c in config["head_start_ray_commands"] if "ray start" in c]
    assert "--dashboard-host=127.0.0.1" in head
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"~/.ray/auth_token": "./auth_token"}
    assert "infra/aws/auth_token" in (INFRA.parent / ".gitignore").read_text().split()
    for name, kind in config["available_node_types"].items():
        node = kind["node_config"]
        assert node["SecurityGroupIds"], f"{name}: Ray's own group lets the whole internet try SSH"
        assert node["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}
        assert all(d["Ebs"]["Encrypted"] for d in node["BlockDeviceMappings"])


def test_images_have_project_version(config):
    images = [config["docker"]["head_image"], config["docker"]["worker_image"]]
    images += [k["docker"]["worker_image"] for k in config["available_node_types"].values() if "docker" in k]
    tags = [image.rpartition(":")[2] for image in images]
    assert tags == [f"{project()['version']}-{target}" for target in ("cpu", "cuda", "cpu")]


def test_ray_start_accepts_commands(config):
    from ray.scripts.scripts import start

    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    started = [shlex.split(c.partition("ray start ")[2]) for c in commands if "ray start" in c]
    assert len(started) == 2
    for words in started:
        start.make_context("start", words)  # raises for an option it does not know
