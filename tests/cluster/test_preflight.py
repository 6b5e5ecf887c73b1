"""The check of every node. The nodes are folders, on which the real functions run on real files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster import preflight
from cluster.preflight import PreflightRequest, check, data_fingerprint, notes_of, problems_of, request_text, to_json
from lagvae_core.errors import MISSING, ValidationIssue

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu"}


@dataclass
class FakeRay:
    """Replaces the module `ray`. A node is a letter; the last one is the head.

    Args:
        monkeypatch: Sets the id of the node on which a function runs.
        names: The nodes.
        place: From a node and a path to the path in the file system of this machine.
        dead: Nodes that Ray reports as dead.
        failing: Nodes on which every task fails.
        used: The node of each task so far.
    """

    monkeypatch: pytest.MonkeyPatch
    names: tuple[str, ...]
    place: Callable[[str, str], str] = lambda node, path: path
    dead: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    used: list[str] = field(default_factory=list)

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {
                "NodeID": name * 56,
                "NodeManagerAddress": f"10.0.0.{number}",
                "Alive": name not in self.dead,
                "Resources": {"CPU": 4.0} | ({"node:__internal_head__": 1.0} if name == self.names[-1] else {}),
            }
            for number, name in enumerate(self.names)
        ]

    def remote(self, function: Any) -> Any:
        fake = self

        @dataclass(frozen=True)
        class Task:
            node: str = ""

            def options(self, *, num_cpus: float, max_retries: int, scheduling_strategy: Any) -> Task:
                assert (num_cpus, scheduling_strategy.soft) == (0, False)
                return Task(scheduling_strategy.node_id[0])

            def remote(self, request: PreflightRequest, *arguments: Any) -> Any:
                return fake.run(self.node, function, request, *arguments)

        return Task()

    def run(self, node: str, function: Any, request: PreflightRequest, *arguments: Any) -> Reference:
        self.used.append(node)
        if node in self.failing:
            return Reference(RuntimeError(f"{node}\nis lost."))
        results = self.place(node, request.results) if request.results else None
        data = [self.place(node, path) for path in request.data]
        self.monkeypatch.setattr(preflight, "_node", lambda: node * 56)
        answer = function(replace(request, results=results, data=data), *arguments)
        if isinstance(answer, dict):
            answer["data"] = dict(zip(request.data, answer["data"].values(), strict=True))
        return Reference(answer)

    def wait(self, references: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert len(references) == num_returns
        return references, []

    def get(self, reference: Reference) -> Any:
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value


@dataclass(frozen=True, eq=False)
class Reference:
    """Reference to the result of a task, compared by identity."""

    value: Any


@pytest.fixture
def fake_ray(monkeypatch):
    """Create a FakeRay with these nodes and options."""
    monkeypatch.setattr(preflight, "APPEAR_SECONDS", 0.1)

    def make(*names: str, **options: Any) -> FakeRay:
        return FakeRay(monkeypatch, names, **options)

    return make


def request_for(**changes: Any) -> PreflightRequest:
    from importlib.metadata import version
    from platform import python_version

    values = {"probe": ".probe", "results": None, "data": (), "requirements": ()}
    versions = {"python": python_version(), "ray": version("ray"), "torch": version("torch")}
    return PreflightRequest(**(values | {"versions": versions} | changes))


def places(problems: list[ValidationIssue]) -> list[str]:
    """Return what each problem is about."""
    return [problem.where for problem in problems]


class TestNodes:
    def test_nodes_without_problems(self, fake_ray, tmp_path):
        reports = check(
            fake_ray("a", "b", "c"), request_for(results=str(tmp_path / "results"), requirements=("numpy>=1",))
        )
        assert [report["problems"] for report in reports] == [[], [], []]
        assert [(report["address"], report["head"]) for report in reports] == [
            ("10.0.0.2", True),
            ("10.0.0.0", False),
            ("10.0.0.1", False),
        ]
        assert all(report["free_bytes"] > 0 and report["versions"]["numpy"] for report in reports)
        assert list((tmp_path / "results").iterdir()) == []
        assert to_json(reports) == {"nodes": reports, "ok": True}
        assert json.dumps(to_json(reports))

    def test_results_that_are_not_shared(self, fake_ray, tmp_path):
        """Node c has a different folder under the same path."""
        other, results = tmp_path / "other", str(tmp_path / "results")

        def place(node: str, path: str) -> str:
            return str(other) if node == "c" else path

        reports = check(fake_ray("a", "b", "c", place=place), request_for(results=results))
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert all(places(of_node) == [results] for of_node in problems.values())
        assert "10.0.0.0, 10.0.0.1" in problems["c"][0].message
        assert "10.0.0.2" in problems["a"][0].message
        assert "10.0.0.0" not in problems["a"][0].message
        assert list(other.iterdir()) == []
        answer = to_json(reports)
        assert not answer["ok"]
        assert [node["problems"] for node in answer["nodes"]] == [[str(node["problems"][0])] for node in reports]

    def test_results_that_cannot_be_written(self, fake_ray, tmp_path):
        (tmp_path / "file").write_text("")
        results = str(tmp_path / "results")

        def place(node: str, path: str) -> str:
            return str(tmp_path / "file" / "below") if node == "b" else path

        reports = check(fake_ray("a", "b", place=place), request_for(results=results))
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert problems["a"] == []
        assert places(problems["b"]) == [results]
        assert next(report["write_error"] for report in reports if report["node_id"][0] == "b")

    def test_data_that_differ_or_are_missing(self, fake_ray, tmp_path):
        for name, text in {"a": "one", "b": "one", "c": "two"}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "train.txt").write_text(text)

        reports = check(
            fake_ray("a", "b", "c", "d", place=lambda node, path: str(tmp_path / node)), request_for(data=("/data",))
        )
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert problems["a"] == problems["b"] == []
        assert places(problems["c"]) == places(problems["d"]) == ["/data"]
        different = data_fingerprint(str(tmp_path / "c"))
        assert different is not None
        assert problems["c"][0].value == different[:12]
        assert problems["d"][0].value is MISSING

    def test_a_failing_node_is_reported_and_a_dead_one_not_used(self, fake_ray, tmp_path):
        ray = fake_ray("a", "b", "c", failing=("a",), dead=("b",))
        reports = check(ray, request_for(results=str(tmp_path / "results")))
        assert {report["node_id"][0] for report in reports} == {"a", "c"}
        [lost] = [report for report in reports if report["node_id"][0] == "a"]
        assert places(lost["problems"]) == ["10.0.0.0"]
        assert "a is lost" in lost["problems"][0].message
        assert "b" not in ray.used

    def test_an_interrupted_check_leaves_no_files(self, fake_ray, tmp_path, monkeypatch):
        def interrupted(*arguments: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(preflight, "missing_nodes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check(fake_ray("a", "b"), request_for(results=str(tmp_path / "results")))
        assert list((tmp_path / "results").iterdir()) == []

    def test_unreadable_data_have_no_fingerprint(self, monkeypatch):
        def deny(path: Path) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "is_dir", deny)
        assert data_fingerprint("/root/of/another/user") is None


def report(**changes: Any) -> dict[str, Any]:
    """Return the report of a node without problems, with `changes`."""
    values = {"versions": dict(VERSIONS), "data": {}, "write_error": None, "free_bytes": 2**40, "gpus": []}
    return values | {"resources": {"CPU": 4.0}, "missing": []} | changes


def problems(versions: dict[str, str | None], *requirements: str) -> list[ValidationIssue]:
    """Return the problems of a node with other `versions` than the client."""
    request = PreflightRequest("p", None, (), VERSIONS, requirements)
    return problems_of(report(versions=VERSIONS | versions), request, [])


class TestVersions:
    def test_the_versions_of_the_client(self):
        assert problems({}, "ray[default,tune]<2.61,>=2.60", "torch>=2.8") == []

    def test_the_patch_version_of_python_may_differ(self):
        assert problems({"python": "3.11.99"}) == []

    @pytest.mark.parametrize("python", ["3.12.0", "3.1.11", "4.11.7"])
    def test_the_minor_version_of_python_must_be_equal(self, python):
        [problem] = problems({"python": python})
        assert (problem.where, problem.value) == ("Python", python)

    @pytest.mark.parametrize("ray", ["2.60.1", "2.59.0", None])
    def test_the_version_of_ray_must_be_equal(self, ray):
        [problem] = problems({"ray": ray})
        assert (problem.where, problem.value) == ("Ray", ray)
        assert "pip install ray==2.60.0" in problem.hint

    def test_requirements(self):
        assert problems({"x": "1.9"}, "x>=1,<2") == []
        [unsuitable] = problems({"x": "2.0"}, "x>=1,<2")
        assert str(unsuitable) == "x: must satisfy <2,>=1, got '2.0'. Run: pip install 'x>=1,<2'"
        [absent] = problems({"x": None}, "x>=1")
        assert str(absent) == "x: must be installed. Run: pip install 'x>=1'"

    def test_all_problems_are_reported_together(self):
        versions = {"python": "3.9.0", "ray": "1.0", "x": "1", "y": None}
        assert places(problems(versions, "x>2", "y")) == ["Python", "Ray", "x", "y"]

    def test_a_different_version_of_torch_is_noted(self):
        request = PreflightRequest("p", None, (), VERSIONS)
        assert notes_of(report(versions=VERSIONS | {"torch": "2.13.0+cu126"}), request) == []
        [note] = notes_of(report(versions=VERSIONS | {"torch": "2.12.1+cu126"}), request)
        assert all(version in note for version in ("2.12.1+cu126", "2.13.0+cpu"))

    def test_gpus_that_are_not_registered_with_ray_are_noted(self):
        gpus = [{"name": "H200", "memory_bytes": 2**37}] * 2
        request = PreflightRequest("p", None, (), VERSIONS)
        assert len(notes_of(report(gpus=gpus), request)) == 1
        assert notes_of(report(gpus=gpus, resources={"GPU": 2.0}), request) == []

    def test_a_full_disk(self):
        request = PreflightRequest("p", "/r", (), VERSIONS)
        [problem] = problems_of(report(free_bytes=2**29), request, [])
        assert (problem.where, problem.value) == ("/r", "512 MiB")
        assert problems_of(report(free_bytes=None), request, []) == []


class TestGpus:
    def test_the_output_of_nvidia_smi_is_parsed(self, tmp_path, monkeypatch):
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\necho 'Odd, name, 100'\necho 'Broken, [N/A]'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert list(preflight._gpus()) == [
            {"name": "NVIDIA H200", "memory_bytes": 143771 * 2**20},
            {"name": "Odd, name", "memory_bytes": 100 * 2**20},
        ]

    @pytest.mark.parametrize("script", [None, "exit 9"])
    def test_without_a_working_nvidia_smi_there_are_none(self, tmp_path, monkeypatch, script):
        if script:
            (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert list(preflight._gpus()) == []


class TestFingerprint:
    def folder(self, root: Path, **files: bytes) -> str:
        for name, content in files.items():
            root.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
        return str(root)

    def test_depends_on_names_and_content_but_not_on_the_place(self, tmp_path):
        one = data_fingerprint(self.folder(tmp_path / "one", train=b"a", test=b"b"))
        assert one == data_fingerprint(self.folder(tmp_path / "two", test=b"b", train=b"a"))
        assert len({one, *(data_fingerprint(path) for path in self.different_folders(tmp_path))}) == 5

    def different_folders(self, root: Path) -> list[str]:
        return [
            self.folder(root / "content", train=b"a", test=b"c"),
            self.folder(root / "moved", train=b"ab", test=b""),
            self.folder(root / "named", train=b"a", valid=b"b"),
            self.folder(root / "fewer", train=b"a"),
        ]

    def test_of_a_file_does_not_depend_on_its_name(self, tmp_path):
        self.folder(tmp_path / "a", x=b"1")
        self.folder(tmp_path / "b", y=b"1")
        assert data_fingerprint(str(tmp_path / "a" / "x")) == data_fingerprint(str(tmp_path / "b" / "y")) is not None

    def test_empty_and_missing_folders_have_none(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert data_fingerprint(str(tmp_path / "empty")) is None
        assert data_fingerprint(str(tmp_path / "missing")) is None

    @pytest.mark.parametrize(
        ("size", "changed", "detected"), [(16, 9, True), (40, 7, True), (40, 39, True), (40, 20, False)]
    )
    def test_of_a_large_file_covers_its_start_and_end(self, tmp_path, monkeypatch, size, changed, detected):
        monkeypatch.setattr(preflight, "WHOLE_BYTES", 16)
        content = bytearray(size)
        before = data_fingerprint(self.folder(tmp_path / "a", x=bytes(content)))
        content[changed] = 1
        assert (data_fingerprint(self.folder(tmp_path / "b", x=bytes(content))) != before) == detected


def test_a_request_is_sent_as_json():
    request = PreflightRequest("p", "/r", ("/d",), VERSIONS, ("numpy>=1",))
    assert PreflightRequest(**json.loads(request_text(request))) == replace(
        request, data=["/d"], requirements=["numpy>=1"]
    )


def test_a_node_without_torch_can_be_checked():
    """Otherwise the check would fail before it can report that torch is missing."""
    code = "import sys; sys.modules['torch'] = None; import cluster.preflight, cluster.connection"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
