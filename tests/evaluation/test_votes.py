"""The user study: nothing in the page tells the methods apart, and votes made by hand score as they should."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trueline.evaluation.metrics.statistics import crossed_mean
from trueline.evaluation.report import Shot
from trueline.evaluation.tables import markdown
from trueline.evaluation.votes import FORMAT, alpha, score_votes, write_study
from trueline.layout import Layout

from .pages import Page, browse, needs_chromium

METHODS = ("zebramethod", "yakmethod")
BRIGHTNESS = {"zebramethod": 40, "yakmethod": 200, "newtmethod": 120}  #: tells in the pictures who drew them


def drawn(folder, methods=METHODS, examples=8, prompts=None):
    folder.mkdir(exist_ok=True)
    shots = []
    for i in range(examples):
        for method in methods:
            path = folder / f"{method}-{i}.png"
            secret = PngInfo()
            secret.add_text("trueline", f'{{"method": "{method}"}}')
            Image.new("RGB", (32, 32), (BRIGHTNESS[method],) * 3).save(path, pnginfo=secret)
            prompt = prompts[i] if prompts else f"prompt {i}"
            shots.append(Shot(f"example-{i}", "", prompt, method, 5, path, Layout(prompt)))
    return shots


def data_of(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1]
    )


def brightness(uri):
    content = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    return float(np.asarray(Image.open(io.BytesIO(content))).mean())


def test_nothing_in_the_page_names_a_method(tmp_path):
    study = write_study(tmp_path / "study", "A study", drawn(tmp_path / "p"))
    raw = study.page.read_text(encoding="utf-8")
    pictures = [base64.b64decode(uri) for uri in re.findall(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)", raw)]
    assert len(pictures) == 16
    for content in (raw.encode(), *pictures):
        for name in (*METHODS, "example-", ".png", 'trueline":'):
            assert name.encode() not in content
    key = json.loads(study.key.read_text())
    assert {pair["left"] for pair in key["pairs"].values()} == set(METHODS)


def test_the_key_says_which_picture_is_whose(tmp_path):
    study = write_study(tmp_path / "study", "A study", drawn(tmp_path / "p"))
    key = json.loads(study.key.read_text())["pairs"]
    pairs = data_of(study.page)["pairs"]
    assert len(pairs) == study.pairs == 8 and {pair["id"] for pair in pairs} == set(key)
    for pair in pairs:
        assert pair["prompt"] == key[pair["id"]]["prompt"]
        for side in ("left", "right"):
            assert abs(brightness(pair[side]) - BRIGHTNESS[key[pair["id"]][side]]) < 3


def test_sides_and_order_follow_the_seed_and_are_balanced(tmp_path):
    shots = drawn(tmp_path / "p", examples=20)
    keys = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        study = write_study(tmp_path / name, "A study", shots, seed=seed)
        keys[name] = [(p["example"], p["left"]) for p in json.loads(study.key.read_text())["pairs"].values()]
    assert keys["a"] == keys["b"] != keys["c"]
    assert (tmp_path / "a" / "vote.html").read_bytes() == (tmp_path / "b" / "vote.html").read_bytes()
    lefts = [left for _, left in keys["a"]]
    assert lefts.count(METHODS[0]) == 10 and lefts != sorted(lefts)
    assert [example for example, _ in keys["a"]] != [f"example-{i}" for i in range(20)]


def test_the_page_is_self_contained_and_prompts_are_text(tmp_path):
    evil = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>"]
    study = write_study(tmp_path / "study", "<b>A study", drawn(tmp_path / "p", examples=2, prompts=evil))
    raw = study.page.read_text(encoding="utf-8")
    page = Page(raw)
    assert len(page.all("script")) == 2 and not page.all("b")
    assert sorted(pair["prompt"] for pair in data_of(study.page)["pairs"]) == sorted(evil)
    assert all("src" not in a or a["src"].startswith("data:") for _, a in page.tags)
    assert not re.search(r"https?://|file://|url\(|@import", raw)


def test_more_methods_limits_and_lost_pictures(tmp_path):
    shots = drawn(tmp_path / "p", (*METHODS, "newtmethod"))
    study = write_study(tmp_path / "a", "A study", shots)
    pairs = json.loads(study.key.read_text())["pairs"].values()
    assert study.pairs == 16 and all(METHODS[0] in (pair["left"], pair["right"]) for pair in pairs)
    study = write_study(tmp_path / "b", "A study", shots, ["newtmethod", METHODS[1]], limit=3)
    assert study.pairs == 3 and study.notes == ("3 of 8 pairs were drawn at random.",)
    shots[0].path.write_bytes(b"broken")
    study = write_study(tmp_path / "c", "A study", shots, METHODS)
    assert study.pairs == 7 and "1 picture cannot be shown" in study.notes[0]
    assert study.notes[1] == "Pairs left out because a picture cannot be shown: 1."


@pytest.mark.parametrize(
    ("title", "methods", "sentence"),
    [
        ("ZebraMethod against the rest", None, "title: names the method zebramethod"),
        ("A study", ["zebramethod"], "at least two different ones"),
        ("A study", ["zebramethod", "zebramethod"], "at least two different ones"),
        ("A study", ["zebramethod", "gnu"], "no picture by gnu"),
    ],
)
def test_studies_that_cannot_be_blind_are_refused(tmp_path, title, methods, sentence):
    with pytest.raises(ValueError, match=sentence):
        write_study(tmp_path / "study", title, drawn(tmp_path / "p"), methods)
    assert not (tmp_path / "study").exists()


KEY = {
    "format": FORMAT,
    "study": "s1",
    "methods": ["a", "b"],
    "benchmark": "world",
    "model": "m",
    "pairs": {
        f"p{i}": {
            "example": f"e{i}",
            "seed": i,
            "category": "",
            "prompt": f"prompt {i // 2}",
            "left": "ab"[i % 2],
            "right": "ba"[i % 2],
        }
        for i in range(4)
    },
}  # p0: a | b, p1: b | a, p2: a | b, p3: b | a; p0 and p1 share a prompt, and so do p2 and p3


@pytest.fixture
def ballot(tmp_path):
    (tmp_path / "key.json").write_text(json.dumps(KEY))

    def write(name, rater, alignment, **changes):
        """``alignment``: an answer per pair, "l", "r", "s" or "-"; quality is always "same"."""
        words = {"l": "left", "r": "right", "s": "same"}
        votes = {
            f"p{i}": {"alignment": words[a], "quality": "same"} for i, a in enumerate(alignment) if a != "-"
        }
        file = tmp_path / name
        file.write_text(
            json.dumps({"format": FORMAT, "study": "s1", "rater": rater, "votes": votes} | changes)
        )
        return file

    return write


def score(tmp_path, *files, **kwargs):
    rows, notes = score_votes(files, tmp_path / "key.json", **kwargs)
    return {row["metric"]: row for row in rows}, notes


def test_win_rate_of_hand_made_votes(tmp_path, ballot):
    # b wins p0 (right), wins p1 (left), ties p2, loses p3 (right): (1 + 1 + 0.5 + 0) / 4
    rows, notes = score(tmp_path, ballot("v.json", "r1", "rlsr"), command="trueline votes", commit="abc")
    row = rows["alignment_win_rate"]
    assert row["value"] == 0.625 and row["n"] == 4 and (row["method"], row["against"]) == ("b", "a")
    assert row["seeds"] == [0, 1, 2, 3] and (row["command"], row["commit"]) == ("trueline votes", "abc")
    assert "1 rater, 2 prompts; bootstrap over prompts" in row["protocol"]
    # two prompts with means 1 and 0.25: a draw gives 1 (a quarter of the draws), 0.625 or 0.25
    assert (row["low"], row["high"]) == (0.25, 1.0)
    assert rows["quality_win_rate"]["value"] == 0.5 == rows["quality_win_rate"]["low"]
    assert not notes and set(rows) == {"alignment_win_rate", "quality_win_rate"}
    assert "| alignment_win_rate |" in markdown(list(rows.values())), "rows go into the tables as they are"


def test_several_raters_give_agreement_and_a_wider_interval(tmp_path, ballot):
    files = [
        ballot("v1.json", "r1", "rlrl"),
        ballot("v2.json", "r2", "lrlr"),
        ballot("v3.json", "r3", "rlrl"),
    ]
    rows, _ = score(tmp_path, *files)
    row = rows["alignment_win_rate"]
    assert row["value"] == pytest.approx(2 / 3) and row["n"] == 12
    assert row["low"] == 0.0 and row["high"] == 1.0, (
        "raters differ: one of them drawn three times is in the interval"
    )
    # 4 pairs of answers (1, 0, 1): observed 2/3; values 8 x 1, 4 x 0: expected 1 - (56 + 12) / 132 = 16/33
    assert rows["alignment_agreement"]["value"] == pytest.approx(1 - (2 / 3) / (16 / 33))
    assert rows["quality_agreement"]["value"] == 1.0
    assert "3 raters, 2 prompts; bootstrap over prompts and raters" in row["protocol"]


def test_alpha_of_the_published_example():
    """Krippendorff 2011, section C: nominal data, any number of observers, missing data: 0.743."""
    table = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[value for value in unit if value is not None] for unit in zip(*table, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([[1], [2]]) is None and alpha([[1, 1], [1, 1]]) == 1.0


def test_what_is_not_counted_is_said(tmp_path, ballot):
    file = ballot("v.json", "r1", "rl--")
    content = json.loads(file.read_text())
    content["votes"] |= {
        "foreign": {"alignment": "left"},
        "p2": {"alignment": "up", "quality": "left"},
        "p3": 7,
    }
    file.write_text(json.dumps(content))
    rows, notes = score(tmp_path, file)
    assert rows["alignment_win_rate"]["n"] == 2 and rows["quality_win_rate"]["n"] == 3
    assert notes == [
        "v.json: ignored votes on unknown pairs: 1",
        "v.json: ignored answers other than left, same or right: 1",
        "v.json: ignored unanswered questions: 2",
    ]
    _, notes = score(tmp_path, ballot("w.json", "r2", "rl--"))
    assert notes == ["w.json: 2 of 4 pairs not voted on"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "bad.json: broken, not JSON"),
        ("\udcff", "bad.json: broken, not JSON"),
        ("[]", "bad.json: is not votes of this version"),
        ('{"format": "other"}', "bad.json: is not votes of this version"),
        (json.dumps({"format": FORMAT, "study": "s2"}), "bad.json: votes of another study"),
        (json.dumps({"format": FORMAT, "study": "s1", "rater": 3, "votes": {}}), "bad.json: lacks its rater"),
        (
            json.dumps({"format": FORMAT, "study": "s1", "rater": "r1", "votes": {}}),
            "bad.json: the same rater as",
        ),
    ],
)
def test_broken_and_foreign_files_are_a_sentence(tmp_path, ballot, text, sentence):
    (tmp_path / "bad.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=sentence) as caught:
        score(tmp_path, ballot("v.json", "r1", "rlsr"), tmp_path / "bad.json")
    assert "\n" not in str(caught.value)


def test_no_votes_are_no_score(tmp_path, ballot):
    with pytest.raises(ValueError, match=r"no votes to score; v\.json: 4 of 4 pairs not voted on"):
        score(tmp_path, ballot("v.json", "r1", "----"))
    with pytest.raises(ValueError, match=r"gone\.json: cannot be read"):
        score(tmp_path, tmp_path / "gone.json")
    with pytest.raises(ValueError, match=r"is no key\.json"):
        score_votes([], ballot("v.json", "r1", "rlsr"))
    (tmp_path / "key.json").write_text(json.dumps(KEY | {"pairs": {"p0": {"left": "a"}}}))
    with pytest.raises(ValueError, match=r"is no key\.json"):
        score(tmp_path, ballot("v.json", "r1", "rlsr"))


def test_the_interval_has_about_its_coverage():
    """Prompts whose votes go together: an interval over votes would be far too narrow, this one is not."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(60):
        wins = rng.random(30) < 0.6
        votes = [(float(w), f"{i}", "r") for i, w in enumerate(wins) for _ in range(4)]
        estimate = crossed_mean(*zip(*votes, strict=True))
        held += estimate.low <= 0.6 <= estimate.high
    assert 52 <= held <= 60


@needs_chromium
def test_votes_cast_in_a_browser_are_kept_saved_and_scored(tmp_path):
    study = write_study(tmp_path / "study", "A study", drawn(tmp_path / "p", examples=3))
    drive = """
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const wait = (ms) => new Promise((go) => setTimeout(go, ms));
    (async () => {
      document.getElementById("name").value = "Ann";
      document.getElementById("begin").click();
      const said = [document.getElementById("count").textContent];
      press("ArrowLeft"); press("ArrowDown"); await wait(500);
      said.push(document.getElementById("count").textContent);
      said.push(document.getElementById("progress").getAttribute("aria-valuenow"));
      press("Backspace"); said.push(document.querySelectorAll("[aria-pressed=true]").length);
      document.getElementById("next").click();
      document.querySelectorAll("[data-answer=right]")[1].click(); press("ArrowRight"); await wait(500);
      press("ArrowDown"); press("ArrowLeft"); await wait(500);
      said.push(document.getElementById("done").textContent, document.getElementById("count").textContent);
      said.push(Object.values(JSON.parse(Object.values(localStorage)[0]).votes).length);
      let blob = null;
      URL.createObjectURL = (given) => { blob = given; return "#"; };
      document.querySelector(".save").click();
      document.title = JSON.stringify([said, JSON.parse(await blob.text())]);
    })();
    """
    document, console = browse(study.page, tmp_path, drive)
    assert not console
    said, saved = json.loads(Page(document).text.strip().splitlines()[0])
    assert said == ["Pair 1 of 3", "Pair 2 of 3", "1", 2, "Thank you, that was all", "3 of 3 answered", 3]
    ids = [pair["id"] for pair in data_of(study.page)["pairs"]]
    assert saved["name"] == "Ann" and saved["votes"] == {
        ids[0]: {"alignment": "left", "quality": "same"},
        ids[1]: {"quality": "right", "alignment": "right"},
        ids[2]: {"alignment": "same", "quality": "left"},
    }
    (tmp_path / "votes.json").write_text(json.dumps(saved))
    rows, notes = score_votes([tmp_path / "votes.json"], study.key)
    key = json.loads(study.key.read_text())["pairs"]
    won = (key[ids[0]]["left"] == METHODS[1]) + (key[ids[1]]["right"] == METHODS[1]) + 0.5
    assert rows[0]["value"] == pytest.approx(won / 3) and not notes
