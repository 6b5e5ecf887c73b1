"""What is request of every node, on nodes that are folders: each runs the real functions on real files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cluster import preflight
from cluster.preflight import PreflightRequest, check, data_fingerprint, notes_of, problems_of, request_text

VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0+cpu"}


@dataclass
class World:
    """Stands in for `ray`: nodes are letters, and `place` says where each finds what is request for at a path."""

    monkeypatch: pytest.MonkeyPatch
    names: tuple[str, ...]
    place: Callable[[str, str], str] = lambda node, path: path
    dead: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    request: list[str] = field(default_factory=list)

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
        world = self

        @dataclass(frozen=True)
        class DataSpecificMetrics:
            node: str = ""

            def options(self, *, num_cpus: float, max_retries: int, scheduling_strategy: Any) -> DataSpecificMetrics:
                assert (num_cpus, scheduling_strategy.soft) == (0, False)
                return DataSpecificMetrics(scheduling_strategy.node_id[0])

            def remote(self, question: PreflightRequest, *rest: Any) -> Any:
                return world.run(self.node, function, question, *rest)

        return DataSpecificMetrics()

    def run(self, node: str, function: Any, question: PreflightRequest, *rest: Any) -> Any:
        self.request.append(node)
        if node in self.silent:
            return RuntimeError(f"{node}\nis lost.")
        results = self.place(node, question.results) if question.results else None
        data = [self.place(node, path) for path in question.data]
        self.monkeypatch.setattr(preflight, "_node", lambda: node * 56)
        answer = function(replace(question, results=results, data=data), *rest)
        if isinstance(answer, dict):
            answer["data"] = dict(zip(question.data, answer["data"].values(), strict=True))
        return answer

    def wait(self, request: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert len(request) == num_returns
        return request, []

    def get(self, answer: Any) -> Any:
        if isinstance(answer.value, Exception):
            raise answer.value
        return answer.value


@dataclass(frozen=True, eq=False)
class Reference:
    """Of what a task answers; its identity is all that is compared."""

    value: Any


@pytest.fixture
def world(monkeypatch):
    monkeypatch.setattr(preflight, "APPEAR_SECONDS", 0.1)

    def make(*names: str, **given: Any) -> World:
        built = World(monkeypatch, names, **given)
        run = built.run
        built.run = lambda *arguments: Reference(run(*arguments))  # type: ignore[method-assign]
        return built

    return make


def question(**changes: Any) -> PreflightRequest:
    from importlib.metadata import version
    from platform import python_version

    values = {"probe": ".probe", "results": None, "data": (), "requirements": ()}
    versions = {"python": python_version(), "ray": version("ray"), "torch": version("torch")}
    return PreflightRequest(**(values | {"versions": versions} | changes))


class TestNodes:
    def test_all_is_well_on_shared_results(self, world, tmp_path):
        reports = check(world("a", "b", "c"), question(results=str(tmp_path / "results"), requirements=("numpy>=1",)))
        assert [report["problems"] for report in reports] == [[], [], []]
        assert [(report["address"], report["head"]) for report in reports] == [
            ("10.0.0.2", True),
            ("10.0.0.0", False),
            ("10.0.0.1", False),
        ]
        assert all(report["free_bytes"] > 0 and report["versions"]["numpy"] for report in reports)
        assert list((tmp_path / "results").iterdir()) == []
        assert json.dumps(reports)

    def test_results_that_are_not_shared(self, world, tmp_path):
        """Node c has a folder of its own under the same path."""
        own = tmp_path / "own"

        def place(node: str, path: str) -> str:
            return str(own) if node == "c" else path

        reports = check(world("a", "b", "c", place=place), question(results=str(tmp_path / "results")))
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert all(len(found) == 1 and "one folder that all nodes share" in found[0] for found in problems.values())
        assert "files of 10.0.0.0, 10.0.0.1 are not seen here" in problems["c"][0]
        assert "files of 10.0.0.2 are not seen here" in problems["a"][0]
        assert list(own.iterdir()) == []

    def test_results_that_cannot_be_written(self, world, tmp_path):
        (tmp_path / "file").write_text("")

        def place(node: str, path: str) -> str:
            return str(tmp_path / "file" / "below") if node == "b" else path

        reports = check(world("a", "b", place=place), question(results=str(tmp_path / "results")))
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert problems["a"] == []
        assert "Results must be written at" in problems["b"][0]

    def test_data_that_differ_or_are_missing(self, world, tmp_path):
        for name, text in {"a": "one", "b": "one", "c": "two"}.items():
            (tmp_path / name).mkdir()
            (tmp_path / name / "train.txt").write_text(text)

        reports = check(
            world("a", "b", "c", "d", place=lambda node, path: str(tmp_path / node)), question(data=("/data",))
        )
        problems = {report["node_id"][0]: report["problems"] for report in reports}
        assert problems["a"] == problems["b"] == []
        assert "The data at /data must be the same on every node" in problems["c"][0]
        assert "The data must be at /data, but no readable file is" in problems["d"][0]

    def test_a_lost_node_is_told_and_a_dead_one_not_asked(self, world, tmp_path):
        request = world("a", "b", "c", silent=("a",), dead=("b",))
        reports = check(request, question(results=str(tmp_path / "results")))
        assert {report["node_id"][0] for report in reports} == {"a", "c"}
        [lost] = [report for report in reports if report["node_id"][0] == "a"]
        assert lost["problems"] == [
            "The node must answer, but fails (a is lost). Look at its raylet's log; data of many "
            "files take long, and --no-check leaves them out."
        ]
        assert "b" not in request.request

    def test_a_check_that_is_broken_off_leaves_nothing(self, world, tmp_path, monkeypatch):
        def interrupted(*given: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(preflight, "see", interrupted)
        with pytest.raises(KeyboardInterrupt):
            check(world("a", "b"), question(results=str(tmp_path / "results")))
        assert list((tmp_path / "results").iterdir()) == []

    def test_data_that_cannot_be_reached_are_data_that_are_missing(self, monkeypatch):
        def denied(path: Path) -> bool:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "is_dir", denied)
        assert data_fingerprint("/root/of/another") is None


def report(**changes: Any) -> dict[str, Any]:
    values = {"versions": dict(VERSIONS), "data": {}, "write_error": None, "free_bytes": 2**40, "gpus": []}
    return values | {"resources": {"CPU": 4.0}, "missing": []} | changes


def problems(versions: dict[str, str | None], *requirements: str) -> list[str]:
    request = PreflightRequest("p", None, (), VERSIONS, requirements)
    return problems_of(report(versions=VERSIONS | versions), request, [])


class TestVersions:
    def test_as_on_the_client(self):
        assert problems({}, "ray[default,tune]<2.61,>=2.60", "torch>=2.8") == []

    def test_the_patch_of_python_may_differ(self):
        assert problems({"python": "3.11.99"}) == []

    @pytest.mark.parametrize("python", ["3.12.0", "3.1.11", "4.11.7"])
    def test_its_minor_version_may_not(self, python):
        assert problems({"python": python})[0].startswith(f"Python must be 3.11, as on the client, but is {python}.")

    @pytest.mark.parametrize("ray", ["2.60.1", "2.59.0", None])
    def test_ray_is_the_same(self, ray):
        assert problems({"ray": ray}) == [
            f"Ray must be 2.60.0, as on the client, but is {ray}. pip install ray==2.60.0"
        ]

    def test_requirements_hold(self):
        assert problems({"x": "1.9"}, "x>=1,<2") == []
        assert problems({"x": "2.0"}, "x>=1,<2") == ["x must be <2,>=1, but is 2.0. pip install 'x>=1,<2'"]
        assert problems({"x": None}, "x>=1") == ["x must be installed, but is not. pip install 'x>=1'"]

    def test_every_mistake_is_told_at_once(self):
        assert len(problems({"python": "3.9.0", "ray": "1.0", "x": "1", "y": None}, "x>2", "y")) == 4

    def test_another_torch_is_noted(self):
        request = PreflightRequest("p", None, (), VERSIONS)
        assert notes_of(report(versions=VERSIONS | {"torch": "2.13.0+cu126"}), request) == []
        [note] = notes_of(report(versions=VERSIONS | {"torch": "2.12.1+cu126"}), request)
        assert note.startswith("torch is 2.12.1+cu126, and 2.13.0+cpu on the client")

    def test_gpus_that_ray_does_not_know_are_noted(self):
        gpus = [{"name": "H200", "memory_bytes": 2**37}] * 2
        request = PreflightRequest("p", None, (), VERSIONS)
        assert notes_of(report(gpus=gpus), request) == ["2 GPUs are there, but Ray was told of 0."]
        assert notes_of(report(gpus=gpus, resources={"GPU": 2.0}), request) == []

    def test_a_full_disk(self):
        request = PreflightRequest("p", "/r", (), VERSIONS)
        assert problems_of(report(free_bytes=2**29), request, []) == [
            "1 GiB must be free for results, but 512 MiB are. Make room."
        ]
        assert problems_of(report(free_bytes=None), request, []) == []


class TestGpus:
    def test_what_nvidia_smi_says(self, tmp_path, monkeypatch):
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771'\necho 'Odd, name, 100'\necho 'Broken, [N/A]'\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        assert list(preflight._gpus()) == [
            {"name": "NVIDIA H200", "memory_bytes": 143771 * 2**20},
            {"name": "Odd, name", "memory_bytes": 100 * 2**20},
        ]

    @pytest.mark.parametrize("script", [None, "exit 9"])
    def test_none_where_it_is_missing_or_fails(self, tmp_path, monkeypatch, script):
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

    def test_is_of_names_and_content_wherever_they_lie(self, tmp_path):
        one = data_fingerprint(self.folder(tmp_path / "one", train=b"a", test=b"b"))
        assert one == data_fingerprint(self.folder(tmp_path / "two", test=b"b", train=b"a"))
        assert len({one, *(data_fingerprint(path) for path in self.others(tmp_path))}) == 5

    def others(self, root: Path) -> list[str]:
        return [
            self.folder(root / "content", train=b"a", test=b"c"),
            self.folder(root / "moved", train=b"ab", test=b""),
            self.folder(root / "named", train=b"a", valid=b"b"),
            self.folder(root / "fewer", train=b"a"),
        ]

    def test_of_one_file(self, tmp_path):
        self.folder(tmp_path / "a", x=b"1")
        self.folder(tmp_path / "b", y=b"1")
        assert data_fingerprint(str(tmp_path / "a" / "x")) == data_fingerprint(str(tmp_path / "b" / "y")) is not None

    def test_nothing_has_none(self, tmp_path):
        (tmp_path / "empty").mkdir()
        assert data_fingerprint(str(tmp_path / "empty")) is None
        assert data_fingerprint(str(tmp_path / "missing")) is None

    @pytest.mark.parametrize(
        ("size", "changed", "seen"), [(16, 9, True), (40, 7, True), (40, 39, True), (40, 20, False)]
    )
    def test_large_files_by_their_ends(self, tmp_path, monkeypatch, size, changed, seen):
        monkeypatch.setattr(preflight, "WHOLE_BYTES", 16)
        content = bytearray(size)
        before = data_fingerprint(self.folder(tmp_path / "a", x=bytes(content)))
        content[changed] = 1
        assert (data_fingerprint(self.folder(tmp_path / "b", x=bytes(content))) != before) == seen


def test_the_question_travels_as_json():
    request = PreflightRequest("p", "/r", ("/d",), VERSIONS, ("numpy>=1",))
    assert PreflightRequest(**json.loads(request_text(request))) == replace(
        request, data=["/d"], requirements=["numpy>=1"]
    )
