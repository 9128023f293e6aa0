"""deploy/kubernetes: it is what Kubernetes understands, and what it says of the programs is so. No cluster is asked."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cryptography.fernet import Fernet
from flask import Flask

from config import Settings, load
from openremedy.services import JOB_MARGIN
from services import missing

ROOT = Path(__file__).parent.parent
DEPLOYED = ROOT / "deploy/kubernetes"
PROGRAMS = ("web", "worker", "scheduler")
PAGE = (ROOT / "docs/install.md").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPONENT = "app.kubernetes.io/component"
EACH = pytest.mark.parametrize("folder", ["base", "example"])

Object = dict[str, Any]
Objects = dict[tuple[str, str], Object]


def built(folder: str) -> Objects:
    """What kustomize makes of a folder: each object by its kind and name, without the sum in a config map's."""
    if not shutil.which("kubectl"):
        missing("kubectl", "what kustomize makes of deploy/kubernetes; one of 1.27 or newer")
    done = subprocess.run(["kubectl", "kustomize", folder], cwd=DEPLOYED, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    objects: list[Object] = [*yaml.safe_load_all(done.stdout)]
    return {(one["kind"], re.sub(r"-\w{10}$", "", one["metadata"]["name"])): one for one in objects}


@pytest.fixture(scope="module")
def base() -> Objects:
    return built("base")


@pytest.fixture(scope="module")
def example() -> Objects:
    return built("example")


def pods(objects: Objects) -> dict[str, Object]:
    """What the pods are of each workload, by its component."""
    workloads = {name: one for (kind, name), one in objects.items() if kind in ("Deployment", "Job")}
    return {name.removeprefix("openremedy-"): one["spec"]["template"]["spec"] for name, one in workloads.items()}


def container(pod: Object) -> Object:
    (only,) = pod["containers"]
    found: Object = only
    return found


@EACH
@pytest.mark.parametrize("version", ["1.27", "1.37"])
def test_kubernetes_understands_every_object(folder: str, version: str) -> None:
    for one in built(folder).values():
        kubernetes_validate.validate(one, version, strict=True)


def test_an_object_that_it_does_not_understand_would_be_found(base: Objects) -> None:
    wrong = base["Deployment", "openremedy-web"] | {"spec": {"replicas": "two"}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


@EACH
def test_every_file_is_named_and_every_name_is_a_file(folder: str) -> None:
    listed = yaml.safe_load((DEPLOYED / folder / "kustomization.yaml").read_text())
    named = {*listed["resources"], *(one["path"] for one in listed["patches"] if "path" in one)} - {"../base"}
    assert named | {"kustomization.yaml"} == {path.name for path in (DEPLOYED / folder).iterdir()}


def test_every_pod_fits_the_restricted_standard_and_is_the_images_user(base: Objects) -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE, re.MULTILINE)[0]
    for pod in pods(base).values():
        of_all = pod["securityContext"]
        assert (of_all["runAsNonRoot"], of_all["seccompProfile"]) == (True, {"type": "RuntimeDefault"})
        assert (of_all["runAsUser"], of_all["runAsGroup"], of_all["fsGroup"]) == (int(user), int(group), int(group))
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert container(pod)["resources"].keys() == {"requests", "limits"}
    assert len(pods(base)) == 4


def test_only_what_is_in_memory_or_empty_can_be_written(base: Objects) -> None:
    for name, pod in pods(base).items():
        mounts = {one["mountPath"]: one["name"] for one in container(pod)["volumeMounts"] if not one.get("readOnly")}
        volumes = {one["name"]: one for one in pod["volumes"]}
        assert mounts.keys() == ({"/tmp", "/dev/shm"} if name == "web" else {"/tmp"})
        assert all("emptyDir" in volumes[volume] for volume in mounts.values())
    (memory,) = [one for one in pods(base)["web"]["volumes"] if one["name"] == "shared-memory"]
    assert memory["emptyDir"]["medium"] == "Memory"


def test_no_service_is_taken_for_a_setting(base: Objects) -> None:
    assert all(pod["enableServiceLinks"] is False for pod in pods(base).values())


def test_the_commands_are_those_of_the_page(base: Objects) -> None:
    commands = dict(re.findall(r"^\| (\w+)\b.*\| `flask (.*)` \|$", PAGE, re.MULTILINE))
    told = {name: " ".join(container(pod).get("args", [])) for name, pod in pods(base).items()}
    assert told == {
        "web": "",
        "worker": f"flask {commands['worker']}",
        "scheduler": f"flask {commands['scheduler']}",
        "migrate": f"flask {commands['schema']}",
    }
    assert not any("command" in container(pod) for pod in pods(base).values())  # tini stays process 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_ports_and_probes_are_those_of_web(base: Objects, app: Flask) -> None:
    web = container(pods(base)["web"])
    (port,) = re.findall(r"^EXPOSE (\d+)$", DOCKERFILE, re.MULTILINE)
    assert web["ports"] == [{"name": "http", "containerPort": int(port)}]
    asked = {name: web[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": "/healthz", "port": "http"},
        "liveness": {"path": "/healthz", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
    }
    annotated = base["Deployment", "openremedy-web"]["spec"]["template"]["metadata"]["annotations"]
    assert annotated["prometheus.io/port"] == port
    routes = {rule.rule for rule in app.url_map.iter_rules()}
    assert {"/healthz", "/readyz", annotated["prometheus.io/path"]} <= routes
    service = base["Service", "openremedy-web"]["spec"]
    assert service["ports"][0]["targetPort"] == "http"
    assert service["selector"][COMPONENT] == "web"


def test_a_stop_waits_longer_than_the_work_in_hand_may_take(base: Objects) -> None:
    grace = {name: pod.get("terminationGracePeriodSeconds") for name, pod in pods(base).items()}
    pause = int(container(pods(base)["web"])["lifecycle"]["preStop"]["exec"]["command"][1])
    graceful = runpy.run_path(str(ROOT / "config/gunicorn.conf.py"))["graceful_timeout"]
    assert grace["web"] > pause + graceful
    assert grace["worker"] > Settings.llm_timeout + JOB_MARGIN
    assert grace["scheduler"] == 30


def test_one_of_each_program_may_be_moved_at_a_time(base: Objects) -> None:
    for name in PROGRAMS:
        budget = base["PodDisruptionBudget", f"openremedy-{name}"]["spec"]
        workload = base["Deployment", f"openremedy-{name}"]["spec"]
        assert budget["maxUnavailable"] == 1 < workload["replicas"]
        assert budget["selector"] == workload["selector"]
        labels = workload["template"]["metadata"]["labels"]
        assert workload["selector"]["matchLabels"].items() <= labels.items()


def test_only_web_can_be_reached_and_only_what_is_needed_from_it(base: Objects, example: Objects) -> None:
    of_all = base["NetworkPolicy", "openremedy"]["spec"]
    assert of_all["podSelector"] == {"matchLabels": {"app.kubernetes.io/name": "openremedy"}}
    assert of_all["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in of_all
    assert sorted({port["port"] for rule in of_all["egress"] for port in rule["ports"]}) == [53, 443, 5432, 6379]
    of_web = base["NetworkPolicy", "openremedy-web"]["spec"]
    assert of_web["podSelector"]["matchLabels"][COMPONENT] == "web"
    assert of_web["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    assert len(example["NetworkPolicy", "openremedy-web"]["spec"]["ingress"][0]["from"]) == 2


@EACH
def test_no_secret_is_in_it(folder: str) -> None:
    assert not [name for kind, name in built(folder) if kind == "Secret"]
    for pod in pods(built(folder)).values():
        assert "env" not in container(pod)


def test_the_settings_are_ones_that_the_service_takes_with_the_secrets_of_the_page(
    example: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = example["ConfigMap", "openremedy"]
    for pod in pods(example).values():
        assert container(pod)["envFrom"] == [{"configMapRef": {"name": config["metadata"]["name"]}}]
        (secret,) = [one["secret"] for one in pod["volumes"] if "secret" in one]
        assert secret["secretName"] in re.findall(r"create secret generic (\S+)", PAGE)
    made = dict(re.findall(r"--from-literal=(\w+)=(\S+)", PAGE))
    made |= {"SECRET_KEY": "9d1f0a" * 8 + "7be2c3", "ENCRYPTION_KEYS": Fernet.generate_key().decode()}
    for name, value in (made | {"OPENAI_API_KEY": "the key of a model"}).items():
        (tmp_path / name).write_text(value)
    for name, value in config["data"].items():
        assert f"| `{name.removesuffix('_FILE')}` |" in (ROOT / "docs/settings.md").read_text()
        monkeypatch.setenv(name, value.replace("/run/secrets/openremedy", str(tmp_path)))
    settings = load()
    assert settings.database_url.endswith("@postgres.example.com:5432/openremedy")
    assert settings.redis_url == "redis://redis.example.com:6379/0"
    assert (settings.proxy_count, settings.model, settings.openai_api_key) == (1, "a-model", "the key of a model")
    mounts = {one["name"]: one["mountPath"] for one in container(pods(example)["web"])["volumeMounts"]}
    assert mounts["secrets"] == "/run/secrets/openremedy"


def test_the_steps_of_a_release_find_what_they_name(example: Objects) -> None:
    steps = re.findall(rf"--selector {COMPONENT}=(\w+)", PAGE)
    labels = {kind: one["metadata"].get("labels", {}) for (kind, _), one in example.items()}
    assert [{kind for kind, given in labels.items() if given.get(COMPONENT) == step} for step in steps] == [
        {"Namespace", "ConfigMap"},
        {"Job"},
    ]
    assert ("Job", "openremedy-migrate") in example
    assert all(one["metadata"].get("namespace", "openremedy") == "openremedy" for one in example.values())
