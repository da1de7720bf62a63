"""The Terraform files, parsed: references, the bucket, and the permissions of each role.

`terraform validate` needs its providers, which are not installed, so it does not run here.
"""

import fnmatch
import functools
import re
import shlex

import hcl2
import pytest

from tests.infra.conftest import INFRA, find_object, rendered

pytestmark = pytest.mark.slow  # its parser takes three seconds
FILES = sorted((INFRA / "aws" / "terraform").glob("*.tf"))


@functools.cache
def parsed():
    """(kind, type, name) -> body, as ("resource", "aws_s3_bucket", "data"); variables as ("variable", "", name)."""
    found = {}
    for path in FILES:
        with open(path) as file:
            for kind, blocks in _plain(hcl2.load(file)).items():
                for block in blocks if isinstance(blocks, list) else []:
                    if kind in ("resource", "data"):
                        ((type_, named),) = block.items()
                        ((name, body),) = named.items()
                        found[kind, type_, name] = body
                    elif kind in ("variable", "output"):
                        ((name, body),) = block.items()
                        found[kind, "", name] = body
                    elif kind == "locals":
                        found |= {("locals", "", name): value for name, value in block.items()}
    return found


def _plain(value):
    """Without the parser's quotes and marks."""
    if isinstance(value, dict):
        return {_plain(k): _plain(v) for k, v in value.items() if k != "__is_block__"}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value


def body(type_, name, kind="resource"):
    return parsed()[kind, type_, name]


def test_references_are_defined():
    text = "\n".join(path.read_text() for path in FILES)
    text = re.sub(r"#.*|description\s*=\s*\".*\"|(?<=\")ec2:\S+", "", text)
    known = parsed()
    for name in re.findall(r"\bvar\.(\w+)", text):
        assert ("variable", "", name) in known, f"var.{name}"
    for name in re.findall(r"\blocal\.(\w+)", text):
        assert ("locals", "", name) in known, f"local.{name}"
    for type_, name in re.findall(r"\bdata\.(aws_\w+)\.(\w+)", text):
        assert ("data", type_, name) in known, f"data.{type_}.{name}"
    for type_, name in re.findall(r"(?<!data\.)\b(aws_\w+)\.(\w+)", text):
        assert ("resource", type_, name) in known, f"{type_}.{name}"
    used = set(re.findall(r"\bvar\.(\w+)", text))
    assert {name for kind, _, name in known if kind == "variable"} <= used, "a variable that nothing reads"


def test_bucket_is_private_encrypted_versioned():
    block = body("aws_s3_bucket_public_access_block", "data")
    switches = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
    assert [block[s] for s in switches] == [True] * 4
    (versioning,) = body("aws_s3_bucket_versioning", "data")["versioning_configuration"]
    assert versioning["status"] == "Enabled"
    (rule,) = body("aws_s3_bucket_server_side_encryption_configuration", "data")["rule"]
    (default,) = rule["apply_server_side_encryption_by_default"]
    assert default == {"sse_algorithm": "aws:kms", "kms_master_key_id": "${aws_kms_key.data.arn}"}
    assert body("aws_kms_key", "data")["enable_key_rotation"]
    assert body("aws_s3_bucket", "data")["lifecycle"] == [{"prevent_destroy": True}]
    rules = body("aws_s3_bucket_lifecycle_configuration", "data")["rule"]
    assert any("abort_incomplete_multipart_upload" in r for r in rules)
    assert any("noncurrent_version_expiration" in r for r in rules)
    for r in rules:  # nothing that a dataset is made of may vanish by itself
        if any("days" in e for e in r.get("expiration", [])):
            assert r["filter"] == [{"prefix": "jobs/"}]
    (deny,) = body("aws_iam_policy_document", "bucket", "data")["statement"]
    assert (deny["effect"], deny["condition"][0]["variable"]) == ("Deny", "aws:SecureTransport")


# --- roles


def may(role, action, resource, **context):
    """True if some statement of the policy of a role matches, as IAM decides."""
    for statement in body("aws_iam_policy_document", role, "data")["statement"]:
        fits = any(fnmatch.fnmatchcase(action, a) for a in statement["actions"])
        fits = fits and any(fnmatch.fnmatchcase(resource, r) for r in statement["resources"])
        for condition in statement.get("condition", []):
            value = context.get(condition["variable"], "")
            fits = fits and any(fnmatch.fnmatchcase(value, v) for v in condition["values"])
        if fits:
            return True
    return False


BUCKET = "${aws_s3_bucket.data.arn}"
GET, PUT, DELETE, LIST = "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"


@pytest.mark.parametrize(
    ("role", "action", "path", "allowed"),
    [
        ("jobs", LIST, "", True),
        ("jobs", GET, "/videos/a.mp4", True),
        ("jobs", PUT, "/videos/a.mp4", False),
        ("jobs", DELETE, "/videos/a.mp4", False),
        ("jobs", GET, "/models/sd15/vae/config.json", True),
        ("jobs", PUT, "/models/sd15/vae/config.json", False),
        ("jobs", PUT, "/faces/.rigface/lock", True),
        ("jobs", DELETE, "/runs/first/checkpoints/1", True),
        ("jobs", "s3:DeleteObjectVersion", "/faces/a", False),
        ("jobs", "s3:PutBucketPolicy", "", False),
        ("jobs", GET, "/jobs/1/result.png", False),
        ("serve", GET, "/models/rigface/config.json", True),
        ("serve", PUT, "/models/rigface/config.json", False),
        ("serve", GET, "/faces/faces/a.parquet", False),
        ("serve", GET, "/videos/a.mp4", False),
        ("serve", PUT, "/jobs/1/job.json", True),
        ("serve", LIST, "", False),  # without a prefix it would see every name
    ],
)
def test_role_permissions(role, action, path, allowed):
    assert may(role, action, BUCKET + path) is allowed


def test_service_role_lists_own_prefixes_only():
    assert may("serve", LIST, BUCKET, **{"s3:prefix": "models/rigface"})
    assert not may("serve", LIST, BUCKET, **{"s3:prefix": "faces/"})


def test_role_permits_manifest_commands():
    documents = rendered("aws-gpu")
    for job, reads in (("extract", 1), ("train", 1)):
        words = shlex.split(find_object(documents, "RayJob", job)["spec"]["entrypoint"])
        places = [w.removeprefix("s3://rigface-data") for w in words if w.startswith("s3://rigface-data/")]
        assert len(places) == 2
        for place in places[:reads]:
            assert may("jobs", GET, f"{BUCKET}{place.rstrip('/')}/x"), place
        for place in places[reads:]:
            assert all(may("jobs", action, f"{BUCKET}{place}/x") for action in (GET, PUT, DELETE)), place
    for owner, role in (("RayJob", "jobs"), ("RayService", "serve")):
        text = str([d for d in documents if d["kind"] == owner])
        (folder,) = re.findall(r"copy_files\('s3://rigface-data/([\w/]+)'", text)
        assert may(role, GET, f"{BUCKET}/{folder}/config.json")
        assert may(role, LIST, BUCKET, **{"s3:prefix": folder})


def test_no_policy_statement_is_unrestricted():
    seen = 0
    for (kind, type_, name), document in parsed().items():
        if (kind, type_) != ("data", "aws_iam_policy_document"):
            continue
        for statement in document["statement"]:
            seen += 1
            if statement.get("effect") == "Deny":
                continue
            assert not [a for a in statement["actions"] if "*" in a], f"{name}: {statement}"
            if statement.get("resources") == ["*"]:
                assert all(a.startswith("ec2:Describe") for a in statement["actions"]), f"{name}: {statement}"
                assert statement["condition"], "at least only here"
            for principal in statement.get("principals", []):
                assert principal["identifiers"] != ["*"], name
    assert seen > 10


def test_role_trusts_one_service_account():
    (statement,) = body("aws_iam_policy_document", "trust", "data")["statement"]
    conditions = {c["variable"].rpartition(":")[2]: (c["test"], c["values"]) for c in statement["condition"]}
    assert conditions == {
        "sub": ("StringEquals", ["system:serviceaccount:${var.namespace}:rigface-${each.key}"]),
        "aud": ("StringEquals", ["sts.amazonaws.com"]),
    }
    assert parsed()["locals", "", "accounts"] == '${toset(["jobs", "serve"])}'
    accounts = {d["metadata"]["name"] for d in rendered("aws-gpu") if d["kind"] == "ServiceAccount"}
    assert accounts == {"rigface-jobs", "rigface-serve"}


def test_security_group_admits_ssh_from_named_networks_only():
    group = body("aws_security_group", "ray")
    assert [i.get("self") for i in group["ingress"]] == [True]
    ((content,),) = [i["content"] for d in group["dynamic"] for i in d.values()]
    assert (content["from_port"], content["cidr_blocks"]) == (22, "${var.ssh_cidrs}")
    assert body("", "ssh_cidrs", "variable")["validation"]


def test_node_groups_match_pod_selectors():
    pools = (INFRA / "aws" / "terraform" / "eks.tf").read_text()
    groups = dict(re.findall(r"^    (\w+)\s*= \{ (types = .*) \}$", pools, re.M))
    asked = set(re.findall(r"'rigface/pool': '(\w+)'", str(rendered("aws-gpu"))))
    assert asked == set(groups)
    assert {name for name, body in groups.items() if "spot = true" in body} == {"cpu", "gpu"}
    assert {name for name, body in groups.items() if "gpu = true" in body} == {"gpu", "serve", "train"}
    node = body("aws_eks_node_group", "pool")
    assert node["labels"] == {"rigface/pool": "${each.key}"}
    assert {"rigface/spot", "nvidia.com/gpu"} <= set(re.findall(r'"([\w./]+)"', str(node["dynamic"])))
