"""The manifests for Kubernetes: fields as KubeRay and Kubernetes document them, commands that exist, nothing secret.

Source: KubeRay 1.7.0, reference of `ray.io/v1`; Kubernetes 1.28, reference of `core/v1`. Of the latter's fields only those
that manifests for batch work need are allowed, so that a misspelled one is found.
"""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer

import pipelines.cli_full  # noqa: F401 - registers its commands
from mixopt import full, job
from mixopt.yaml_text import dump_yaml, parse_yaml
from pipelines.cli import app

FOLDER = Path(__file__).parents[1] / "pipelines" / "deploy"
JOBS = ("search", "train")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def record(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def several(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, FLAG, COUNT = {"type": "string"}, {"type": "boolean"}, {"type": "integer", "minimum": 0}
POSITIVE = {"type": "integer", "minimum": 1}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
METADATA = record(name=TEXT, generateName=TEXT, namespace=TEXT, labels=TEXTS, annotations=TEXTS)
CONTAINER = record(
    "name image resources",
    name=TEXT,
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    command=several(TEXT),
    args=several(TEXT),
    workingDir=TEXT,
    env=several(record("name value", name=TEXT, value=TEXT)),
    resources=record("requests limits", requests=QUANTITIES, limits=QUANTITIES),
    volumeMounts=several(record("name mountPath", name=TEXT, mountPath=TEXT, subPath=TEXT, readOnly=FLAG)),
)
VOLUME = record(
    "name",
    name=TEXT,
    persistentVolumeClaim=record("claimName", claimName=TEXT, readOnly=FLAG),
    configMap=record("name", name=TEXT, optional=FLAG),
    emptyDir=record(medium=TEXT, sizeLimit=QUANTITY),
)
POD = record(
    "containers",
    containers={**several(CONTAINER), "minItems": 1},
    volumes=several(VOLUME),
    tolerations=several(record(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect=TEXT)),
    nodeSelector=TEXTS,
    priorityClassName=TEXT,
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    serviceAccountName=TEXT,
    terminationGracePeriodSeconds=COUNT,
)
TEMPLATE = record("spec", metadata=METADATA, spec=POD)
GROUP = {"rayStartParams": TEXTS, "template": TEMPLATE, "resources": TEXTS, "labels": TEXTS}
RAY_JOB = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=METADATA,
    spec=record(
        "entrypoint rayClusterSpec",
        entrypoint=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        jobId=TEXT,
        metadata=TEXTS,
        runtimeEnvYAML=TEXT,
        entrypointNumCpus={"type": "number"},
        entrypointNumGpus={"type": "number"},
        entrypointResources=TEXT,
        submitterConfig=record(backoffLimit=COUNT),
        backoffLimit=COUNT,
        activeDeadlineSeconds=POSITIVE,
        preRunningDeadlineSeconds=POSITIVE,
        shutdownAfterJobFinishes=FLAG,
        ttlSecondsAfterFinished=COUNT,
        suspend=FLAG,
        managedBy={"enum": ["ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"]},
        rayClusterSpec=record(
            "headGroupSpec",
            rayVersion=TEXT,
            authOptions=record(mode={"enum": ["disabled", "token"]}, secretName=TEXT, enableK8sTokenAuth=FLAG),
            enableInTreeAutoscaling=FLAG,
            headGroupSpec=record("template", **GROUP, serviceType=TEXT, enableIngress=FLAG),
            workerGroupSpecs=several(
                record(
                    "groupName template",
                    **GROUP,
                    groupName=TEXT,
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    numOfHosts=POSITIVE,
                    idleTimeoutSeconds=COUNT,
                )
            ),
        ),
    ),
)
CLAIM = record(
    "apiVersion kind metadata spec",
    apiVersion={"const": "v1"},
    kind={"const": "PersistentVolumeClaim"},
    metadata=METADATA,
    spec=record(
        "accessModes resources",
        accessModes=several({"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]}),
        storageClassName=TEXT,
        resources=record("requests", requests=QUANTITIES),
    ),
)


def manifest(name: str) -> dict[str, Any]:
    """A file, as plain data without shared parts."""
    return copy.deepcopy(parse_yaml((FOLDER / f"{name}.yaml").read_text(), name))


def refused(body: Any, schema: Any) -> list[str]:
    """Where a body is not as the schema wants it."""
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(body)]


def cluster(body: dict[str, Any]) -> dict[str, Any]:
    return body["spec"]["rayClusterSpec"]


def pods(body: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster(body)["headGroupSpec"], *cluster(body)["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def gpus(body: dict[str, Any]) -> int:
    groups = cluster(body)["workerGroupSpecs"]
    own = [int(g["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]) for g in groups]
    return sum(group["replicas"] * count for group, count in zip(groups, own, strict=True))


def test_every_file_is_looked_at() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == {*JOBS, "volume"}


@pytest.mark.parametrize("name", JOBS)
def test_fields_are_those_of_the_documents(name: str) -> None:
    assert refused(manifest(name), RAY_JOB) == []


def test_the_claim_can_be_written_by_many_pods() -> None:
    claim = manifest("volume")
    assert refused(claim, CLAIM) == []
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("spec", "backofLimit"), 2, "'backofLimit' was unexpected"),
        (("spec", "ttlSecondsAfterFinished"), "10m", "'10m' is not of type 'integer'"),
        (("spec", "submissionMode"), "K8sMode", "'K8sMode' is not one of"),
        (("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"), 0, "0 is not of type 'string'"),
        (
            ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "template", "spec", "container"),
            [],
            "'container' was unexp",
        ),
        (("kind",), "RayCluster", "'RayJob' was expected"),
    ],
)
def test_a_wrong_field_is_found(path: tuple[Any, ...], value: Any, message: str) -> None:
    body = manifest("train")
    place: Any = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert [said for said in refused(body, RAY_JOB) if message in said]


@pytest.mark.parametrize("name", JOBS)
def test_the_entrypoint_is_a_command_whose_settings_hold(name: str, tmp_path: Path) -> None:
    program, command, *words = shlex.split(manifest(name)["spec"]["entrypoint"])
    options = {option for parameter in COMMANDS[command].params for option in parameter.opts}
    assert (program, command) == ("mixopt", name)
    assert {word for word in words if word.startswith("--")} <= options
    settings = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    path = tmp_path / "file.yaml"
    if name == "search":
        path.write_text(
            dump_yaml(
                {
                    "name": "a",
                    "data": {"domains": {name: {"path": "x"} for name in ("law", "web")}},
                    "target": {"tokens": 9},
                }
            )
        )
        compute = job.load(path, settings).compute
        assert (compute.executor, compute.address, compute.device) == ("ray", "auto", "cuda")
    else:
        path.write_text("model: 1b\n")
        launch = full.load(path, settings).launch
        assert (launch.by, launch.address, launch.device) == ("ray", "auto", "cuda")
        assert launch.workers == gpus(manifest(name))


@pytest.mark.parametrize("name", JOBS)
def test_pods_share_the_volume_and_leave_when_done(name: str) -> None:
    body = manifest(name)
    claim = manifest("volume")["metadata"]["name"]
    for pod in pods(body):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["work"]["persistentVolumeClaim"]["claimName"] == claim
        assert volumes["job"]["configMap"]["name"] == f"mixopt-{name}"
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounts == {"work": "/work", "job": "/etc/mixopt"}
        assert container["resources"]["requests"] == container["resources"]["limits"]
    written = re.findall(r"(?:--out |store=|train )(\S+)", body["spec"]["entrypoint"])
    assert written and all(path.startswith("/work/") for path in written)
    assert body["spec"]["shutdownAfterJobFinishes"] and body["spec"]["ttlSecondsAfterFinished"] > 0
    assert body["spec"]["backoffLimit"] > 0  # both commands go on where they were
    assert cluster(body)["authOptions"] == {"mode": "token"}


@pytest.mark.parametrize("name", [*JOBS, "volume"])
def test_nothing_secret_and_no_probe_of_ours(name: str) -> None:
    text = (FOLDER / f"{name}.yaml").read_text()
    assert not re.search(
        r"secret|password|api[_-]?key|access[_-]?key|://[^/\s]*@|livenessProbe|readinessProbe", text, re.IGNORECASE
    )
    assert not re.search(r"HF_TOKEN|AWS_|MLFLOW_TRACKING_(USERNAME|TOKEN)", text)


def test_the_version_of_ray_is_one_that_works_here() -> None:
    wanted = re.search(r"ray\[default\]>=([0-9.]+)", (FOLDER.parents[1] / "pyproject.toml").read_text())
    assert wanted is not None
    for name in JOBS:
        assert cluster(manifest(name))["rayVersion"].startswith(wanted[1])
