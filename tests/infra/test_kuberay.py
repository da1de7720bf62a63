"""The manifests against the command line, the lock file, the image, and the rules for pods."""

import re
import shlex

import pytest
import yaml

from pipelines.cli.parser import parse
from tests.infra.conftest import OVERLAYS, ROOT, cluster_of, find_object, pinned, pods, project, quantity, rendered

# Secrets that a person makes; docs/clusters.md says how.
BY_HAND = {"rigface-redis", "rigface-keys", "rigface-signing", "rigface-lists", "rigface-webhook"}
CLUSTER_WIDE = {"Namespace", "PriorityClass", "PersistentVolume", "ValidatingAdmissionPolicy",
                "ValidatingAdmissionPolicyBinding"}  # fmt: skip
CLOUDS = ("aws-gpu", "gke-gpu")
overlays = pytest.mark.parametrize("overlay", OVERLAYS)


def command(overlay, job):
    """The command of a job, parsed by the command line."""
    words = shlex.split(find_object(rendered(overlay), "RayJob", job)["spec"]["entrypoint"])
    assert words[0] == "rigface"
    return parse(words[1:])


def total(overlay, job, resource):
    """The largest total of a resource over the workers of a job."""
    owned = [p for p in pods(rendered(overlay)) if p.owner == f"RayJob/{job}" and p.role == "worker"]
    return sum(p.max_count * quantity(p.main["resources"]["requests"].get(resource, 0)) for p in owned)


# --- commands


@overlays
@pytest.mark.parametrize("job", ["extract", "train"])
def test_entrypoint_parses_and_needs_no_shell(overlay, job):
    assert command(overlay, job).job.address == "auto"
    entrypoint = find_object(rendered(overlay), "RayJob", job)["spec"]["entrypoint"]
    assert not set(entrypoint) & set("$`;|&<>*\n"), "KubeRay hands it to a shell of the submitter, where nothing is set"


@overlays
def test_extract_workers_fit_nodes(overlay):
    job = command(overlay, "extract").job
    for _, pool in job.pools:
        if pool.gpus:
            assert 0 < (pool.max_actors or pool.actors) * pool.gpus <= total(overlay, "extract", "nvidia.com/gpu")
    cpus = sum((pool.max_actors or pool.actors) * pool.cpus for _, pool in job.pools)
    assert cpus <= total(overlay, "extract", "cpu"), "all actors together need more than the nodes have"
    memory = sum((pool.max_actors or pool.actors) * pool.memory_gb for _, pool in job.pools) * 2**30
    assert memory <= 0.7 * total(overlay, "extract", "memory"), "Ray gives 30 % to its object store"
    assert cpus >= 0.6 * total(overlay, "extract", "cpu"), "nodes that no actor would ever use"


@overlays
def test_training_workers_fit_nodes(overlay):
    job = command(overlay, "train").job
    (gang,) = find_object(rendered(overlay), "RayJob", "train")["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert gang["minReplicas"] == gang["replicas"] == gang["maxReplicas"] > 1
    assert job.max_workers in (0, job.workers), "the gang is fixed"
    assert job.workers * job.cpus <= total(overlay, "train", "cpu")
    if job.gpu:
        assert job.workers == total(overlay, "train", "nvidia.com/gpu")
    assert job.micro_batches % job.workers == 0


@pytest.mark.parametrize("overlay", CLOUDS)
def test_training_start_is_in_mounted_models(overlay):
    start = command(overlay, "train").job.start
    assert start.startswith("sd15:/models/")
    (worker,) = [p for p in pods(rendered(overlay)) if p.owner == "RayJob/train" and p.role == "worker"]
    assert "/models" in [m["mountPath"] for m in worker.main["volumeMounts"]]
    if overlay == "aws-gpu":
        code = worker.spec["initContainers"][0]["command"][2]
        compile(code, "initContainer", "exec")
        assert f"'{start.removeprefix('sd15:')}'" in code


@overlays
def test_jobs_retry_and_end(overlay):
    for name in ("extract", "train"):
        spec = find_object(rendered(overlay), "RayJob", name)["spec"]
        assert spec["backoffLimit"] >= 1
        assert spec["shutdownAfterJobFinishes"]
        assert spec["activeDeadlineSeconds"] <= 7 * 86400


# --- versions and images


@overlays
def test_ray_version_is_pinned_version(overlay):
    clusters = [c for d in rendered(overlay) if (c := cluster_of(d))]
    assert {c["rayVersion"] for c in clusters} == {pinned()["ray"]}


@overlays
def test_images_have_project_version_and_target(overlay):
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", (ROOT / "infra/docker/Dockerfile").read_text(), re.M))
    for pod in pods(rendered(overlay)):
        for container in pod.containers:
            image, _, digest = container["image"].partition("@")
            assert re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or overlay == "kind", "a tag can be moved"
            name, _, tag = image.rpartition(":")
            if pod.owner == "StatefulSet/redis":
                assert re.fullmatch(r"redis:\d+\.\d+\.\d+-alpine", image)
                continue
            version, _, target = tag.rpartition("-")
            assert (name.rpartition("/")[2], version) == ("rigface", project()["version"]), container["image"]
            assert target in targets
            has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
            assert not has_gpu or target in ("cuda", "efa"), container["image"]


# --- pods


@overlays
def test_referenced_objects_exist(overlay):
    documents = rendered(overlay)
    existing = {(d["kind"], d["metadata"]["name"]) for d in documents}
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
        assert wanted <= existing, pod
    text = (ROOT / "docs" / "clusters.md").read_text()
    assert [name for name in BY_HAND if name not in text] == []


@overlays
def test_pods_run_without_rights_or_plain_secrets(overlay):
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
def test_containers_have_limits_and_probes(overlay):
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
def test_probes_ask_ray_and_allow_slow_starts(overlay):
    for pod in pods(rendered(overlay)):
        if pod.role in ("head", "worker"):
            for name in ("startupProbe", "livenessProbe"):
                assert pod.main[name]["httpGet"] == {"path": "/api/healthz", "port": 52365}, pod
            startup, liveness = pod.main["startupProbe"], pod.main["livenessProbe"]
            assert startup["failureThreshold"] * startup["periodSeconds"] >= 300, (
                "a first start compiles and loads models"
            )
            assert liveness["failureThreshold"] * liveness["periodSeconds"] >= 120, "a busy node is slow to answer"


@overlays
def test_pods_share_nothing_with_their_host(overlay):
    for pod in pods(rendered(overlay)):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod
        assert not [v for v in pod.spec.get("volumes", []) if "hostPath" in v], pod
        for container in pod.containers:
            assert not container["securityContext"].get("privileged"), pod
            assert not [p for p in container.get("ports", []) if "hostPort" in p], pod
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}, pod
    assert {d["spec"].get("type", "ClusterIP") for d in rendered(overlay) if d["kind"] == "Service"} == {"ClusterIP"}


@overlays
def test_scratch_volumes_are_bounded(overlay):
    for pod in pods(rendered(overlay)):
        for volume in pod.spec.get("volumes", []):
            assert "emptyDir" not in volume or quantity(volume["emptyDir"]["sizeLimit"]) > 0, pod


@overlays
def test_max_replicas_fit_quota_during_upgrade(overlay):
    documents = rendered(overlay)
    hard = find_object(documents, "ResourceQuota", "rigface")["spec"]["hard"]
    names = [n.removeprefix("requests.") for n in hard if n.startswith("requests.")]
    sums = dict.fromkeys([*names, "pods"], 0.0)
    for pod in pods(documents):
        count = pod.max_count * (2 if pod.owner.startswith("RayService") else 1)
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
def test_extract_scales_from_zero(overlay):
    spec = find_object(rendered(overlay), "RayJob", "extract")["spec"]["rayClusterSpec"]
    assert spec["enableInTreeAutoscaling"]
    assert {(g["minReplicas"], g["replicas"]) for g in spec["workerGroupSpecs"]} == {(0, 0)}
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("overlay", CLOUDS)
def test_only_extract_workers_run_on_spot(overlay):
    for pod in pods(rendered(overlay)):
        may = any(t["key"] == "rigface/spot" for t in pod.spec.get("tolerations", []))
        assert may == (pod.owner == "RayJob/extract" and pod.role == "worker"), pod
        pool = pod.spec["nodeSelector"]["rigface/pool"]
        gpus = int(pod.main["resources"]["requests"].get("nvidia.com/gpu", 0))
        assert {"head": 0, "cpu": 0, "gpu": 1, "serve": 1, "train": 8}[pool] == gpus, pod


@overlays
def test_service_upgrades_without_gap(overlay):
    documents = rendered(overlay)
    spec = find_object(documents, "RayService", "serve")["spec"]
    assert spec["upgradeStrategy"] == {"type": "NewCluster"}
    assert spec["excludeHeadPodFromServeSvc"]
    cluster = spec["rayClusterConfig"]
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    find_object(documents, "Service", "redis")
    serving = {p.role: p for p in pods(documents) if p.owner == "RayService/serve"}
    budget = find_object(documents, "PodDisruptionBudget", "serve-workers")["spec"]
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
def test_jobs_and_service_have_separate_cloud_identities(overlay, annotation, identity):
    accounts = [d for d in rendered(overlay) if d["kind"] == "ServiceAccount"]
    roles = {d["metadata"]["name"]: d["metadata"]["annotations"][annotation] for d in accounts}
    assert roles == {name: identity.format(name) for name in ("rigface-jobs", "rigface-serve")}
    for pod in pods(rendered(overlay)):
        if pod.role in ("head", "worker"):
            wanted = "rigface-serve" if pod.owner == "RayService/serve" else "rigface-jobs"
            assert pod.spec["serviceAccountName"] == wanted


@overlays
def test_heads_change_only_clusters_and_pods_of_own_account(overlay):
    """KubeRay's role for a head is good for all clusters and pods of the namespace; jobs have more rights."""
    documents = rendered(overlay)
    for name, kind in (("rigface-own-clusters", "rayclusters"), ("rigface-own-pods", "pods")):
        policy = find_object(documents, "ValidatingAdmissionPolicy", name)["spec"]
        binding = find_object(documents, "ValidatingAdmissionPolicyBinding", name)["spec"]
        assert (binding["policyName"], binding["validationActions"]) == (name, ["Deny"])
        (rule,) = policy["matchConstraints"]["resourceRules"]
        assert (rule["resources"], rule["operations"], policy["failurePolicy"]) == ([kind], ["UPDATE"], "Fail")
        (condition,) = policy["matchConditions"]
        assert "'system:serviceaccount:rigface:'" in condition["expression"]
        assert policy["validations"][0]["expression"].count("serviceAccountName == variables.own") >= 1


def test_gke_video_key_is_file_of_extract_only():
    """The endpoint that the environment gives boto3 and pyarrow, from a secret that the pod's identity opens."""
    documents = rendered("gke-gpu")
    provider = find_object(documents, "SecretProviderClass", "videos")["spec"]
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


def test_aws_training_uses_efa():
    (worker,) = [p for p in pods(rendered("aws-gpu")) if p.owner == "RayJob/train" and p.role == "worker"]
    env = {v["name"]: v["value"] for v in worker.main["env"]}
    assert (env["FI_PROVIDER"], env["NCCL_SOCKET_IFNAME"]) == ("efa", "^lo,docker")
    assert {"vpc.amazonaws.com/efa", "hugepages-2Mi"} <= worker.main["resources"]["limits"].keys()
    assert worker.main["image"].partition("@")[0].endswith("-efa")
    zones = worker.spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert zones[0]["topologyKey"] == "topology.kubernetes.io/zone"
    assert zones[0]["labelSelector"]["matchLabels"].items() <= worker.labels.items()


@overlays
def test_overlay_holds_expected_objects(overlay):
    kinds = [d["kind"] for d in rendered(overlay)]
    counts = {kind: kinds.count(kind) for kind in kinds}
    common = {"Namespace": 1, "ResourceQuota": 1, "LimitRange": 1, "ServiceAccount": 2, "PriorityClass": 2,
              "ConfigMap": 1, "Service": 1, "StatefulSet": 1, "PodDisruptionBudget": 1, "NetworkPolicy": 11,
              "ValidatingAdmissionPolicy": 2, "ValidatingAdmissionPolicyBinding": 2,
              "RayJob": 2, "RayService": 1}  # fmt: skip
    extra = {"kind": {"PersistentVolume": 1, "PersistentVolumeClaim": 1}, "aws-gpu": {"PersistentVolumeClaim": 1},
             "gke-gpu": {"PersistentVolumeClaim": 1, "SecretProviderClass": 1}}  # fmt: skip
    assert counts == common | extra[overlay]
    namespaced = [d for d in rendered(overlay) if d["kind"] not in CLUSTER_WIDE]
    assert {d["metadata"]["namespace"] for d in namespaced} == {"rigface"}


@overlays
def test_every_object_has_component_label(overlay):
    parts = {d["metadata"]["labels"]["app.kubernetes.io/component"] for d in rendered(overlay)}
    assert parts == {"platform", "redis", "extract", "train", "serve"}


@overlays
def test_ray_start_accepts_parameters(overlay):
    from ray.scripts.scripts import start

    known = {option.removeprefix("--") for p in start.params for option in p.opts}
    for document in rendered(overlay):
        if cluster := cluster_of(document):
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                assert group["rayStartParams"].keys() <= known
                assert group["rayStartParams"]["metrics-export-port"] == "8080", "the port that is called `metrics`"
