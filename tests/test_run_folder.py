"""Run folders: what is done is what verifies; other runs are refused; a kill at any moment loses one unit at most."""

import json
import os
import time

import pytest

from trueline.files import Busy, Folder, Job, OtherRun, Outcome, RunFolder
from trueline.files.claims import Claims

SETTINGS = {"seed": 1, "size": [64, 64]}
JOBS = [Job(f"units/{number}") for number in range(4)]


def begun(path, settings=SETTINGS, ids=("a", "b"), **options) -> RunFolder:
    return RunFolder(path, "test", settings, ids, **options)


def do(run: RunFolder, job: Job, content: bytes = b"result", **about) -> bool:
    with run.unit(job) as claim:
        assert claim is not None
        return run.keep(claim, job, Outcome({f"{job.id}.bin": content}, **about))


def test_the_manifest_is_there_before_the_first_unit(tmp_path):
    begun(tmp_path)
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert (manifest["command"], manifest["settings"], manifest["ids"]) == ("test", SETTINGS, ["a", "b"])
    assert manifest["hash"] and manifest["begun"]["pid"] == os.getpid() and manifest["begun"]["trueline"]


def test_settings_that_are_secret_are_not_written(tmp_path):
    begun(tmp_path, {"llm": {"api_key": "sk-1", "base_url": "http://me:pw@host/?token=t"}})
    begun(tmp_path, {"llm": {"api_key": "sk-2", "base_url": "http://me:pw@host/?token=t"}})
    text = (tmp_path / "run.json").read_text()
    assert not any(secret in text for secret in ("sk-1", "sk-2", "pw", "token=t"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": {**SETTINGS, "seed": 2}}, r"a run with another seed \(1, now 2\)"),
        ({"settings": {**SETTINGS, "new": True}}, r"a run with another new \(None, now True\)"),
        ({"settings": {"seed": 1}}, r"a run with another size \(\[64, 64\], now None\)"),
        ({"settings": {**SETTINGS, "layouts": "a digest"}}, "a run of other prompts or boxes"),
        ({"ids": ["a"]}, "a run of other units"),
    ],
)
def test_another_run_is_refused(tmp_path, change, said):
    do(begun(tmp_path), JOBS[0])
    with pytest.raises(OtherRun, match=rf"^out: .* holds {said}; give the same, or another folder$"):
        begun(tmp_path, **change)


@pytest.mark.parametrize(
    ("manifest", "said"),
    [
        ("{", "no manifest of a run"),
        ("[]", "no manifest of a run"),
        ('{"schema": 2}', r"of another version of Trueline \(schema 2, now 3\)"),
        ('{"schema": 3, "command": "train"}', "a run of trueline train, not of test"),
    ],
)
def test_a_manifest_of_something_else(tmp_path, manifest, said):
    (tmp_path / "run.json").write_text(manifest)
    with pytest.raises(OtherRun, match=said):
        begun(tmp_path)
    assert (tmp_path / "run.json").read_text() == manifest


def test_a_run_that_made_nothing_gives_way(tmp_path):
    begun(tmp_path)
    run = begun(tmp_path, {"seed": 2})
    do(run, JOBS[0])
    with pytest.raises(OtherRun):
        begun(tmp_path)


def test_what_is_done_is_not_done_again(tmp_path):
    do(begun(tmp_path), JOBS[0])
    run = begun(tmp_path)
    assert run.todo(JOBS) == JOBS[1:]
    with run.unit(JOBS[0]) as claim:
        assert claim is None


@pytest.mark.parametrize("harm", ["truncated", "changed", "gone"])
def test_a_file_that_does_not_verify_is_made_again(tmp_path, harm):
    do(begun(tmp_path), JOBS[0], b"12345")
    path = tmp_path / "units/0.bin"
    stat = path.stat()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(b"123" if harm == "truncated" else b"54321")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (harm == "changed")))
    run = begun(tmp_path)
    assert run.todo(JOBS[:1]) == JOBS[:1]
    assert do(run, JOBS[0], b"12345")
    assert begun(tmp_path).todo(JOBS[:1]) == [] and path.read_bytes() == b"12345"


def test_a_copy_with_other_times_is_whole(tmp_path):
    do(begun(tmp_path), JOBS[0])
    os.utime(tmp_path / "units/0.bin", (1, 1))
    assert begun(tmp_path).done(JOBS[0])


@pytest.mark.parametrize(
    "line", [b'{"unit": "units/1", "fil', b"\xff\xfe\n", b"[1]\n", b'{"unit": "units/1"}\n']
)
def test_half_a_line_of_the_journal_is_none(tmp_path, line):
    do(begun(tmp_path), JOBS[0])
    (journal,) = (tmp_path / "progress/done").iterdir()
    with journal.open("ab") as file:
        file.write(line)
    run = begun(tmp_path)
    assert run.todo(JOBS[:2]) == [JOBS[1]]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    do(begun(tmp_path), JOBS[0])
    (journal,) = (tmp_path / "progress/done").iterdir()
    text = journal.read_bytes()
    journal.write_bytes(text[:-20])
    run = begun(tmp_path)
    assert not run.done(JOBS[0])
    journal.write_bytes(text)
    assert run.todo(JOBS[:1]) == []


def test_a_journal_names_no_file_outside_of_its_folder(tmp_path):
    run = begun(tmp_path / "run")
    (tmp_path / "mine.txt").write_text("mine")
    lines = [{"unit": "x", "begun": ["../mine.txt", str(tmp_path / "mine.txt")]}]
    lines += [{"unit": "y", "files": {"../mine.txt": [4, 0, "0"]}}]
    (run.path / "progress/done/other.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    begun(tmp_path / "run", {"seed": 2}, overwrite=True)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_unit_that_another_took_over_is_not_kept(tmp_path):
    run = begun(tmp_path)
    with run.unit(JOBS[0]) as claim:
        assert claim is not None
        later = claim.path.with_name(claim.path.name.replace(".0", ".1"))
        later.write_text("{}")
        assert not run.keep(claim, JOBS[0], Outcome({"units/0.bin": b"late"}))
    assert run.wasted == 1 and not (tmp_path / "units/0.bin").exists() and later.exists()


def test_what_failed_is_told(tmp_path):
    run = begun(tmp_path)
    do(run, JOBS[0], failed={"a": "not finite"})
    do(run, JOBS[1])
    run.close("stopped", JOBS, {"more": 1})
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["status"], state["done"], state["missing"]) == ("stopped", 2, ["units/2", "units/3"])
    assert (state["failed"], state["more"], state["done_twice"]) == ({"a": "not finite"}, 1, 0)


def test_overwriting_removes_what_the_run_made_and_nothing_else(tmp_path, monkeypatch):
    run = begun(tmp_path)
    do(run, JOBS[0])
    place = Folder.place

    def killed(self, name, fill):
        if name == "units/never.bin":
            raise KeyboardInterrupt
        return place(self, name, fill)

    monkeypatch.setattr(Folder, "place", killed)
    with pytest.raises(KeyboardInterrupt), run.unit(JOBS[1]) as claim:
        run.keep(claim, JOBS[1], Outcome({"units/1.bin": b"of half a unit", "units/never.bin": b""}))
    monkeypatch.undo()
    (tmp_path / "mine.txt").write_text("mine")
    run = begun(tmp_path, {"seed": 2}, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", "progress", "mine.txt"}
    assert run.todo(JOBS) == JOBS


def test_a_run_that_others_work_on_is_not_overwritten(tmp_path):
    run = begun(tmp_path)
    do(run, JOBS[0])
    with (
        run.unit(JOBS[1]),
        pytest.raises(Busy, match=rf"is in use by process {os.getpid()} .*; stop it first"),
    ):
        begun(tmp_path, {"seed": 2}, overwrite=True)
    assert (tmp_path / "units/0.bin").exists()


def test_only_one_is_alone(tmp_path):
    run = begun(tmp_path)
    with run.alone("end"), pytest.raises(Busy, match=r"^out: "), begun(tmp_path).alone("end"):
        pass


def test_a_mistake_in_the_first_unit_leaves_nothing(tmp_path):
    run = begun(tmp_path)
    assert run.forget() and list(tmp_path.iterdir()) == []
    run = begun(tmp_path)
    log = tmp_path / "progress/worker-1.log"
    log.write_text("what a worker said")
    assert run.forget() and log.exists(), "the sentence on the worker names it"
    run = begun(tmp_path)
    do(run, JOBS[0])
    assert not run.forget() and (tmp_path / "run.json").exists()


def test_thirty_thousand_units_are_looked_through_in_seconds(tmp_path):
    """Each with a file of its own; the issue asks for less than 5 s."""
    run, line = begun(tmp_path), []
    (tmp_path / "units").mkdir()
    jobs = [Job(f"units/{number}") for number in range(30_000)]
    for job in jobs:
        path = tmp_path / f"{job.id}.bin"
        path.write_bytes(b"x")
        stamp = [1, path.stat().st_mtime_ns, "0" * 64]
        line.append(json.dumps({"unit": job.id, "files": {f"{job.id}.bin": stamp}, "seconds": 1.0}) + "\n")
    (run.path / "progress/done/host-1.jsonl").write_text("".join(line))
    start = time.monotonic()
    assert begun(tmp_path).todo(jobs) == []
    assert time.monotonic() - start < 5


def test_units_cost_little(tmp_path):
    """Claim, files, journal: a few milliseconds, besides what the files cost."""
    run = begun(tmp_path)
    jobs = [Job(f"units/{number}") for number in range(200)]
    start = time.monotonic()
    for job in jobs:
        do(run, job, b"x" * 1000)
    assert (time.monotonic() - start) / len(jobs) < 0.05
    assert Claims(tmp_path / "progress/claims").live() == []
