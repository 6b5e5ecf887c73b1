"""Sweeps as jobs of a real head node that requires a token."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from heads import TRIAL, Head, lagvae, running_head, spec_of, sweep, until
from helpers import rejects
from processes import Ended

from cluster.access import Endpoint, Token
from cluster.job_package import LIMIT_BYTES, PackageTooLarge, packed
from cluster.jobs import Cluster, Job
from sweeps.execution import attempts, cluster_paths, jobs, preflight
from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

HOSTILE = "res $(touch pwned) `touch pwned`; touch pwned & '\" ü \\ *"
"""Name of a folder. No shell may interpret it."""


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as started:
        yield started


def write(path: Path, **changes: Any) -> str:
    path.write_text(sweep(**changes))
    return str(path)


def rows(results: Path, name: str) -> list[dict[str, Any]]:
    return ResultsFolder(str(results), name).runs()


@dataclass(frozen=True)
class Story:
    """The commands of one sweep that is not disturbed.

    Args:
        results: Results folder.
        first: The first submission.
        again: A second submission, while the sweep runs.
        other: The submission of another version, while the sweep runs.
        argv: Command lines of the cluster's processes, while the sweep runs.
        followed: `logs -f`.
        status: `status` at the end.
    """

    results: Path
    first: Ended
    again: Ended
    other: Ended
    argv: list[bytes]
    followed: Ended
    status: Ended

    @property
    def submission_id(self) -> str:
        return str(json.loads(self.first.stdout)["submission_id"])


@pytest.fixture(scope="module")
def story(head, tmp_path_factory) -> Story:
    here = tmp_path_factory.mktemp("story")
    spec, results = write(here / "tiny.yaml"), here / HOSTILE
    options = ("--address", head.url, "--results", str(results))
    first = lagvae("submit", spec, *options, "--json")
    assert first.returncode == 0, first.stderr
    again = lagvae("submit", spec, *options)
    other = lagvae("submit", spec, *options, "--set", "search.seed=1")
    until(lambda: bool(head.drivers()), "the driver runs")
    argv = list(head.commands().values())
    followed = lagvae("logs", "tiny", "-f", "--address", head.url)
    return Story(
        results, first, again, other, argv, followed, lagvae("status", "tiny", "--address", head.url, "--json")
    )


class TestASweep:
    def test_it_is_submitted_after_a_check_of_the_nodes(self, story):
        submission = json.loads(story.first.stdout)
        assert (submission["status"], submission["attempt"]) == ("submitted", 1)
        assert 100_000 < submission["upload_bytes"] < LIMIT_BYTES
        assert story.first.stderr.startswith("ok ")
        assert "2 cores" in story.first.stderr

    def test_a_second_submission_reports_the_running_job(self, story):
        assert story.again.returncode == 0
        assert story.submission_id in story.again.stdout

    def test_another_version_of_a_running_sweep_is_refused(self, story):
        assert story.other.returncode == 2
        assert "SPEC: " in story.other.stderr
        assert story.submission_id in story.other.stderr

    def test_following_its_log_ends_when_it_ends(self, story):
        assert story.followed.returncode == 0, story.followed.stderr
        assert "Pareto front of tiny" in story.followed.stdout
        assert story.followed.stderr == "tiny: SUCCEEDED\n"

    def test_the_table_is_complete(self, story):
        table = rows(story.results, "tiny")
        assert {row["status"] for row in table} == {"finished"}
        assert {row["attempt"] for row in table} == {1}
        assert len({row["run_id"] for row in table}) == len(table) == 2 + 6

    def test_rows_contain_the_version_of_the_uploaded_code(self, story):
        origin = jobs.code_origin()
        for row in rows(story.results, "tiny"):
            assert {name: row[name] for name in origin} == origin

    def test_the_status_counts_rows(self, story):
        status = json.loads(story.status.stdout)
        assert (status["status"], status["attempt"], status["rows"]) == ("SUCCEEDED", 1, {"finished": 8})
        assert status["started_at"] < status["ended_at"]

    def test_no_shell_interprets_the_name_of_the_results(self, head, story):
        assert story.results.is_dir()
        assert not [path for root in (story.results.parent, head.token.parent) for path in root.rglob("pwned*")]

    def test_it_is_listed(self, head, story):
        listed = json.loads(lagvae("list", "--address", head.url, "--json").stdout)
        assert [entry["submission_id"] for entry in listed if entry["sweep"] == "tiny"] == [story.submission_id]
        assert HOSTILE in lagvae("list", "--address", head.url).stdout

    def test_the_name_of_a_job_cannot_be_used_twice(self, head, story):
        with packed({"sweep.yaml": ""}, ()) as package:
            assert not head.cluster().submit(story.submission_id, ["true"], package, {}, {})


class TestTheToken:
    PATHS = (
        *("/api/jobs/", "/api/v0/jobs?detail=1", "/api/v0/actors?detail=1", "/api/v0/tasks?detail=1"),
        *("/api/v0/runtime_envs?detail=1", "/api/v0/workers?detail=1", "/api/v0/nodes?detail=1", "/logical/actors"),
        *("/nodes?view=summary", "/api/cluster_status", "/api/v0/cluster_events?detail=1"),
    )
    """Paths of the dashboard that describe the cluster."""

    def test_is_in_no_answer_of_the_dashboard(self, head, story):
        paths_of_job = (f"/api/jobs/{story.submission_id}", f"/api/jobs/{story.submission_id}/logs")
        answers = {path: head.ask(path, head.secret) for path in (*self.PATHS, *paths_of_job)}
        assert {path: status for path, (status, _) in answers.items() if status != 200} == {}
        assert story.submission_id in answers["/api/jobs/"][1]
        assert [path for path, (_, text) in answers.items() if head.secret in text] == []

    def test_is_in_no_command_line(self, head, story):
        assert any(b"sweeps\0run" in argv for argv in story.argv)
        assert [argv for argv in story.argv if head.secret.encode() in argv] == []

    def test_is_in_no_other_file(self, head, story):
        secret = head.secret.encode()
        files = [path for path in head.token.parent.rglob("*") if path.is_file() and path.stat().st_size < 10**7]
        assert len(files) > 20
        assert [path for path in files if secret in path.read_bytes()] == [head.token]

    def test_is_masked_in_a_log(self, head):
        cluster, name = head.cluster(), "prints-its-token"
        with packed({"nothing": ""}, ("cluster",)) as package:
            cluster.submit(name, ["cat", str(head.token)], package, {}, {})
        job = cluster.wait(name, 60)
        assert job.status == "SUCCEEDED", job.message
        for log in (cluster.log(name), "".join(cluster.follow(name))):
            assert "[token]" in log
            assert head.secret not in log

    @pytest.mark.parametrize("secret", [None, "0" * 64])
    def test_every_request_without_it_is_refused(self, head, story, secret):
        job = f"/api/jobs/{story.submission_id}"
        requests = [("GET", path) for path in (*self.PATHS, "/api/version", job, f"{job}/logs", f"{job}/logs/tail")]
        requests += [
            ("POST", "/api/jobs/"),
            ("POST", f"{job}/stop"),
            ("DELETE", job),
            ("PUT", "/api/packages/gcs/x.zip"),
        ]
        answers = {(method, path): head.ask(path, secret, method) for method, path in requests}
        assert {status for status, _ in answers.values()} == {401 if secret is None else 403}
        assert not [text for _, text in answers.values() if story.submission_id in text or head.secret in text]

    @pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop", "list", "check"])
    def test_a_wrong_one_is_reported_in_one_line(self, head, story, tmp_path, monkeypatch, verb):
        wrong = tmp_path / "wrong"
        wrong.touch(mode=0o600)
        wrong.write_text("0" * 64)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
        spec = write(tmp_path / "tiny.yaml")
        arguments = {"submit": ["submit", spec, "--results", "/r"], "list": ["list"], "check": ["cluster", "check"]}
        ended = lagvae(*arguments.get(verb, [verb, "tiny"]), "--address", head.url)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert str(wrong) in ended.stderr
        assert "0" * 64 not in ended.stderr

    def test_addresses_of_the_environment_are_ignored(self, head, story, monkeypatch):
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert lagvae("list", "--address", head.url).returncode == 0
        assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


class TestNodes:
    def test_problems_of_a_node_prevent_a_submission(self, head, tmp_path, monkeypatch):
        monkeypatch.setattr(preflight, "requirements", lambda: ("numpy<1", "no-such-package-of-ours>=2"))
        spec, data = write(tmp_path / "unequal.yaml", name="unequal"), tmp_path / "nothing"
        monkeypatch.setattr(preflight, "preflight", with_data(preflight.preflight, [str(data)]))
        ended = lagvae("submit", spec, "--address", head.url, "--results", str(tmp_path / "results"))
        assert ended.returncode == 2
        assert "FAIL" in ended.stderr
        for where in ("numpy", "no-such-package-of-ours", str(data)):
            assert f" {where}: " in ended.stderr
        assert "--no-check" in ended.stderr
        assert not [job for job in head.cluster().jobs() if "unequal" in job.submission_id]
        assert list((tmp_path / "results").iterdir()) == []


def with_data(function: Any, more_data: list[str]) -> Any:
    """Wrap the function `preflight` so that it also checks `more_data`."""
    return lambda cluster, results, data: function(cluster, results, [*data, *more_data])


@pytest.mark.slow
class TestInterruptions:
    def test_a_killed_and_stopped_sweep_resumes_and_repeats_no_run(self, head, tmp_path):
        """One long test, because each part depends on the one before."""
        results = tmp_path / "results"
        trial = TRIAL | {"training": {"epochs": 200}}
        spec = write(tmp_path / "long.yaml", name="long", trial=trial)
        address = ("--address", head.url)

        def submit() -> str:
            ended = lagvae("submit", spec, *address, "--results", str(results), "--no-check", "--json")
            assert ended.returncode == 0, ended.stderr
            submission = json.loads(ended.stdout)
            assert submission["status"] == "submitted"
            return str(submission["submission_id"])

        def states() -> list[str]:
            return [row["status"] for row in rows(results, "long")] if results.exists() else []

        def ended_rows() -> dict[str, Any]:
            return {row["run_id"]: row for row in rows(results, "long") if row["status"] in ENDED}

        first = submit()
        until(
            lambda: "finished" in states() and "running" in states(), "one run has finished and another one is running"
        )
        [driver] = head.drivers()
        os.kill(driver, signal.SIGKILL)
        assert head.cluster().wait(first, 60).status == "FAILED"
        before = ended_rows()
        assert lagvae("logs", "long", "-f", *address).returncode == 1

        second = submit()
        assert (first[-2:], second[-2:]) == ("-1", "-2")
        until(lambda: len(ended_rows()) > len(before) and "running" in states(), "the second attempt finishes a run")
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        followed = lagvae("logs", "long", "-f", *address)
        assert followed.returncode == 130
        assert "Traceback" not in followed.stderr
        assert head.cluster().job(second).active
        stopped = lagvae("stop", "long", *address)
        assert stopped.returncode == 0, stopped.stderr
        assert head.cluster().job(second).status == "STOPPED"
        # Between two runs there may be none to interrupt. No row may still have the status `running`.
        assert set(states()) <= {"finished", "interrupted"}
        assert "STOPPED" in lagvae("stop", "long", *address).stdout
        before = before | ended_rows()

        third = submit()
        assert third[-2:] == "-3"
        followed = lagvae("logs", "long", "-f", *address)
        assert followed.returncode == 0, followed.stderr
        table = rows(results, "long")
        assert [row["status"] for row in table] == ["finished"] * 8
        assert len({row["run_id"] for row in table}) == 8
        assert {run_id: row for run_id, row in ended_rows().items() if run_id in before} == before
        assert any(row["attempt"] > 1 for row in table)


class TestUpload:
    def cluster(self, taken: int = 0, jobs: tuple[Job, ...] = ()) -> Any:
        """Return a fake cluster on which another user takes the first `taken` names; its `jobs` are listed then."""

        class Fake:
            def __init__(self) -> None:
                self.sent: list[Any] = []

            def jobs(self) -> list[Job]:
                return list(jobs) if len(self.sent) >= taken else []

            def submit(self, name: str, entrypoint: list[str], package: Any, metadata: Any, environment: Any) -> bool:
                files = {str(path.relative_to(package.working_dir)) for path in package.working_dir.rglob("*")}
                text = (package.working_dir / "sweep.yaml").read_text()
                self.sent.append((name, entrypoint, files, text, metadata, [path.name for path in package.packages]))
                return len(self.sent) > taken

        return Fake()

    def test_contains_only_the_sweep_file_and_the_three_packages(self):
        cluster, spec = self.cluster(), spec_of()
        submission = jobs.submit(cluster, spec, "/shared/results")
        [(name, _, files, text, metadata, packages)] = cluster.sent
        assert files == {"sweep.yaml"}
        assert text == spec.source
        assert packages == ["lagvae_core", "sweeps", "cluster"]
        assert set(metadata) == {"sweep", "results", "spec", "lagvae_version", "client"}
        assert submission == jobs.Submission(name, 1, True, submission.size_bytes)

    def test_a_time_limit_retry_and_first_points_reach_the_command_of_the_job(self):
        cluster = self.cluster()
        jobs.submit(cluster, spec_of(), "/shared/results", retry=True, duration="1h 30m", points_from="earlier")
        [(_, command, *_)] = cluster.sent
        assert command[3] == "retry"
        assert command[-4:] == ["--for", "1h 30m", "--points-from", "earlier"]

    def test_the_shell_of_the_head_passes_arguments_unchanged(self, tmp_path):
        submitted: dict[str, Any] = {}

        class Client:
            def submit_job(self, **options: Any) -> None:
                submitted.update(options)

        command = ["python", "-m", "sweeps", f"/{HOSTILE}", "a\nb", "", "~", "$HOME", "-x"]
        with packed({"f": ""}, ()) as package:
            Cluster(Endpoint("http://127.0.0.1:1"), Token("a file", "s"), Client()).submit(
                "n", command, package, {}, {}
            )
        (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
        (tmp_path / "python").chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/nowhere"}
        printed = subprocess.run(
            submitted["entrypoint"],
            shell=True,
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert printed.stdout.split("\0")[:-1] == command[1:]
        assert [path.name for path in tmp_path.iterdir()] == ["python"]
        assert (submitted["entrypoint_num_cpus"], submitted["entrypoint_num_gpus"]) == (0, 0)

    def test_the_second_of_two_users_gets_the_job_of_the_first(self):
        spec = spec_of()
        name = f"{attempts.lineage_of('tiny', '/r')}-1"
        running = Job(name, "PENDING", "", {"spec": spec.hash}, None, None, None)
        cluster = self.cluster(taken=1, jobs=(running,))
        assert jobs.submit(cluster, spec, "/r") == jobs.Submission(name, 1, False, 0)

    def test_contains_no_bytecode_and_no_hidden_files(self):
        with packed({"f": ""}, jobs.PACKAGES) as package:
            files = [path for folder in package.packages for path in folder.rglob("*")]
            assert len(files) > 100
            assert not [path for path in files if "__pycache__" in path.parts or path.name.startswith(".")]
            assert package.size_bytes == sum(path.stat().st_size for path in files if path.is_file())
        assert not package.working_dir.exists()

    def test_is_refused_if_it_is_too_large(self):
        with (
            pytest.raises(PackageTooLarge, match="work/f"),
            packed({"f": "x" * (LIMIT_BYTES + 1)}, ()),
        ):
            pass


class TestInput:
    @pytest.mark.parametrize(
        "results",
        [
            None,
            "",
            "results",
            "../results",
            "~/results",
            "/a\nb",
            "/a\0b",
            "/" + "x" * 1000,
            "/",
            "//.",
            "file:///",
            "nonsense://x",
            "s3://",
        ],
    )
    def test_results_that_nodes_cannot_share(self, results):
        with rejects("--results"):
            cluster_paths.check_results(results)

    @pytest.mark.parametrize(
        "uri",
        [
            *(
                "s3://AKIA:hunter2@bucket/r",
                "s3://hunter2@bucket/r",
                "s3://bucket/r?secret_key=hunter2",
                "gs://hunter2@b/r",
            ),
            *("abfs://:hunter2@account/r", "s3://b/r?endpoint_override=x&token=hunter2", "s3://[hunter2/r"),
        ],
    )
    def test_results_with_a_secret(self, uri):
        with rejects("--results") as issues:
            cluster_paths.check_results(uri)
        assert "hunter2" not in str(issues[0])
        assert issues[0].hint

    @pytest.mark.parametrize(
        ("results", "normal"),
        [
            *(
                (results, "/shared/results")
                for results in ("/shared/results/", "//shared//./results", "/shared/x/../results")
            ),
            ("file:///shared/my%20r/", "/shared/my r"),
            ("s3://bucket/r?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9000",) * 2,
        ],
    )
    def test_the_normal_form_of_results(self, results, normal):
        assert cluster_paths.check_results(results) == normal

    @pytest.mark.parametrize("name", ["$(touch x)", "a\nb", "../up", "a/b", "-rf", "n" * 300, "ü", "", "a b"])
    def test_hostile_names_of_a_sweep_are_refused(self, tmp_path, name):
        ended = lagvae(
            "submit", write(tmp_path / "s.yaml", name=name), "--address", "http://127.0.0.1:1", "--results", "/r"
        )
        assert ended.returncode == 2
        assert "name: " in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_data_on_the_cluster_need_not_exist_here(self):
        trial = TRIAL | {"data": {"kind": "text", "path": "/only/on/the/cluster"}}
        assert cluster_paths.data_path(spec_of(trial=trial)) == "/only/on/the/cluster"
        assert cluster_paths.data_path(spec_of()) is None

    @pytest.mark.parametrize("path", ["data", "./data", "~/data", "../data"])
    def test_a_relative_path_of_data_is_refused(self, path):
        with rejects("trial.data.path") as issues:
            cluster_paths.data_path(spec_of(trial=TRIAL | {"data": {"kind": "text", "path": path}}))
        assert issues[0].value == path

    def test_all_relative_paths_are_reported_together(self, tmp_path):
        spec = write(tmp_path / "s.yaml", trial=TRIAL | {"data": {"kind": "text", "path": "data"}})
        for command, key in ((["submit", spec], "trial.data.path"), (["cluster", "check", "--data", "data"], "--data")):
            ended = lagvae(*command, "--address", "http://127.0.0.1:1", "--results", "results")
            assert ended.returncode == 2
            assert "--results: " in ended.stderr
            assert f"{key}: " in ended.stderr

    def test_a_run_too_large_for_every_node_is_not_submitted(self, head, tmp_path):
        spec = write(tmp_path / "wide.yaml", name="wide", resources={"cpus": 64})
        ended = lagvae("submit", spec, "--address", head.url, "--results", str(tmp_path / "results"))
        assert ended.returncode == 2
        assert "resources.cpus: " in ended.stderr
        assert "resources.concurrent" in ended.stderr
        assert not [job for job in head.cluster().jobs() if "wide" in job.submission_id]

    def test_a_run_may_fit_on_nodes_that_the_cluster_adds_later(self):
        nodes = {"nodes": [{"resources": {"CPU": 0.0, "GPU": 0.0}}]}
        with rejects("resources.cpus") as issues:
            preflight.check_report_fits(spec_of(), nodes)
        assert "resources.concurrent" in issues[0].hint
        preflight.check_report_fits(spec_of(resources={"concurrent": 8}), nodes)

    def test_an_unknown_sweep(self, head):
        ended = lagvae("status", "nobody", "--address", head.url)
        assert ended.returncode == 2
        assert "SWEEP: " in ended.stderr
        assert "nobody" in ended.stderr

    def test_several_results_of_a_sweep_need_the_option_results(self):
        jobs = tuple(
            Job(f"{attempts.lineage_of('tiny', where)}-1", "SUCCEEDED", "", {"results": where}, None, None, None)
            for where in ("/a", "/b")
        )
        cluster = TestUpload().cluster(jobs=jobs)
        with rejects("SWEEP") as issues:
            attempts.find_attempt(cluster, "tiny", None)
        assert all(text in issues[0].hint for text in ("--results", "/a", "/b"))
        assert attempts.find_attempt(cluster, "tiny", "/b").results == "/b"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", -9, 1)],
)
def test_the_exit_code_is_that_of_the_command_in_the_job(status, code, expected):
    job = Job("lagvae-x-00000000-1", status, "", {}, None, None, code)
    assert attempts.Attempt("x", 1, job).exit_code == expected
