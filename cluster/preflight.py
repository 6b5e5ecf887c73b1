"""Check of every node of a cluster before a sweep starts, run on the cluster as `python -m cluster.preflight FILE`.

Each node that is alive reports its versions, GPUs and free disk space, computes the fingerprint of the data, and writes
a temporary file to the results folder. Every other node must be able to see this file. Afterwards the temporary files
are removed, but not the results folder itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lagvae_core.errors import ValidationIssue

__all__ = [
    "MARK",
    "PreflightRequest",
    "data_fingerprint",
    "examine",
    "main",
    "missing_nodes",
    "notes_of",
    "problems_of",
    "to_json",
]

MARK = "lagvae-check: "
"""Prefix of the line in the job's log that contains the reports as JSON."""

NODE_SECONDS = 120.0
"""Timeout of a node, including the start of Python and reading the data [s]."""

APPEAR_SECONDS = 5.0
"""Time within which a node must see a file that another node wrote [s].

Network file systems may report for a short time that a new file does not exist.
"""

WHOLE_BYTES = 16 * 2**20
"""Maximum size of a data file that is hashed completely. Of a larger file, only the start and the end are hashed."""

FREE_BYTES = 2**30
"""Minimum free space for results, in bytes."""


@dataclass(frozen=True)
class PreflightRequest:
    """The requirements that the nodes are checked against.

    Args:
        probe: Name of the temporary folder inside the results folder.
        results: Folder or URI of the results; with None, results are not checked.
        data: Paths of the data.
        versions: Versions of Python and packages on the client.
        requirements: Requirement lines such as "torch>=2.8,<2.14".
    """

    probe: str
    results: str | None
    data: Sequence[str]
    versions: Mapping[str, str]
    requirements: Sequence[str] = field(default=())


Report = dict[str, Any]

NodeInfo = Mapping[str, Any]
"""A node as Ray describes it."""


def examine(request: PreflightRequest) -> Report:
    """Return a report on this node, and write its temporary file to the results folder."""
    names = {_name_of(line) for line in request.requirements} | {"ray"}
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in sorted(names)},
        "gpus": list(_gpus()),
        "free_bytes": _free(request.results),
        "data": {path: data_fingerprint(path) for path in request.data},
        "write_error": _write(request),
    }


def _name_of(requirement: str) -> str:
    from packaging.requirements import Requirement

    return Requirement(requirement).name


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> Iterator[dict[str, Any]]:
    """Yield the name and memory of each GPU that the NVIDIA driver of this node reports."""
    if not (tool := shutil.which("nvidia-smi")):
        return
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    for line in output.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            yield {"name": name.strip(), "memory_bytes": int(mebibytes) * 2**20}


def _free(results: str | None) -> int | None:
    """Return the free space for results (for temporary files if `results` is None); None for an object store."""
    if results is not None and "://" in results and not results.startswith("file://"):
        return None
    folder = Path((results or os.environ.get("TMPDIR", "/tmp")).removeprefix("file://"))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def data_fingerprint(path: str) -> str | None:
    """Return the SHA-256 of the names, sizes and content of the files at `path`.

    Of a file larger than 16 MiB, only the first and last 8 MiB are read. Return None if there is no file at `path`, or
    if a file cannot be read.
    """
    root, digest = Path(os.path.expanduser(path)), hashlib.sha256()
    try:
        files = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
        for file in files:
            digest.update(f"{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                digest.update(stream.read(WHOLE_BYTES // 2))
                if (rest := file.stat().st_size - WHOLE_BYTES // 2) > 0:
                    stream.seek(-min(rest, WHOLE_BYTES // 2), os.SEEK_END)
                    digest.update(stream.read())
    except OSError:
        return None
    return digest.hexdigest() if files else None


def _filesystem(results: str) -> tuple[Any, str]:
    import pyarrow.fs

    if "://" in results:
        return pyarrow.fs.FileSystem.from_uri(results)  # type: ignore[no-any-return]
    return pyarrow.fs.LocalFileSystem(), os.path.abspath(results)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _write(request: PreflightRequest) -> str | None:
    """Write a temporary file, rename it and read it back. Return the reason if one of these steps fails, else None."""
    if request.results is None:
        return None
    try:
        system, root = _filesystem(request.results)
        folder, content = f"{root}/{request.probe}", _node().encode()
        system.create_dir(folder, recursive=True)
        with system.open_output_stream(f"{folder}/{_node()}.part") as stream:
            stream.write(content)
        system.move(f"{folder}/{_node()}.part", f"{folder}/{_node()}")
        with system.open_input_stream(f"{folder}/{_node()}") as stream:
            if stream.read() != content:
                return "a file has different content when it is read back"
    except (OSError, ValueError) as error:
        return _sentence(error)
    return None


def missing_nodes(request: PreflightRequest, nodes: Sequence[str]) -> list[str]:
    """Return those of `nodes` whose file in the results folder is not visible from this node."""
    assert request.results is not None
    deadline, missing = time.monotonic() + APPEAR_SECONDS, list(nodes)
    while True:
        missing = [node for node in missing if not _is_visible(request, node)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.2)


def _is_visible(request: PreflightRequest, node: str) -> bool:
    try:
        system, root = _filesystem(str(request.results))
        with system.open_input_stream(f"{root}/{request.probe}/{node}") as stream:
            return bool(stream.read() == node.encode())
    except (OSError, ValueError):
        return False


def clean_up(request: PreflightRequest) -> None:
    """Remove the temporary folder from the results folder."""
    assert request.results is not None
    try:
        system, root = _filesystem(request.results)
        system.delete_dir(f"{root}/{request.probe}")
    except (OSError, ValueError):
        return


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def problems_of(report: Report, request: PreflightRequest, others: Sequence[Report]) -> list[ValidationIssue]:
    """Return the problems that prevent a node from running the sweep.

    Args:
        report: Report of the node.
        request: The requirements that the nodes are checked against.
        others: Reports of all nodes, including this one.
    """
    return [
        *_version_problems(report["versions"], request),
        *_data_problems(report, others),
        *_results_problems(report, request, others),
    ]


def _version_problems(versions: Mapping[str, str | None], request: PreflightRequest) -> Iterator[ValidationIssue]:
    from packaging.requirements import Requirement

    client = request.versions
    if _minor(versions["python"]) != _minor(client["python"]):
        hint = "Use the same minor version on the client and on every node."
        message = f"must be {_minor(client['python'])}, as on the client"
        yield ValidationIssue("Python", message, hint, versions["python"])
    if versions["ray"] != client["ray"]:
        message, hint = f"must be {client['ray']}, as on the client", f"Run: pip install ray=={client['ray']}"
        yield ValidationIssue("Ray", message, hint, versions["ray"])
    for line in request.requirements:
        requirement, hint = Requirement(line), f"Run: pip install '{line}'"
        installed = versions[requirement.name]
        if installed is None:
            yield ValidationIssue(requirement.name, "must be installed", hint)
        elif not requirement.specifier.contains(installed, prereleases=True):
            yield ValidationIssue(requirement.name, f"must satisfy {requirement.specifier}", hint, installed)


def _minor(python: str | None) -> str:
    return ".".join(str(python).split(".")[:2])


def _data_problems(report: Report, others: Sequence[Report]) -> Iterator[ValidationIssue]:
    for path, fingerprint in report["data"].items():
        if fingerprint is None:
            message = "must be a readable data file, or a folder of readable data files"
            yield ValidationIssue(path, message, "Mount or copy the data to this path.")
            continue
        fingerprints = [other["data"][path] for other in others if other["data"][path] is not None]
        most_common = max(sorted(set(fingerprints)), key=fingerprints.count)
        if fingerprint != most_common:
            message = f"must contain the same data on every node (fingerprint {most_common[:12]} on most nodes)"
            yield ValidationIssue(path, message, "Copy the data again.", fingerprint[:12])


def _results_problems(report: Report, request: PreflightRequest, others: Sequence[Report]) -> Iterator[ValidationIssue]:
    where = request.results or "temporary folder"
    if report["write_error"]:
        message = f"must be writable ({report['write_error']})"
        yield ValidationIssue(where, message, "Check permissions and mounts.")
    elif report.get("missing"):
        addresses = {other["node_id"]: other["address"] for other in others}
        hidden = ", ".join(addresses.get(node, node[:8]) for node in report["missing"])
        yield ValidationIssue(
            where,
            f"must be shared by all nodes, but this node does not see the files written by {hidden}",
            "Mount shared storage at this path, or use a URI such as s3://BUCKET/results.",
        )
    if report["free_bytes"] is not None and report["free_bytes"] < FREE_BYTES:
        free = f"{report['free_bytes'] / 2**20:.0f} MiB"
        hint = "Delete files or use a larger disk."
        yield ValidationIssue(where, "must have at least 1 GiB of free space", hint, free)


def notes_of(report: Report, request: PreflightRequest) -> list[str]:
    """Return remarks about the node that do not prevent it from running the sweep."""
    notes = []
    client, node = request.versions.get("torch"), report["versions"].get("torch")
    if client and node and client.partition("+")[0] != node.partition("+")[0]:
        notes.append(f"torch is {node} here and {client} on the client, so results may differ in their last digits.")
    registered = report["resources"].get("GPU", 0)
    if registered < len(report["gpus"]):
        notes.append(f"The node has {len(report['gpus'])} GPUs, but Ray registered only {registered:g}.")
    return notes


def check(ray: Any, request: PreflightRequest) -> list[Report]:
    """Return the report of every node that is alive, the head first, with its `problems` and `notes`."""
    alive: Sequence[NodeInfo] = [node for node in ray.nodes() if node["Alive"]]
    try:
        reports = [_report(node, answer) for node, answer in _ask(ray, alive, examine, request)]
        answered = [report for report in reports if "problems" not in report]
        names = {report["node_id"] for report in answered}
        alive = [node for node in alive if node["NodeID"] in names]
        if request.results is not None:
            wrote = [report["node_id"] for report in answered if not report["write_error"]]
            missing_of = {node["NodeID"]: missing for node, missing in _ask(ray, alive, missing_nodes, request, wrote)}
            for report in answered:
                missing = missing_of[report["node_id"]]
                report["missing"] = missing if isinstance(missing, list) else wrote
    finally:
        if request.results is not None:
            _ask(ray, alive, clean_up, request)
    for report in answered:
        report |= {"problems": problems_of(report, request, answered), "notes": notes_of(report, request)}
    return sorted(reports, key=lambda report: (not report["head"], report["address"]))


def _report(node: NodeInfo, answer: Any) -> Report:
    if isinstance(answer, str):
        hint = "See the log of its raylet. Hashing many data files takes long; --no-check skips the check."
        return _facts(node) | {"problems": [ValidationIssue(node["NodeManagerAddress"], f"the node {answer}", hint)]}
    facts: Report = _facts(node) | answer
    return facts


def _facts(node: NodeInfo) -> Report:
    """Return what Ray reports about a node."""
    resources = {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU")}
    head = "node:__internal_head__" in node["Resources"]
    return {"node_id": node["NodeID"], "address": node["NodeManagerAddress"], "head": head, "resources": resources}


def _ask(ray: Any, nodes: Sequence[NodeInfo], function: Any, *arguments: Any) -> list[tuple[NodeInfo, Any]]:
    """Run `function` on each node. Return pairs of a node and its result, or a text that explains why it has none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(function)
    references = []
    for node in nodes:
        on_node = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        references.append(task.options(num_cpus=0, max_retries=0, scheduling_strategy=on_node).remote(*arguments))
    if not references:
        return []
    ready = set(ray.wait(references, num_returns=len(references), timeout=NODE_SECONDS)[0])
    answers = []
    for reference in references:
        try:
            answers.append(ray.get(reference) if reference in ready else f"did not answer within {NODE_SECONDS:g} s")
        except Exception as error:
            answers.append(f"failed ({_sentence(error)})")
    return list(zip(nodes, answers, strict=True))


def main(path: str) -> int:
    """Check all nodes against the request in the file at `path`, print their reports, and return the exit code."""
    from cluster.connection import ConnectionFailed, connect

    request = PreflightRequest(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        with connect("auto") as ray:
            reports = check(ray, request)
    except ConnectionFailed as error:
        print(f"lagvae: {error}")
        return 2
    print(MARK + json.dumps(to_json(reports)))
    return 0


def to_json(reports: Sequence[Report]) -> dict[str, Any]:
    """Return the reports of `check` as JSON, with problems as text. `ok` is true if no node has a problem."""
    nodes = [report | {"problems": [str(problem) for problem in report["problems"]]} for report in reports]
    return {"nodes": nodes, "ok": not any(report["problems"] for report in reports)}


def request_text(request: PreflightRequest) -> str:
    """Return the content of the file that `main` reads."""
    return json.dumps(asdict(request))


if __name__ == "__main__":
    # Import this module by name, so that Ray's workers import it too, instead of unpickling functions of `__main__`.
    from cluster import preflight

    sys.exit(preflight.main(sys.argv[1]))
