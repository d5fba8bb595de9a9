"""The image and the job on Kubernetes name what is there, ask for what they need, and are what their readers take."""

from __future__ import annotations

import re
import shlex
from typing import Annotated, Any, Literal

import pytest
from places import ROOT
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from ruamel.yaml import YAML

from benchmarks.cli.parsers import parse

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
JOB = YAML(typ="safe", pure=True).load((ROOT / "examples" / "kuberay" / "rayjob.yaml").read_text(encoding="utf-8"))


class _Part(BaseModel):
    """Of a RayJob, as the operator's definition (helm-chart/kuberay-operator/crds/ray.io_rayjobs.yaml) has it."""

    model_config = ConfigDict(extra="forbid", strict=True, alias_generator=to_camel)


Few = Annotated[dict[str, str], Field(max_length=4)]


class Resources(_Part):
    requests: Few
    limits: Few


class Mount(_Part):
    name: str
    mount_path: str


class Container(_Part):
    name: str
    image: str
    resources: Resources
    volume_mounts: list[Mount]


class Volume(_Part):
    name: str
    persistent_volume_claim: Few


class PodSpec(_Part):
    containers: Annotated[list[Container], Field(min_length=1)]
    volumes: list[Volume]


class Pod(_Part):
    spec: PodSpec


class Head(_Part):
    ray_start_params: Few
    template: Pod


class Workers(Head):
    group_name: str
    replicas: int
    min_replicas: int
    max_replicas: int


class Cluster(_Part):
    ray_version: str
    head_group_spec: Head
    worker_group_specs: Annotated[list[Workers], Field(min_length=1)]


class Spec(_Part):
    entrypoint: str
    shutdown_after_job_finishes: bool
    ttl_seconds_after_finished: int
    ray_cluster_spec: Cluster


class RayJob(_Part):
    api_version: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Few
    spec: Spec


def test_the_image_is_short_and_made_from_the_lock_files() -> None:
    assert len(DOCKERFILE) < 20
    copied = [name for line in DOCKERFILE if line.startswith("COPY ") for name in shlex.split(line)[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert {"requirements.txt", "requirements-ray.txt", "run_bench.py", "weighting", "benchmarks"} == set(copied)
    assert any("-r requirements-ray.txt" in line for line in DOCKERFILE)
    (python,) = [line.removeprefix("FROM python:") for line in DOCKERFILE if line.startswith("FROM ")]
    assert re.match(r"3\.\d+-slim$", python)


def test_what_the_image_runs_is_understood() -> None:
    (command,) = [line.removeprefix("CMD ") for line in DOCKERFILE if line.startswith("CMD ")]
    python, script, *words = YAML(typ="safe", pure=True).load(command)
    assert (python, script) == ("python", "run_bench.py")
    assert parse(words).command == "run"


def test_the_job_is_one_that_the_operator_takes() -> None:
    RayJob.model_validate(JOB)


@pytest.mark.parametrize("wrong", [{"rayClusterSpecs": {}}, {"ttlSecondsAfterFinished": "600"}])
def test_a_job_that_it_would_not_take_is_noticed(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RayJob.model_validate({**JOB, "spec": {**JOB["spec"], **wrong}})


def test_the_job_s_parts_fit_together() -> None:
    job = RayJob.model_validate(JOB)
    cluster = job.spec.ray_cluster_spec
    (pinned,) = re.findall(r"^ray\[default\]==(\S+)$", (ROOT / "requirements-ray.txt").read_text(encoding="utf-8"), re.M)
    assert cluster.ray_version == pinned
    python, script, *words = shlex.split(job.spec.entrypoint)
    (folder,) = [line.removeprefix("WORKDIR ") for line in DOCKERFILE if line.startswith("WORKDIR ")]
    assert (python, script) == ("python", f"{folder}/run_bench.py")
    options = parse(words)
    assert (options.executor, options.address) == ("ray", "auto")
    for group in (cluster.head_group_spec, *cluster.worker_group_specs):
        (container,) = group.template.spec.containers
        assert container.resources.requests == container.resources.limits
        assert str(options.out) in [mount.mount_path for mount in container.volume_mounts]
        assert {mount.name for mount in container.volume_mounts} == {volume.name for volume in group.template.spec.volumes}
    claims = [JOB["spec"]["rayClusterSpec"]["headGroupSpec"], *JOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]]
    assert len({str(group["template"]["spec"]["volumes"]) for group in claims}) == 1
