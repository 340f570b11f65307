"""The Kubernetes manifests: valid by Kubernetes' own schemas, and in agreement with `servers/`."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from vllm_router.launch_router import parse_router_args

from fim_eval.formats import card_of

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "servers" / "k8s"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
SIZES = ("7b", "13b", "34b", "70b")
KUBERNETES = "1.33"
"""Indexed jobs with a backoff limit of their own are stable since this version."""

SCHEMA = json.loads((ROOT / "tests" / "schemas" / "leaderworkerset.v1.json").read_text())


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def validate(document: dict[str, Any]) -> None:
    if document["kind"] != "LeaderWorkerSet":
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
        return
    jsonschema.validate(document, SCHEMA)
    template = document["spec"]["leaderWorkerTemplate"]
    for part in ("leaderTemplate", "workerTemplate"):
        pod = {"apiVersion": "v1", "kind": "Pod"} | template[part]
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The specifications of the pods that a document makes."""
    spec = document.get("spec", {})
    if "template" in spec:
        yield spec["template"]["spec"]
    for part in ("leaderTemplate", "workerTemplate"):
        if part in spec.get("leaderWorkerTemplate", {}):
            yield spec["leaderWorkerTemplate"][part]["spec"]


def containers() -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """File, pod and container of all there are."""
    for name in FILES:
        for document in documents(name):
            for pod in pods(document):
                for container in pod["containers"]:
                    yield name, pod, container


@pytest.mark.parametrize("name", FILES)
def test_every_manifest_is_one_by_its_schema(name: str) -> None:
    for document in documents(name):
        validate(document)


@pytest.mark.parametrize("name", ["7b.yaml", "70b-two-nodes.yaml"])
def test_a_field_that_does_not_exist_is_noticed(name: str) -> None:
    server = documents(name)[0]
    for pod in pods(server):
        pod["containers"][0]["livenessprobe"] = {}
        with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
            validate(server)
        del pod["containers"][0]["livenessprobe"]
    validate(server)
    server["spec"]["replica"] = 1
    with pytest.raises((kubernetes_validate.ValidationError, jsonschema.ValidationError)):
        validate(server)


@pytest.mark.parametrize("size", SIZES)
def test_a_deployment_takes_the_gpus_the_port_and_the_file_of_its_size(size: str) -> None:
    settings = yaml.safe_load((ROOT / "servers" / f"{size}.yaml").read_text())
    deployment, service = documents(f"{size}.yaml")
    (pod,) = pods(deployment)
    (container,) = pod["containers"]
    assert container["args"][:2] == ["--config", f"/servers/{size}.yaml"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == str(
        settings["tensor-parallel-size"]
    )
    assert container["ports"][0]["containerPort"] == settings["port"]
    assert service["spec"]["ports"][0]["port"] == settings["port"]
    assert service["metadata"]["name"] == f"server-{size}"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]


def test_sizes_are_served_alike() -> None:
    def neutral(size: str) -> str:
        text = (FOLDER / f"{size}.yaml").read_text()
        port = yaml.safe_load((ROOT / "servers" / f"{size}.yaml").read_text())["port"]
        text = re.sub(rf"\b{size}\b|\b{size.upper()}\b|\b{port}\b", "SIZE", text)
        return re.sub(r'gpu: "\d"|memory: \d+Gi}', "", text)

    assert {neutral(size) for size in SIZES} == {neutral("7b")}


def test_the_two_nodes_hold_all_gpus_that_the_model_is_split_over() -> None:
    server = documents("70b-two-nodes.yaml")[0]
    template = server["spec"]["leaderWorkerTemplate"]
    leader, worker = (pod["containers"][0] for pod in pods(server))
    words = leader["args"]
    split = [int(words[words.index(f"--{kind}-parallel-size") + 1]) for kind in
             ("tensor", "pipeline")]  # fmt: skip
    on_each = int(leader["resources"]["limits"]["nvidia.com/gpu"])
    assert split[0] * split[1] == template["size"] * on_each
    assert worker["args"] == [*words, "--headless"]
    assert worker["resources"] == leader["resources"]
    assert not [key for key in worker if key.endswith("Probe") or key == "ports"]
    assert server["metadata"]["name"] == documents("70b.yaml")[0]["metadata"]["name"]


def test_only_the_leader_of_two_nodes_is_asked() -> None:
    server, service = documents("70b-two-nodes.yaml")
    template = server["spec"]["leaderWorkerTemplate"]
    labels = [template[part]["metadata"]["labels"] for part in ("leaderTemplate", "workerTemplate")]
    chosen = service["spec"]["selector"].items()
    assert [chosen <= label.items() for label in labels] == [True, False]


def test_every_server_is_probed_at_its_start_and_after_and_has_shared_memory() -> None:
    for name, pod, container in containers():
        if container["name"] == "vllm" and "--headless" not in container["args"]:
            probes = {key for key in container if key.endswith("Probe")}
            assert probes == {"startupProbe", "readinessProbe", "livenessProbe"}, name
            start = container["startupProbe"]
            assert start["periodSeconds"] * start["failureThreshold"] == 7200
        if container["name"] == "vllm":
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {"/dev/shm", "/servers", "/root/.cache/huggingface"} <= mounted  # noqa: S108
            volumes = {volume["name"] for volume in pod["volumes"]}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


def test_secrets_come_from_a_secret_and_stand_in_no_manifest() -> None:
    for name in FILES:
        assert {document["kind"] for document in documents(name)}.isdisjoint({"Secret"}), name
    secret = {"HF_TOKEN", "VLLM_API_KEY", "FIM_EVAL_API_KEY"}
    seen = set()
    for name, _, container in containers():
        for variable in container.get("env", []):
            if variable["name"] in secret:
                seen.add(variable["name"])
                assert variable["valueFrom"]["secretKeyRef"]["name"] == "fim-eval", name
        assert not any("api-key" in word for word in container.get("args", [])), name
    assert seen == secret


def test_images_are_pinned() -> None:
    images = {container["image"] for _, _, container in containers()}
    assert images == {"vllm/vllm-openai:v0.33.0", "fim-eval:0.1.0", "python:3.11-slim"}


def test_what_runs_programs_that_models_wrote_has_no_root_no_account_and_no_privileges() -> None:
    evaluations = [(pod, one) for _, pod, one in containers() if one["name"] == "fim-eval"]
    assert len(evaluations) == 2
    for pod, container in evaluations:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("size", SIZES)
def test_the_evaluation_of_another_size_is_two_words_away(size: str) -> None:
    port = yaml.safe_load((ROOT / "servers" / f"{size}.yaml").read_text())["port"]
    # What its first lines tell the user to do with sed.
    text = (FOLDER / "eval.yaml").read_text().replace("7b", size).replace("8007", str(port))
    job = yaml.safe_load(text)
    validate(job)
    (pod,) = pods(job)
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert environment["FIM_EVAL_ENDPOINT"] == f"http://server-{size}:{port}/v1"
    assert card_of(environment["FIM_EVAL_MODEL"]) is not None


def test_an_indexed_job_asks_every_shard_once_and_merge_takes_as_many() -> None:
    (job,) = documents("eval.yaml")
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"]) == ("Indexed", 4)
    (command,) = spec["template"]["spec"]["containers"][0]["args"]
    assert "shard=$((JOB_COMPLETION_INDEX + 1))" in command
    assert '--shard "$shard/4"' in command
    (merge,) = documents("merge.yaml")
    (script,) = merge["spec"]["template"]["spec"]["containers"][0]["args"]
    assert re.findall(r"shards/(\d)/\$run", script) == ["1", "2", "3", "4"]


def run_as_the_pod_would(name: str, folder: Path, **environment: str) -> list[str]:
    """Run a job's command in `folder` with a stand-in for fim-eval; how that was called."""
    (job,) = documents(name)
    (container,) = job["spec"]["template"]["spec"]["containers"]
    tool = folder / "bin" / "fim-eval"
    tool.parent.mkdir()
    # As merge ends when some tasks have no answer.
    tool.write_text('#!/bin/sh\necho "$*" >> "$CALLS"\n[ "$1" != merge ] || exit 3\n')
    tool.chmod(0o755)
    calls = folder / "calls"
    subprocess.run(
        [*container["command"], *container["args"]], cwd=folder, check=True,
        env={"PATH": f"{tool.parent}:/usr/bin:/bin", "CALLS": str(calls), **environment},
    )  # fmt: skip
    return calls.read_text().splitlines()


def test_the_first_pod_of_an_evaluation_asks_the_first_shard(tmp_path: Path) -> None:
    calls = run_as_the_pod_would("eval.yaml", tmp_path, JOB_COMPLETION_INDEX="0")
    assert calls == ["eval --shard 1/4 --out runs/7b/shards/1"]


def test_merging_puts_every_run_of_all_shards_together_and_tells_one_table(tmp_path: Path) -> None:
    for run in ("m.fim-psm", "m.lr"):
        (tmp_path / "shards" / "1" / run).mkdir(parents=True)
    assert run_as_the_pod_would("merge.yaml", tmp_path) == [
        *(
            f"merge shards/1/{run} shards/2/{run} shards/3/{run} shards/4/{run} --out {run}"
            for run in ("m.fim-psm", "m.lr")
        ),
        "report m.fim-psm m.lr --out .",
    ]


def test_the_router_takes_every_option_that_it_is_started_with() -> None:
    (pod,) = pods(documents("router.yaml")[0])
    (command,) = pod["containers"][0]["args"]
    words = shlex.split(command.partition("exec python -m vllm_router.launch_router ")[2])
    options = parse_router_args(words)
    assert options.service_discovery
    assert options.selector == {"app.kubernetes.io/name": "server-7b"}
    assert (options.service_discovery_port, options.policy) == (8007, "power_of_two")


def test_the_router_finds_the_pods_of_the_server_it_is_named_for() -> None:
    deployment, service, account, role, binding = documents("router.yaml")
    (pod,) = pods(deployment)
    (command,) = pod["containers"][0]["args"]
    server = documents("7b.yaml")[0]
    labels = server["spec"]["template"]["metadata"]["labels"]
    selected = re.search(r"--selector (\S+)=(\S+)", command)
    assert selected is not None
    assert labels[selected[1]] == selected[2]
    assert "--service-discovery-port 8007" in command
    assert pod["serviceAccountName"] == account["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account["metadata"]["name"]}]
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    ]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
