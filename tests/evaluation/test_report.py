"""The report: what is in the file, what is not, and that a browser shows it."""

import base64
import hashlib
import io
import json
import re

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trueline.evaluation.report import SIDE, Case, Shot, make_cases, span, thumbnail, worst, write_report
from trueline.evaluation.tables import tables
from trueline.layout import Layout, Region
from trueline.perception import Detection
from trueline.pictures import COLOURS

from .pages import Page, browse, needs_chromium
from .test_tables import row

SCRIPT = '<script>alert("x")</script> & "quotes"'


def shot(folder, example, method, scores, prompt="a red apple", category="color", seed=0, **changes):
    path = folder / f"{example}-{seed}-{method}.png"
    secret = PngInfo()
    secret.add_text("trueline", f"made by {method}")
    Image.new("RGB", (64, 48), (200, 30, len(method) * 9)).save(path, pnginfo=secret)
    layout = Layout(prompt, regions=[Region("a red apple", (0.1, 0.2, 0.4, 0.6))])
    seen = [Detection("apple", (0.5, 0.25, 0.75, 1.0), 0.912, "red", "striped")]
    made = {"layout": layout, "scores": scores, "detections": seen} | changes
    return Shot(example, category, prompt, method, seed, path, **made)


@pytest.fixture
def shots(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    return [
        shot(folder, example, method, {"mean_iou": iou, "clip_score": clip}, prompt, category)
        for example, prompt, category, values in (
            ("e-good", "a blue car", "color", (0.9, 0.7, 0.30, 0.31)),
            ("e-bad", SCRIPT, "spatial", (0.1, 0.2, 0.28, 0.29)),
            ("e-middle", "two cats", "spatial", (0.5, 0.4, 0.20, 0.21)),
        )
        for method, iou, clip in (("plain", values[0], values[2]), ("hcma", values[1], values[3]))
    ]


ROWS = [
    row(),
    row("hcma", value=0.7312, difference=(0.2312, 0.1, 0.36)),
    row(metric="fid[world]", value=43.218, protocol="<b>128 px"),
    row("hcma", metric="fid[world]", value=44.5, difference=(1.282, -0.4, 2.9), protocol="<b>128 px"),
    row(category="spatial", value=0.25),
    row("hcma", category="spatial", value=0.125, difference=(-0.125, -0.2, -0.05)),
]


@pytest.fixture
def page(shots, tmp_path):
    write_report(tmp_path / "report.html", "World & more", ROWS, shots, ["n is <small>"])
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_what_others_wrote_is_text(page):
    assert SCRIPT in page.text and "World & more" in page.text
    assert "n is <small>" in page.text and "<b>128 px" in page.text
    assert len(page.all("script")) == 1 and not page.all("small")
    assert [a["alt"] for a in page.all("img")].count(f"plain: {SCRIPT}") == 1


def test_the_file_needs_nothing_else(page, tmp_path):
    links = [
        a[key]
        for _, a in page.tags
        for key in ("src", "href", "srcset", "action", "poster", "data")
        if key in a
    ]
    assert links and all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|https?://|file://", text), "nor from style or script"
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy
    assert not page.all("link") and not page.all("iframe")


def test_only_the_report_s_own_script_may_run(tmp_path, page):
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    code = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text.replace("&#39;", "'")


def test_every_number_of_the_rows_is_in_the_tables(page):
    held = [a for a in page.all("td") if "number" in a.get("class", "") and "data-value" in a]
    found = [(float(a["data-value"]), float(a["data-low"]), float(a["data-high"])) for a in held]
    assert sorted(found) == sorted((r["value"], r["low"], r["high"]) for r in ROWS)
    differences = [float(a["data-difference"]) for a in held if "data-difference" in a]
    assert sorted(differences) == [-0.125, 0.2312, 1.282]
    flat = " ".join(page.text.split()).replace("\N{MINUS SIGN}", "-")
    for shown in (
        "0.731 [0.681, 0.781]",
        "+0.231 [+0.100, +0.360] better",
        "43.22 [43.17, 43.27]",
        "+1.28 [-0.40, +2.90]",
        "-0.125 [-0.200, -0.050] worse",
    ):
        assert shown in flat, shown
    for made in ("trueline evaluate world", "abc1234", "seeds 0..2, 7", "oracle, fixed"):
        assert made in flat, made


def test_verdict_colours_only_what_is_shown_to_differ(page):
    classes = [a["class"].split() for a in page.all("span") if a.get("class", "").startswith("difference")]
    assert classes == [["difference", "better"], ["difference"], ["difference", "worse"]]


def examples(page):
    return re.findall(r"(e-\w+), seed 0", page.text)


def test_worst_cases_come_first(page, shots, tmp_path):
    assert examples(page) == ["e-bad", "e-middle", "e-good"]
    write_report(tmp_path / "b.html", "t", ROWS, shots, metric="clip_score")
    assert examples(Page((tmp_path / "b.html").read_text())) == ["e-middle", "e-bad", "e-good"]


def test_less_is_better_turns_the_order(shots):
    cases = [
        Case({"m": Shot("x", "", "p", "m", i, shots[0].path, shots[0].layout, {"lpips_mae": v})})
        for i, v in enumerate((0.1, 0.7, float("nan"), 0.4))
    ]
    assert [case.first.seed for case in worst(cases, ["lpips_mae"], 9)] == [1, 3, 0, 2], "no score: last"


def test_the_limit_keeps_the_worst_of_each_metric_and_is_said(shots, tmp_path):
    write_report(tmp_path / "b.html", "t", ROWS, shots, limit=2)
    page = Page((tmp_path / "b.html").read_text())
    assert examples(page) == ["e-bad", "e-middle"], "the worst by mean_iou, and the worst by clip_score"
    assert "2 of 3 cases: the worst of each metric in turn" in page.text


def test_boxes_are_overlays_in_per_cent(page):
    over = [a for a in page.all("rect") if a["class"] == "over"][:2]
    box = [(a["x"], a["y"], a["width"], a["height"]) for a in over]
    assert box == [("10.0%", "20.0%", "30.0%", "40.0%"), ("50.0%", "25.0%", "25.0%", "75.0%")]
    assert over[0]["stroke"] == "#{:02x}{:02x}{:02x}".format(*COLOURS[0])
    assert "red striped apple 0.91" in page.text
    assert {a.get("class") for a in page.all("g")} == {"asked", "seen"}


def test_interval_bars_share_a_scale():
    fid = tables([row(metric="fid", value=40.0), row("b", metric="fid", value=60.0)])[0].lines[0]
    first, second = (span(fid, r) for r in fid.rows)
    assert 0 <= first["low"] < first["value"] < first["high"] < second["low"] < second["high"] <= 100
    score = tables([row(value=0.25)])[0].lines[0]
    assert span(score, score.rows[0]) == {"value": 25.0, "low": 20.0, "high": 30.0}


def test_broken_and_missing_pictures_are_counted_and_shown_as_such(shots, tmp_path):
    shots[0].path.write_bytes(shots[0].path.read_bytes()[:60])
    shots[1].path.unlink()
    shots[2].path.write_text("<svg>")
    write_report(tmp_path / "b.html", "t", ROWS, shots)
    page = Page((tmp_path / "b.html").read_text())
    assert "3 pictures cannot be shown" in page.text and "e-good-0-hcma.png: no such file" in page.text
    assert page.text.count("picture cannot be read") == 3 and len(page.all("img")) == 3


def test_a_thumbnail_is_small_and_carries_no_metadata(shots):
    big = shots[0].path
    info = PngInfo()
    info.add_text("secret", "made by plain")
    Image.effect_noise((900, 600), 60).save(big, pnginfo=info)
    made = thumbnail(big, SIDE)
    assert (made.width, made.height) == (320, 213)
    content = base64.b64decode(made.uri.removeprefix("data:image/jpeg;base64,"))
    image = Image.open(io.BytesIO(content))
    assert image.format == "JPEG" and image.size == (320, 213) and b"made by" not in content


def test_two_pictures_of_one_case_are_refused(shots):
    with pytest.raises(ValueError, match="two pictures for e-good, seed 0, plain"):
        make_cases([*shots, shots[0]])


def test_an_unknown_metric_is_refused_and_nothing_written(shots, tmp_path):
    with pytest.raises(ValueError, match="no picture has 'beauty'; give one of mean_iou, clip_score"):
        write_report(tmp_path / "b.html", "t", ROWS, shots, metric="beauty")
    assert not (tmp_path / "b.html").exists()


@pytest.mark.parametrize(("base", "options"), [("plain", ["hcma"]), ("hcma", ["plain"]), (None, ["hcma"])])
def test_cases_are_sorted_against_the_row_that_the_tables_compare_with(shots, tmp_path, base, options):
    other = {"plain": "hcma", "hcma": "plain"}.get(base)
    rows = (
        [row(), row("hcma")]
        if base is None
        else [row(base), row(other, difference=(0.1, 0, 0.2)) | {"against": base}]
    )
    write_report(tmp_path / "report.html", "t", rows, shots)
    text = (tmp_path / "report.html").read_text()
    place = {"plain": 0, "hcma": 1}
    base = base or "plain"
    for name in options:
        assert f'<option value="{place[name]}-{place[base]}">{name} against {base}</option>' in text
    assert text.count(" against ") - text.count(f"against {base}</option>") == text.count(" against ") - len(
        options
    )


def test_a_report_without_pictures_or_rows_still_opens(tmp_path):
    write_report(tmp_path / "b.html", "t", [], [])
    assert "No pictures were handed to this report" in Page((tmp_path / "b.html").read_text()).text


@needs_chromium
def test_a_browser_sorts_filters_and_switches_boxes(shots, tmp_path, page):
    drive = """
    const set = (id, value) => {
      const select = document.getElementById(id);
      select.value = value;
      select.dispatchEvent(new Event("change"));
    };
    const name = (one) => one.querySelector("header .quiet").textContent.match(/e-\\w+/)[0];
    const order = () => [...document.querySelectorAll(".case:not([hidden])")].map(name).join(" ");
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    const said = [order()];
    set("metric", "clip_score"); said.push(order());
    set("metric", "mean_iou"); set("whose", "1-0"); said.push(order());
    set("category", "=spatial"); said.push(order());
    said.push(document.getElementById("shown").textContent);
    said.push(getComputedStyle(document.querySelector(".seen")).display);
    press("d");
    said.push(getComputedStyle(document.querySelector(".seen")).display !== "none");
    press("j");
    said.push(document.activeElement.className);
    document.title = JSON.stringify(said);
    """
    document, console = browse(tmp_path / "report.html", tmp_path, drive)
    assert not console
    said = json.loads(Page(document).text.strip().splitlines()[0])
    assert said == [
        "e-bad e-middle e-good",
        "e-middle e-bad e-good",
        "e-good e-middle e-bad",  # hcma against plain: -0.2, -0.1, +0.1
        "e-middle e-bad",
        "2 of the 3 cases in this report, which are of 3",
        "none",
        True,
        "case card",
    ]
