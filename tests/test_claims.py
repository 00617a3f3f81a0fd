"""Claims: one holder at a time, whoever dies, freezes, or has a clock of its own."""

import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trueline.files.claims import TAKEOVER, Busy, Claims, myself

ELSEWHERE = {"host": "node7", "machine": "another", "pid": 1, "started": "1", "token": "x", "since": "then"}


def left_by(folder: Path, about: dict | str, age: float = 0.0, name: str = "unit") -> Path:
    """A claim that somebody else made ``age`` seconds ago."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.0"
    path.write_text(about if isinstance(about, str) else json.dumps(about))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_one_holder_at_a_time(tmp_path):
    one, two = Claims(tmp_path), Claims(tmp_path)
    claim = one.take("a/b")
    assert claim is not None and two.take("a/b") is None and one.take("a/b") is None
    assert one.mine(claim) and two.live() == ["a~b"]
    one.release(claim)
    assert two.take("a/b") is not None and not one.mine(claim)


def test_a_live_holder_is_one_sentence(tmp_path):
    first, second = Claims(tmp_path), Claims(tmp_path)
    with first.held("run"), pytest.raises(Busy) as caught, second.held("run", what="out: X"):
        pass
    said = str(caught.value)
    assert said.startswith(f"out: X is in use by process {os.getpid()} on ") and "taken over" in said
    assert second.live() == [], "it was released at the end"


def test_a_dead_process_of_this_machine_holds_nothing(tmp_path):
    code = "import sys, pathlib, trueline.files as f; f.Claims(pathlib.Path(sys.argv[1])).take('unit')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["unit.0"]
    claim = Claims(tmp_path, takeover=1000).take("unit")
    assert claim is not None and claim.generation == 1, "at once, not after 1000 s"


def test_a_number_that_another_process_has_now_is_no_sign_of_life(tmp_path):
    left_by(tmp_path, myself() | {"started": "1", "token": "x"})
    assert Claims(tmp_path, takeover=1000).take("unit") is not None


@pytest.mark.parametrize("about", [ELSEWHERE, "", "{", "[]"], ids=["elsewhere", "empty", "half", "list"])
def test_what_cannot_be_asked_is_taken_over_by_its_age_only(tmp_path, about):
    path = left_by(tmp_path, about, age=20)
    assert Claims(tmp_path, takeover=30).take("unit") is None
    os.utime(path, (time.time() - 40,) * 2)
    assert Claims(tmp_path, takeover=30).take("unit") is not None


def test_a_sign_of_life_from_the_future_is_said_and_waited_for(tmp_path):
    left_by(tmp_path, ELSEWHERE, age=-3600)
    claims = Claims(tmp_path, takeover=0.4)
    said = r"from the future \(a clock is wrong\); if that process is gone, delete "
    with pytest.raises(Busy, match=said), claims.held("unit"):
        pass
    time.sleep(0.5)
    assert claims.take("unit") is not None, "it did not change for longer than the takeover"


def test_who_was_frozen_has_lost(tmp_path):
    frozen, other = Claims(tmp_path, takeover=1000), Claims(tmp_path, takeover=30)
    claim = frozen.take("unit")
    assert claim is not None
    about = json.loads(claim.path.read_text())
    claim.path.write_text(json.dumps(about | ELSEWHERE | {"token": claim.token}))
    os.utime(claim.path, (time.time() - 60,) * 2)
    taken = other.take("unit")
    assert taken is not None and other.mine(taken) and not frozen.mine(claim)
    frozen.release(claim)
    assert other.mine(taken), "who lost takes nothing away"
    other.release(taken)
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_works_long_gives_signs_of_life(tmp_path):
    holder, other = Claims(tmp_path, takeover=0.6), Claims(tmp_path, takeover=0.6)
    claim = holder.take("unit")
    assert claim is not None
    claim.path.write_text(claim.path.read_text().replace(myself()["machine"], "another"))
    for _ in range(8):
        time.sleep(0.2)
        assert other.take("unit") is None
    assert holder.mine(claim)


def test_a_folder_without_write_permission(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (Path("/proc/nowhere"), tmp_path / "file"):
        with pytest.raises(ValueError, match=r"^out: cannot write to .*; choose another folder$"):
            Claims(folder)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf"])
def test_a_takeover_that_is_no_time(tmp_path, monkeypatch, text):
    monkeypatch.setenv(TAKEOVER, text)
    with pytest.raises(ValueError, match=f"^{TAKEOVER}: must be seconds above 0"):
        Claims(tmp_path)


def race(folder: str, rounds: int, results, line) -> None:
    claims, won = Claims(Path(folder)), []
    for name in map(str, range(rounds)):
        line.wait(60)  # all at once
        if claims.take(name):
            won.append(name)
    results.put(won)
    line.wait(60)  # a process that has ended holds nothing


def test_of_those_who_ask_at_once_one_is_the_holder(tmp_path):
    context = multiprocessing.get_context("fork")
    results, line = context.Queue(), context.Barrier(4)
    racers = [context.Process(target=race, args=(str(tmp_path), 300, results, line)) for _ in range(4)]
    for each in racers:
        each.start()
    taken = [name for _ in racers for name in results.get(timeout=60)]
    for each in racers:
        each.join()
    assert sorted(taken, key=int) == [str(number) for number in range(300)]
