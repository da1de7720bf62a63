"""What a schema cannot know of the manifests: that they fit each other, the command line, the lock file and the image."""

import re
import shlex

import pytest
import yaml

from pipelines.cli.main import parse
from tests.infra.conftest import OVERLAYS, ROOT, cluster_of, one, pinned, pods, project, quantity, rendered

# Secrets that a person makes; docs/clusters.md says how.
BY_HAND = {"rigface-redis", "rigface-keys", "rigface-seal"}
CLOUDS = ("aws-gpu", "gke-gpu")
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def command(overlay, job):
    """The command of a job, parsed by our own command line."""
    words = shlex.split(one(rendered(overlay), "RayJob", job)["spec"]["entrypoint"])
    assert words[0] == "rigface"
    return parse(words[1:])


def total(overlay, job, resource):
    """What all workers of a job have of a resource, at most."""
    owned = [p for p in pods(rendered(overlay)) if p.owner == f"RayJob/{job}" and p.role == "worker"]
    return sum(p.most * quantity(p.main["resources"]["requests"].get(resource, 0)) for p in owned)


# --- commands


@overlays
@pytest.mark.parametrize("job", ["extract", "train"])
def test_entrypoints_are_commands_of_ours_and_need_no_shell(overlay, job):
    assert command(overlay, job).job.address == "auto"
    entrypoint = one(rendered(overlay), "RayJob", job)["spec"]["entrypoint"]
    assert not set(entrypoint) & set("$`;|&<>*\n"), "KubeRay hands it to a shell of the submitter, where nothing is set"


@overlays
def test_extract_fits_its_pools(overlay):
    job = command(overlay, "extract").job
    for _, pool in job.pools:
        if pool.gpus:
            assert 0 < (pool.most or pool.actors) * pool.gpus <= total(overlay, "extract", "nvidia.com/gpu")
    cpus = sum((pool.most or pool.actors) * pool.cpus for _, pool in job.pools)
    assert cpus <= total(overlay, "extract", "cpu"), "with all actors there are more than the nodes have"
    memory = sum((pool.most or pool.actors) * pool.memory_gb for _, pool in job.pools) * 2**30
    assert memory <= 0.7 * total(overlay, "extract", "memory"), "Ray gives 30 % to its object store"
    assert cpus >= 0.6 * total(overlay, "extract", "cpu"), "nodes that no actor would ever use"


@overlays
def test_training_fits_its_gang(overlay):
    job = command(overlay, "train").job
    (gang,) = one(rendered(overlay), "RayJob", "train")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert gang["minReplicas"] == gang["replicas"] == gang["maxReplicas"] > 1
    assert job.max_workers in (0, job.workers), "the gang is fixed"
    assert job.workers * job.cpus <= total(overlay, "train", "cpu")
    if job.gpu:
        assert job.workers == total(overlay, "train", "nvidia.com/gpu")
    assert job.micro_batches % job.workers == 0


@pytest.mark.parametrize("overlay", CLOUDS)
def test_where_training_starts_is_where_the_models_are_put(overlay):
    start = command(overlay, "train").job.start
    assert start.startswith("sd15:/models/")
    (worker,) = [p for p in pods(rendered(overlay)) if p.owner == "RayJob/train" and p.role == "worker"]
    assert "/models" in [m["mountPath"] for m in worker.main["volumeMounts"]]
    if overlay == "aws-gpu":
        code = worker.spec["initContainers"][0]["command"][2]
        compile(code, "initContainer", "exec")
        assert f"'{start.removeprefix('sd15:')}'" in code


@overlays
def test_jobs_may_be_tried_again_and_end(overlay):
    for name in ("extract", "train"):
        spec = one(rendered(overlay), "RayJob", name)["spec"]
        assert spec["backoffLimit"] >= 1
        assert spec["shutdownAfterJobFinishes"]
        assert spec["activeDeadlineSeconds"] <= 7 * 86400


# --- versions and images


@overlays
def test_versions_are_those_of_the_lock_file(overlay):
    clusters = [c for d in rendered(overlay) if (c := cluster_of(d))]
    assert {c["rayVersion"] for c in clusters} == {pinned()["ray"]}


@overlays
def test_images_are_ours_at_this_version_and_have_a_target(overlay):
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "infra/docker/Dockerfile").read_text(), re.M))
    for pod in pods(rendered(overlay)):
        for container in pod.containers:
            name, _, tag = container["image"].rpartition(":")
            if pod.owner == "StatefulSet/redis":
                assert re.fullmatch(r"redis:\d+\.\d+\.\d+-alpine", container["image"])
                continue
            version, _, target = tag.rpartition("-")
            assert (name.rpartition("/")[2], version) == ("rigface", project()["version"]), container["image"]
            assert target in targets
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert not has_gpu or target in ("cuda", "efa"), container["image"]


# --- pods


@overlays
def test_everything_that_is_named_exists(overlay):
    documents = rendered(overlay)
    there = {(d["kind"], d["metadata"]["name"]) for d in documents}
    for pod in pods(documents):
        wanted = {("PriorityClass", n) for n in [pod.spec.get("priorityClassName")] if n}
        wanted |= {("ServiceAccount", n) for n in [pod.spec.get("serviceAccountName")] if n}
        for volume in pod.spec.get("volumes", []):
            if claim := volume.get("persistentVolumeClaim"):
                wanted.add(("PersistentVolumeClaim", claim["claimName"]))
            if csi := volume.get("csi"):
                wanted.add(("SecretProviderClass", csi["volumeAttributes"]["secretProviderClass"]))
            if secret := volume.get("secret"):
                assert secret["secretName"] in BY_HAND
        for container in pod.containers:
            wanted |= {("ConfigMap", e["configMapRef"]["name"]) for e in container.get("envFrom", [])}
            mounted = {m["name"] for m in container.get("volumeMounts", [])}
            volumes = {v["name"] for v in pod.spec.get("volumes", [])} | ({"data"} if pod.role == "other" else set())
            assert mounted <= volumes, pod
        assert wanted <= there, pod
    text = (ROOT / "docs" / "clusters.md").read_text()
    assert [name for name in BY_HAND if name not in text] == []


@overlays
def test_no_pod_has_rights_or_secrets_it_does_not_need(overlay):
    for pod in pods(rendered(overlay)):
        user = pod.spec["securityContext"]
        assert user["runAsNonRoot"], pod
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}, pod
        talks = pod.spec["automountServiceAccountToken"]
        assert talks == (pod.role == "head" and pod.owner != "RayJob/train"), pod  # its gang is fixed: no autoscaler
        for container in pod.containers:
            rights = container["securityContext"]
            assert (rights["allowPrivilegeEscalation"], rights["capabilities"]) == (False, {"drop": ["ALL"]}), pod
            for variable in container.get("env", []):
                if re.search(r"PASSWORD|SECRET|TOKEN|CREDENTIAL|(?<!ACCESS_)KEY|AUTH", variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), variable["name"]
    text = str(rendered(overlay))
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|AWS_SECRET|BEGIN [A-Z ]*PRIVATE KEY", text)


@overlays
def test_every_container_says_what_it_takes_and_is_asked_how_it_is(overlay):
    for pod in pods(rendered(overlay)):
        for container in pod.containers:
            limits, requests = (container["resources"][name] for name in ("limits", "requests"))
            assert limits["memory"] == requests["memory"], (pod, container["name"])
        if pod.role in ("head", "worker"):
            assert {"startupProbe", "livenessProbe"} <= pod.main.keys(), pod
            shared = next(v for v in pod.spec["volumes"] if v["name"] == "shared-memory")["emptyDir"]
            assert shared["medium"] == "Memory"
            share = quantity(shared["sizeLimit"]) / quantity(pod.main["resources"]["limits"]["memory"])
            assert 0.2 <= share <= 0.35, "Ray's object store takes 30 % of the memory, and wants to be in shared memory"


@overlays
def test_all_at_their_largest_fit_the_quota_while_the_service_is_replaced(overlay):
    documents = rendered(overlay)
    hard = one(documents, "ResourceQuota", "rigface")["spec"]["hard"]
    names = [n.removeprefix("requests.") for n in hard if n.startswith("requests.")]
    sums = dict.fromkeys([*names, "pods"], 0.0)
    for pod in pods(documents):
        count = pod.most * (2 if pod.owner.startswith("RayService") else 1)
        sums["pods"] += count
        for name in names:
            sums[name] += count * quantity(pod.main["resources"]["requests"].get(name, 0))
    for document in documents:
        if (cluster := cluster_of(document)) and cluster.get("enableInTreeAutoscaling"):
            sums["cpu"] += quantity(cluster["autoscalerOptions"]["resources"]["requests"]["cpu"])
    for name, wanted in sums.items():
        assert wanted <= quantity(hard.get(f"requests.{name}", hard.get(name))), name


# --- what each of the three promises


@overlays
def test_extract_grows_from_nothing_and_may_lose_any_node(overlay):
    spec = one(rendered(overlay), "RayJob", "extract")["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"]
    assert {(g["minReplicas"], g["replicas"]) for g in spec["workerGroupSpecs"]} == {(0, 0)}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("overlay", CLOUDS)
def test_only_extract_runs_on_machines_that_may_be_taken_away(overlay):
    for pod in pods(rendered(overlay)):
        may = any(t["key"] == "rigface/spot" for t in pod.spec.get("tolerations", []))
        assert may == (pod.owner == "RayJob/extract" and pod.role == "worker"), pod
        pool = pod.spec["nodeSelector"]["rigface/pool"]
        gpus = int(pod.main["resources"]["requests"].get("nvidia.com/gpu", 0))
        assert {"head": 0, "cpu": 0, "gpu": 1, "serve": 1, "train": 8}[pool] == gpus, pod


@overlays
def test_the_service_is_replaced_and_drained_without_a_gap(overlay):
    documents = rendered(overlay)
    spec = one(documents, "RayService", "serve")["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["excludeHeadPodFromServeSvc"]
    cluster = spec["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    one(documents, "Service", "redis")
    serving = {p.role: p for p in pods(documents) if p.owner == "RayService/serve"}
    budget = one(documents, "PodDisruptionBudget", "serve-workers")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= serving["worker"].labels.items()
    assert not budget["selector"]["matchLabels"].items() <= serving["head"].labels.items()
    assert serving["worker"].main["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}
    for pod in serving.values():
        assert {"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "1"} in pod.main["env"], "on every node, or on none"


@pytest.mark.parametrize(
    ("overlay", "annotation", "identity"),
    [
        ("aws-gpu", "eks.amazonaws.com/role-arn", "arn:aws:iam::111122223333:role/{}"),
        ("gke-gpu", "iam.gke.io/gcp-service-account", "{}@my-project.iam.gserviceaccount.com"),
    ],
)
def test_identities_of_the_cloud_are_two_and_differ(overlay, annotation, identity):
    accounts = [d for d in rendered(overlay) if d["kind"] == "ServiceAccount"]
    roles = {d["metadata"]["name"]: d["metadata"]["annotations"][annotation] for d in accounts}
    assert roles == {name: identity.format(name) for name in ("rigface-jobs", "rigface-serve")}
    for pod in pods(rendered(overlay)):
        if pod.role in ("head", "worker"):
            wanted = "rigface-serve" if pod.owner == "RayService/serve" else "rigface-jobs"
            assert pod.spec["serviceAccountName"] == wanted


def test_on_google_the_key_of_the_videos_is_a_file_that_only_extract_has():
    """Where the environment tells boto3 and pyarrow to look, from a secret that the pod's identity opens."""
    documents = rendered("gke-gpu")
    provider = one(documents, "SecretProviderClass", "videos")["spec"]
    (secret,) = yaml.safe_load(provider["parameters"]["secrets"])
    assert secret.keys() == {"resourceName", "path"}
    (settings,) = [d["data"] for d in documents if d["kind"] == "ConfigMap" and "AWS_ENDPOINT_URL" in d["data"]]
    for pod in pods(documents):
        names = [v["name"] for v in pod.spec.get("volumes", []) if "csi" in v]
        files = [f"{m['mountPath']}/{secret['path']}" for m in pod.main.get("volumeMounts", []) if m["name"] in names]
        reads = pod.owner == "RayJob/extract" and pod.role in ("head", "worker")
        assert files == [settings["AWS_SHARED_CREDENTIALS_FILE"]] * reads, pod
    videos, out = command("gke-gpu", "extract").paths
    assert videos.startswith("s3://")
    assert out.startswith("/"), "nothing is written into a bucket whose conditional writes are not S3's"


def test_gradients_cross_efa_on_amazon():
    (worker,) = [p for p in pods(rendered("aws-gpu")) if p.owner == "RayJob/train" and p.role == "worker"]
    env = {v["name"]: v["value"] for v in worker.main["env"]}
    assert (env["FI_PROVIDER"], env["NCCL_SOCKET_IFNAME"]) == ("efa", "^lo,docker")
    assert {"vpc.amazonaws.com/efa", "hugepages-2Mi"} <= worker.main["resources"]["limits"].keys()
    assert worker.main["image"].endswith("-efa")
    zones = worker.spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert zones[0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert zones[0]["labelSelector"]["matchLabels"].items() <= worker.labels.items()


@overlays
def test_every_object_is_of_a_part_that_can_be_applied_by_itself(overlay):
    parts = {d["metadata"]["labels"]["app.kubernetes.io/component"] for d in rendered(overlay)}
    assert parts == {"platform", "redis", "extract", "train", "serve"}


@overlays
def test_ray_start_knows_its_parameters(overlay):
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for p in start.params for option in p.opts}
    for document in rendered(overlay):
        if cluster := cluster_of(document):
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                assert group["rayStartParams"].keys() <= known
                assert group["rayStartParams"]["metrics-export-port"] == "8080", "the port that is called `metrics`"
