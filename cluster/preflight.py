"""Before anything starts: what every node of a cluster has and sees. Runs there, as `python -m cluster.preflight FILE`.

Each living node tells its versions, GPUs and disk, takes the fingerprint of the data, and writes a file to the results
that every other node must find. Nothing of it stays but the folder for results.
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

__all__ = ["MARK", "Question", "data_fingerprint", "examine", "main", "notes_of", "problems_of", "see"]

MARK = "lagvae-check: "
"""Begins the line of the job's log that holds the answer, JSON."""

NODE_SECONDS = 120.0
"""How long the nodes may take to answer, a first start of Python and the reading of data included."""

APPEAR_SECONDS = 5.0
"""How long a file of another node may take to be seen; network file systems remember what was not there."""

WHOLE_BYTES = 16 * 2**20
"""Up to this size a data file is read as a whole, above it its beginning and its end."""

FREE_BYTES = 2**30
"""Less free space than this where results go is a problem."""


@dataclass(frozen=True)
class Question:
    """What the nodes are asked: where results go and data lie, and what the client has.

    `versions` are the client's, `requirements` are lines such as "torch>=2.8,<2.14".
    """

    probe: str
    results: str | None
    data: Sequence[str]
    versions: Mapping[str, str]
    requirements: Sequence[str] = field(default=())


Report = dict[str, Any]

Node = Mapping[str, Any]
"""A node as Ray tells of it."""


def examine(question: Question) -> Report:
    """What this node has; writes its file to the results."""
    names = {_name_of(line) for line in question.requirements} | {"ray"}
    return {
        "host": socket.gethostname(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in sorted(names)},
        "gpus": list(_gpus()),
        "free_bytes": _free(question.results),
        "data": {path: data_fingerprint(path) for path in question.data},
        "write_error": _write(question),
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
    """Name and memory of each GPU that the driver of this node shows."""
    if not (tool := shutil.which("nvidia-smi")):
        return
    query = [tool, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    for line in shown.splitlines():
        name, _, mebibytes = line.rpartition(",")
        if name and mebibytes.strip().isdecimal():
            yield {"name": name.strip(), "memory_bytes": int(mebibytes) * 2**20}


def _free(results: str | None) -> int | None:
    """Bytes left where results go, None on an object store; of the folder for temporary files without results."""
    if results is not None and "://" in results and not results.startswith("file://"):
        return None
    folder = Path((results or os.environ.get("TMPDIR", "/tmp")).removeprefix("file://"))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def data_fingerprint(path: str) -> str | None:
    """SHA-256 over names, sizes and content of the files at `path`, or None if nothing readable is there.

    Of a file above 16 MiB the first and last 8 MiB are read.
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


def _place(results: str) -> tuple[Any, str]:
    import pyarrow.fs

    if "://" in results:
        return pyarrow.fs.FileSystem.from_uri(results)  # type: ignore[no-any-return]
    return pyarrow.fs.LocalFileSystem(), os.path.abspath(results)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _write(question: Question) -> str | None:
    """Write beside, rename and read back; what went wrong, or None."""
    if question.results is None:
        return None
    try:
        system, root = _place(question.results)
        folder, content = f"{root}/{question.probe}", _node().encode()
        system.create_dir(folder, recursive=True)
        with system.open_output_stream(f"{folder}/{_node()}.part") as stream:
            stream.write(content)
        system.move(f"{folder}/{_node()}.part", f"{folder}/{_node()}")
        with system.open_input_stream(f"{folder}/{_node()}") as stream:
            if stream.read() != content:
                return "a file that was written there has another content when it is read"
    except (OSError, ValueError) as error:
        return _sentence(error)
    return None


def see(question: Question, nodes: Sequence[str]) -> list[str]:
    """Those of `nodes` whose file this node does not see on the results."""
    assert question.results is not None
    deadline, missing = time.monotonic() + APPEAR_SECONDS, list(nodes)
    while True:
        missing = [node for node in missing if not _sees(question, node)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(0.2)


def _sees(question: Question, node: str) -> bool:
    try:
        system, root = _place(str(question.results))
        with system.open_input_stream(f"{root}/{question.probe}/{node}") as stream:
            return bool(stream.read() == node.encode())
    except (OSError, ValueError):
        return False


def clean(question: Question) -> None:
    """Remove the probe's folder."""
    assert question.results is not None
    try:
        system, root = _place(question.results)
        system.delete_dir(f"{root}/{question.probe}")
    except (OSError, ValueError):
        return


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def problems_of(report: Report, question: Question, others: Sequence[Report]) -> list[str]:
    """What keeps a node from running the sweep, each with its remedy."""
    return [
        *_version_problems(report["versions"], question),
        *_data_problems(report, others),
        *_results_problems(report, question, others),
    ]


def _version_problems(versions: Mapping[str, str | None], question: Question) -> Iterator[str]:
    from packaging.requirements import Requirement

    mine = question.versions
    if _minor(versions["python"]) != _minor(mine["python"]):
        yield (
            f"Python must be {_minor(mine['python'])}, as on the client, but is {versions['python']}. Use an "
            "environment with that Python on one of the two."
        )
    if versions["ray"] != mine["ray"]:
        yield f"Ray must be {mine['ray']}, as on the client, but is {versions['ray']}. pip install ray=={mine['ray']}"
    for line in question.requirements:
        wish = Requirement(line)
        found = versions[wish.name]
        if found is None:
            yield f"{wish.name} must be installed, but is not. pip install '{line}'"
        elif not wish.specifier.contains(found, prereleases=True):
            yield f"{wish.name} must be {wish.specifier}, but is {found}. pip install '{line}'"


def _minor(python: str | None) -> str:
    return ".".join(str(python).split(".")[:2])


def _data_problems(report: Report, others: Sequence[Report]) -> Iterator[str]:
    for path, fingerprint in report["data"].items():
        if fingerprint is None:
            yield f"The data must be at {path}, but no readable file is. Mount or copy them there."
            continue
        common = [other["data"][path] for other in others if other["data"][path] is not None]
        usual = max(sorted(set(common)), key=common.count)
        if fingerprint != usual:
            yield (
                f"The data at {path} must be the same on every node, but are {fingerprint[:12]} here and {usual[:12]} "
                "on others. Copy them again."
            )


def _results_problems(report: Report, question: Question, others: Sequence[Report]) -> Iterator[str]:
    where = question.results
    if report["write_error"]:
        yield f"Results must be written at {where}, but are not ({report['write_error']}). Check rights and mounts."
    elif report.get("missing"):
        named = {other["node_id"]: other["address"] for other in others}
        hidden = ", ".join(named.get(node, node[:8]) for node in report["missing"])
        yield (
            f"{where} must be one folder that all nodes share, but files of {hidden} are not seen here. Mount shared "
            "storage there, or give a URI such as s3://BUCKET/results."
        )
    if report["free_bytes"] is not None and report["free_bytes"] < FREE_BYTES:
        yield f"1 GiB must be free for results, but {report['free_bytes'] / 2**20:.0f} MiB are. Make room."


def notes_of(report: Report, question: Question) -> list[str]:
    """What does not stop a sweep, but should be known."""
    notes = []
    mine, here = question.versions.get("torch"), report["versions"].get("torch")
    if mine and here and mine.partition("+")[0] != here.partition("+")[0]:
        notes.append(f"torch is {here}, and {mine} on the client: numbers may differ in their last digits.")
    if report["resources"].get("GPU", 0) < len(report["gpus"]):
        told = report["resources"].get("GPU", 0)
        notes.append(f"{len(report['gpus'])} GPUs are there, but Ray was told of {told:g}.")
    return notes


def check(ray: Any, question: Question) -> list[Report]:
    """The report of every living node, the head first, with its `problems` and `notes`."""
    there: Sequence[Node] = [node for node in ray.nodes() if node["Alive"]]
    try:
        reports = [_report(node, answer) for node, answer in _ask(ray, there, examine, question)]
        answered = [report for report in reports if "problems" not in report]
        names = {report["node_id"] for report in answered}
        there = [node for node in there if node["NodeID"] in names]
        if question.results is not None:
            wrote = [report["node_id"] for report in answered if not report["write_error"]]
            missed = {node["NodeID"]: missing for node, missing in _ask(ray, there, see, question, wrote)}
            for report in answered:
                missing = missed[report["node_id"]]
                report["missing"] = missing if isinstance(missing, list) else wrote
    finally:
        if question.results is not None:
            _ask(ray, there, clean, question)
    for report in answered:
        report |= {"problems": problems_of(report, question, answered), "notes": notes_of(report, question)}
    return sorted(reports, key=lambda report: (not report["head"], report["address"]))


def _report(node: Node, answer: Any) -> Report:
    if isinstance(answer, str):
        hint = "Look at its raylet's log; data of many files take long, and --no-check leaves them out."
        return _facts(node) | {"problems": [f"The node must answer, but {answer}. {hint}"]}
    facts: Report = _facts(node) | answer
    return facts


def _facts(node: Node) -> Report:
    """What Ray knows of a node."""
    resources = {name: node["Resources"].get(name, 0.0) for name in ("CPU", "GPU")}
    head = "node:__internal_head__" in node["Resources"]
    return {"node_id": node["NodeID"], "address": node["NodeManagerAddress"], "head": head, "resources": resources}


def _ask(ray: Any, nodes: Sequence[Node], function: Any, *arguments: Any) -> list[tuple[Node, Any]]:
    """Each of `nodes` with what `function` answers there; with a sentence's end where it does not."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(function)
    asked = []
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append(task.options(num_cpus=0, max_retries=0, scheduling_strategy=here).remote(*arguments))
    if not asked:
        return []
    ready = set(ray.wait(asked, num_returns=len(asked), timeout=NODE_SECONDS)[0])
    answers = []
    for reference in asked:
        try:
            answers.append(ray.get(reference) if reference in ready else f"does not within {NODE_SECONDS:g} s")
        except Exception as error:
            answers.append(f"fails ({_sentence(error)})")
    return list(zip(nodes, answers, strict=True))


def main(path: str) -> int:
    """Ask all nodes what the file at `path` says; print their reports."""
    from cluster.connection import ConnectionFailed, connect

    question = Question(**json.loads(Path(path).read_text(encoding="utf-8")))
    try:
        with connect("auto") as ray:
            reports = check(ray, question)
    except ConnectionFailed as error:
        print(f"lagvae: {error}")
        return 2
    print(MARK + json.dumps({"nodes": reports, "ok": not any(report["problems"] for report in reports)}))
    return 0


def request_text(question: Question) -> str:
    """The file that `main` reads."""
    return json.dumps(asdict(question))


if __name__ == "__main__":
    # By its name, so that workers import the module instead of getting a copy of it.
    from cluster import preflight

    sys.exit(preflight.main(sys.argv[1]))
