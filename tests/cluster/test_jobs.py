"""Sweeps as jobs of a real head node that asks for a token."""

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
from processes import Ended

from cluster.access import Endpoint, Token
from cluster.job_package import LIMIT_BYTES, PackageTooLarge, packed
from cluster.jobs import Cluster, Job
from lagvae_core.errors import ConfigError
from sweeps.execution import attempts, cluster_paths, jobs, preflight
from sweeps.storage.schema import ENDED
from sweeps.storage.table import ResultsFolder

HOSTILE = "res $(touch pwned) `touch pwned`; touch pwned & '\" ü \\ *"
"""A folder's name that a shell must never read."""


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
    """What happened to one sweep that nobody disturbed."""

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
    to = ("--address", head.url, "--results", str(results))
    first = lagvae("submit", spec, *to, "--json")
    assert first.returncode == 0, first.stderr
    again = lagvae("submit", spec, *to)
    other = lagvae("submit", spec, *to, "--set", "search.seed=1")
    until(lambda: bool(head.drivers()), "the driver runs")
    argv = list(head.commands().values())
    followed = lagvae("logs", "tiny", "-f", "--address", head.url)
    return Story(
        results, first, again, other, argv, followed, lagvae("status", "tiny", "--address", head.url, "--json")
    )


class TestASweep:
    def test_it_is_submitted_after_a_look_at_the_nodes(self, story):
        told = json.loads(story.first.stdout)
        assert (told["status"], told["attempt"]) == ("submitted", 1)
        assert 100_000 < told["upload_bytes"] < LIMIT_BYTES
        assert story.first.stderr.startswith("ok ")
        assert "2 cores" in story.first.stderr

    def test_a_second_submission_hears_that_it_is_running(self, story):
        assert story.again.returncode == 0
        assert f"tiny is running already as {story.submission_id}" in story.again.stdout

    def test_another_version_of_what_is_running_is_refused(self, story):
        assert story.other.returncode == 2
        assert "that is another version of the sweep, but is 'tiny (hash " in story.other.stderr

    def test_following_it_ends_with_it(self, story):
        assert story.followed.returncode == 0, story.followed.stderr
        assert "Pareto front of tiny" in story.followed.stdout
        assert story.followed.stderr == "tiny: SUCCEEDED\n"

    def test_the_table_is_complete(self, story):
        table = rows(story.results, "tiny")
        assert {row["status"] for row in table} == {"finished"}
        assert {row["attempt"] for row in table} == {1}
        assert len({row["run_id"] for row in table}) == len(table) == 2 + 6

    def test_rows_know_the_version_that_travelled(self, story):
        told = jobs.code_origin()
        for row in rows(story.results, "tiny"):
            assert {name: row[name] for name in told} == told

    def test_the_status_counts_rows(self, story):
        told = json.loads(story.status.stdout)
        assert (told["status"], told["attempt"], told["rows"]) == ("SUCCEEDED", 1, {"finished": 8})
        assert told["started_at"] < told["ended_at"]

    def test_no_shell_read_the_name_of_the_results(self, head, story):
        assert story.results.is_dir()
        assert not [path for root in (story.results.parent, head.token.parent) for path in root.rglob("pwned*")]

    def test_it_is_listed(self, head, story):
        listed = json.loads(lagvae("list", "--address", head.url, "--json").stdout)
        assert [entry["submission_id"] for entry in listed if entry["sweep"] == "tiny"] == [story.submission_id]
        assert HOSTILE in lagvae("list", "--address", head.url).stdout

    def test_a_name_that_is_taken_is_not_taken_twice(self, head, story):
        with packed("sweep.yaml", "", ()) as package:
            assert not head.cluster().submit(story.submission_id, ["true"], package, {}, {})


class TestTheToken:
    EVERYWHERE = (
        *("/api/jobs/", "/api/v0/jobs?detail=1", "/api/v0/actors?detail=1", "/api/v0/tasks?detail=1"),
        *("/api/v0/runtime_envs?detail=1", "/api/v0/workers?detail=1", "/api/v0/nodes?detail=1", "/logical/actors"),
        *("/nodes?view=summary", "/api/cluster_status", "/api/v0/cluster_events?detail=1"),
    )
    """What the dashboard tells."""

    def test_is_in_nothing_that_the_dashboard_tells(self, head, story):
        own = (f"/api/jobs/{story.submission_id}", f"/api/jobs/{story.submission_id}/logs")
        answers = {path: head.ask(path, head.secret) for path in (*self.EVERYWHERE, *own)}
        assert {path: status for path, (status, _) in answers.items() if status != 200} == {}
        assert story.submission_id in answers["/api/jobs/"][1]
        assert [path for path, (_, text) in answers.items() if head.secret in text] == []

    def test_is_in_no_command_line(self, head, story):
        assert any(b"sweeps\0run" in argv for argv in story.argv)
        assert [argv for argv in story.argv if head.secret.encode() in argv] == []

    def test_is_in_no_file_but_its_own(self, head, story):
        secret = head.secret.encode()
        files = [path for path in head.token.parent.rglob("*") if path.is_file() and path.stat().st_size < 10**7]
        assert len(files) > 20
        assert [path for path in files if secret in path.read_bytes()] == [head.token]

    def test_does_not_come_back_in_a_log(self, head):
        cluster, name = head.cluster(), "prints-its-token"
        with packed("nothing", "", ("cluster",)) as package:
            cluster.submit(name, ["cat", str(head.token)], package, {}, {})
        job = cluster.wait(name, 60)
        assert job.status == "SUCCEEDED", job.message
        for log in (cluster.log(name), "".join(cluster.follow(name))):
            assert "[token]" in log
            assert head.secret not in log

    @pytest.mark.parametrize("secret", [None, "0" * 64])
    def test_without_it_nothing_is_told_and_nothing_done(self, head, story, secret):
        jobs = f"/api/jobs/{story.submission_id}"
        asked = [
            ("GET", path) for path in (*self.EVERYWHERE, "/api/version", jobs, f"{jobs}/logs", f"{jobs}/logs/tail")
        ]
        asked += [
            ("POST", "/api/jobs/"),
            ("POST", f"{jobs}/stop"),
            ("DELETE", jobs),
            ("PUT", "/api/packages/gcs/x.zip"),
        ]
        answers = {(method, path): head.ask(path, secret, method) for method, path in asked}
        assert {status for status, _ in answers.values()} == {401 if secret is None else 403}
        assert not [text for _, text in answers.values() if story.submission_id in text or head.secret in text]

    @pytest.mark.parametrize("verb", ["submit", "status", "logs", "stop", "list", "check"])
    def test_a_wrong_one_is_told_in_a_sentence(self, head, story, tmp_path, monkeypatch, verb):
        wrong = tmp_path / "wrong"
        wrong.touch(mode=0o600)
        wrong.write_text("0" * 64)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(wrong))
        spec = write(tmp_path / "tiny.yaml")
        words = {"submit": ["submit", spec, "--results", "/r"], "list": ["list"], "check": ["cluster", "check"]}
        ended = lagvae(*words.get(verb, [verb, "tiny"]), "--address", head.url)
        assert ended.returncode == 2
        assert ended.stdout == ""
        assert ended.stderr.count("\n") == 1
        assert f"refuses the token of {wrong}" in ended.stderr
        assert "0" * 64 not in ended.stderr

    def test_addresses_of_the_environment_are_not_asked(self, head, story, monkeypatch):
        for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        assert lagvae("list", "--address", head.url).returncode == 0
        assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"


class TestNodes:
    def test_a_requirement_that_is_not_met_stops_a_submission(self, head, tmp_path, monkeypatch):
        monkeypatch.setattr(preflight, "requirements", lambda: ("numpy<1", "no-such-package-of-ours>=2"))
        spec, data = write(tmp_path / "unequal.yaml", name="unequal"), tmp_path / "nothing"
        monkeypatch.setattr(preflight, "preflight", wrapped(preflight.preflight, [str(data)]))
        ended = lagvae("submit", spec, "--address", head.url, "--results", str(tmp_path / "results"))
        assert ended.returncode == 2
        assert "FAIL" in ended.stderr
        assert "numpy must be <1, but is" in ended.stderr
        assert "no-such-package-of-ours must be installed, but is not. pip install" in ended.stderr
        assert f"The data must be at {data}" in ended.stderr
        assert "nothing was submitted" in ended.stderr
        assert not [job for job in head.cluster().jobs() if "unequal" in job.submission_id]
        assert list((tmp_path / "results").iterdir()) == []


def wrapped(function: Any, data: list[str]) -> Any:
    return lambda cluster, results, given: function(cluster, results, [*given, *data])


class TestInterruptions:
    def test_killed_and_stopped_it_goes_on_and_runs_nothing_twice(self, head, tmp_path):
        """One long story: each part needs the one before."""
        results = tmp_path / "results"
        trial = TRIAL | {"training": {"epochs": 200}}
        spec = write(tmp_path / "long.yaml", name="long", trial=trial)
        to = ("--address", head.url)

        def submitted() -> str:
            ended = lagvae("submit", spec, *to, "--results", str(results), "--no-check", "--json")
            assert ended.returncode == 0, ended.stderr
            told = json.loads(ended.stdout)
            assert told["status"] == "submitted"
            return str(told["submission_id"])

        def states() -> list[str]:
            return [row["status"] for row in rows(results, "long")] if results.exists() else []

        def ended_rows() -> dict[str, Any]:
            return {row["run_id"]: row for row in rows(results, "long") if row["status"] in ENDED}

        first = submitted()
        until(lambda: "finished" in states() and "running" in states(), "a run is finished and another is running")
        [driver] = head.drivers()
        os.kill(driver, signal.SIGKILL)
        assert head.cluster().wait(first, 60).status == "FAILED"
        before = ended_rows()
        assert lagvae("logs", "long", "-f", *to).returncode == 1

        second = submitted()
        assert (first[-2:], second[-2:]) == ("-1", "-2")
        until(lambda: len(ended_rows()) > len(before) and "running" in states(), "the second attempt gets on")
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
        followed = lagvae("logs", "long", "-f", *to)
        assert followed.returncode == 130
        assert "Traceback" not in followed.stderr
        assert head.cluster().job(second).active
        stopped = lagvae("stop", "long", *to)
        assert stopped.returncode == 0, stopped.stderr
        assert "is stopped. Submit it again" in stopped.stdout
        assert head.cluster().job(second).status == "STOPPED"
        # Between two runs there may be none to interrupt; what matters is that none is left as if it ran.
        assert set(states()) <= {"finished", "interrupted"}
        assert "has ended already: STOPPED" in lagvae("stop", "long", *to).stdout
        before = before | ended_rows()

        third = submitted()
        assert third[-2:] == "-3"
        followed = lagvae("logs", "long", "-f", *to)
        assert followed.returncode == 0, followed.stderr
        table = rows(results, "long")
        assert [row["status"] for row in table] == ["finished"] * 8
        assert len({row["run_id"] for row in table}) == 8
        assert {run_id: row for run_id, row in ended_rows().items() if run_id in before} == before
        assert any(row["attempt"] > 1 for row in table)


class TestWhatIsSent:
    def cluster(self, taken: int = 0, jobs: tuple[Job, ...] = ()) -> Any:
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

    def test_the_sweep_alone_and_the_three_packages(self):
        cluster, spec = self.cluster(), spec_of()
        done = jobs.submit(cluster, spec, "/shared/results")
        [(name, _, files, text, metadata, packages)] = cluster.sent
        assert files == {"sweep.yaml"}
        assert text == spec.source
        assert packages == ["lagvae_core", "sweeps", "cluster"]
        assert set(metadata) == {"sweep", "results", "spec", "lagvae_version", "client"}
        assert done == jobs.Submission(name, 1, True, done.size_bytes)

    def test_the_shell_of_the_head_gives_back_what_was_typed(self, tmp_path):
        heard: dict[str, Any] = {}

        class Client:
            def submit_job(self, **given: Any) -> None:
                heard.update(given)

        typed = ["python", "-m", "sweeps", f"/{HOSTILE}", "a\nb", "", "~", "$HOME", "-x"]
        with packed("f", "", ()) as package:
            Cluster(Endpoint("http://127.0.0.1:1"), Token("a file", "s"), Client()).submit("n", typed, package, {}, {})
        (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\0" "$@"\n')
        (tmp_path / "python").chmod(0o755)
        environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/nowhere"}
        shown = subprocess.run(
            heard["entrypoint"], shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert shown.stdout.split("\0")[:-1] == typed[1:]
        assert [path.name for path in tmp_path.iterdir()] == ["python"]
        assert (heard["entrypoint_num_cpus"], heard["entrypoint_num_gpus"]) == (0, 0)

    def test_who_comes_second_hears_of_the_first(self):
        spec = spec_of()
        name = f"{attempts.lineage_of('tiny', '/r')}-1"
        running = Job(name, "PENDING", "", {"spec": spec.hash}, None, None, None)
        cluster = self.cluster(taken=1, jobs=(running,))
        assert jobs.submit(cluster, spec, "/r") == jobs.Submission(name, 1, False, 0)

    def test_no_bytecode_and_nothing_hidden_travels(self):
        with packed("f", "", jobs.PACKAGES) as package:
            files = [path for folder in package.packages for path in folder.rglob("*")]
            assert len(files) > 100
            assert not [path for path in files if "__pycache__" in path.parts or path.name.startswith(".")]
            assert package.size_bytes == sum(path.stat().st_size for path in files if path.is_file())
        assert not package.working_dir.exists()

    def test_data_do_not_travel(self):
        with (
            pytest.raises(PackageTooLarge, match=r"at most 5 MB, but is 5\.0 MB, of which work/f takes 5\.0"),
            packed("f", "x" * (LIMIT_BYTES + 1), ()),
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
        with pytest.raises(ConfigError, match="--results must be"):
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
        with pytest.raises(ConfigError, match="without keys or passwords") as caught:
            cluster_paths.check_results(uri)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            *(
                (given, "/shared/results")
                for given in ("/shared/results/", "//shared//./results", "/shared/x/../results")
            ),
            ("file:///shared/my%20r/", "/shared/my r"),
            ("s3://bucket/r?region=eu-west-1&scheme=http&endpoint_override=127.0.0.1:9000",) * 2,
        ],
    )
    def test_lawful_results(self, given, kept):
        assert cluster_paths.check_results(given) == kept

    @pytest.mark.parametrize("name", ["$(touch x)", "a\nb", "../up", "a/b", "-rf", "n" * 300, "ü", "", "a b"])
    def test_hostile_names_of_a_sweep_are_refused(self, tmp_path, name):
        ended = lagvae(
            "submit", write(tmp_path / "s.yaml", name=name), "--address", "http://127.0.0.1:1", "--results", "/r"
        )
        assert ended.returncode == 2
        assert "name must start with a letter or digit" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_data_lie_on_the_cluster_and_need_not_be_here(self):
        trial = TRIAL | {"data": {"kind": "text", "path": "/only/on/the/cluster"}}
        assert cluster_paths.data_path(spec_of(trial=trial)) == "/only/on/the/cluster"
        assert cluster_paths.data_path(spec_of()) is None

    @pytest.mark.parametrize("path", ["data", "./data", "~/data", "../data"])
    def test_a_relative_path_of_data_means_nothing_there(self, path):
        with pytest.raises(ConfigError, match=r"trial\.data\.path must be an absolute path on the cluster's nodes"):
            cluster_paths.data_path(spec_of(trial=TRIAL | {"data": {"kind": "text", "path": path}}))

    def test_all_that_means_nothing_there_is_told_at_once(self, tmp_path):
        spec = write(tmp_path / "s.yaml", trial=TRIAL | {"data": {"kind": "text", "path": "data"}})
        for command in (["submit", spec], ["cluster", "check", "--data", "data"]):
            ended = lagvae(*command, "--address", "http://127.0.0.1:1", "--results", "results")
            assert ended.returncode == 2
            assert "--results must be an absolute path or a URI" in ended.stderr
            assert "must be an absolute path on the cluster's nodes" in ended.stderr
            assert "2 mistakes" in ended.stderr

    def test_a_run_that_no_node_holds_is_refused_before_anything_is_sent(self, head, tmp_path):
        spec = write(tmp_path / "wide.yaml", name="wide", resources={"cpus": 64})
        ended = lagvae("submit", spec, "--address", head.url, "--results", str(tmp_path / "results"))
        assert ended.returncode == 2
        assert "resources.cpus must be at most the 2 cores there are, but is 64. Lower it, or set" in ended.stderr
        assert not [job for job in head.cluster().jobs() if "wide" in job.submission_id]

    def test_on_a_cluster_that_grows_it_may_fit_on_nodes_to_come(self):
        nodes = {"nodes": [{"resources": {"CPU": 0.0, "GPU": 0.0}}]}
        with pytest.raises(ConfigError, match=r"set resources\.concurrent to the runs that the cluster can grow to"):
            preflight.check_report_fits(spec_of(), nodes)
        preflight.check_report_fits(spec_of(resources={"concurrent": 8}), nodes)

    def test_an_unknown_sweep(self, head):
        ended = lagvae("status", "nobody", "--address", head.url)
        assert ended.returncode == 2
        assert "SWEEP must be a sweep that was submitted to the cluster" in ended.stderr

    def test_a_sweep_with_several_results_must_say_which(self):
        jobs = tuple(
            Job(f"{attempts.lineage_of('tiny', where)}-1", "SUCCEEDED", "", {"results": where}, None, None, None)
            for where in ("/a", "/b")
        )
        cluster = TestWhatIsSent().cluster(jobs=jobs)
        with pytest.raises(ConfigError, match="Say with --results which of /a, /b"):
            attempts.find_attempt(cluster, "tiny", None)
        assert attempts.find_attempt(cluster, "tiny", "/b").results == "/b"


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 130), ("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", -9, 1)],
)
def test_exit_codes_are_those_of_the_command_there(status, code, expected):
    job = Job("lagvae-x-00000000-1", status, "", {}, None, None, code)
    assert attempts.Attempt("x", 1, job).exit_code == expected
