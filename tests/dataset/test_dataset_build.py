"""``trueline dataset``: prompts, agreement, builds on the world's renders with its oracle, the review, the set."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation.pages import Page, browse, needs_chromium
from PIL import Image

from trueline.cli import main
from trueline.dataset import Want, Wish
from trueline.dataset.agreement import agree, apart, holds
from trueline.dataset.build import digest_of, read_manifest
from trueline.dataset.captions import natural_wishes
from trueline.dataset.card import line
from trueline.dataset.review import FORMAT
from trueline.dataset.templates import template_wishes
from trueline.dataset.words import COMMON, TemplateWords, read_words
from trueline.english.plurals import article, plural
from trueline.evaluation.benchmarks.worded import meaning
from trueline.evaluation.benchmarks.world import WORDS
from trueline.files import Folder
from trueline.models.backbone import Backbone
from trueline.perception import Detection
from trueline.training.data.examples import Rules
from trueline.training.data.records import open_examples
from trueline.training.settings import Data
from trueline.world.captions import caption
from trueline.world.scenes import make_scene, render

EVIL = '</script><script>alert("x")</script><b>&'

# Prompts


def test_the_worlds_templates_are_what_its_grammar_reads():
    wishes = template_wishes(read_words("world"), 100)
    assert len({wish.prompt for wish in wishes}) == len({wish.id for wish in wishes}) == 100
    for wish in wishes:
        said = meaning(wish.prompt, WORDS)
        assert said is not None and said.relation == wish.relation, wish
        groups = [(w.label, w.colour, w.texture, w.count) for w in wish.wants]
        assert [(o.name, o.colour, o.texture, o.count) for o in said.objects] == groups
        assert sum(want.count for want in wish.wants) <= 4
    counts = {
        category: sum(w.category == category for w in wishes) for category in read_words("world").categories
    }
    assert counts == dict.fromkeys(("color", "object", "texture", "spatial", "numeracy"), 20)


def test_more_prompts_begin_with_the_fewer():
    few, more, other = (template_wishes(COMMON, n, seed) for n, seed in ((10, 0), (50, 0), (10, 1)))
    assert {wish.prompt for wish in few} < {wish.prompt for wish in more}
    assert {wish.prompt for wish in few} != {wish.prompt for wish in other}
    assert {wish.category for wish in more} == {"color", "shape", "texture", "spatial", "numeracy"}


def test_words_that_are_used_up_are_an_error():
    with pytest.raises(ValueError, match=r"^templates: the words make about \d+ different prompts of object"):
        template_wishes(TemplateWords("two", ("cat", "dog")), 100)


def test_words_come_from_a_file(tmp_path):
    path = tmp_path / "words.yaml"
    path.write_text("objects: [Owl, wine  glass, owl]\ncolours: [red, orange]\nmost: 3\n")
    words = read_words(str(path))
    assert words.objects == ("owl", "wine glass") and words.categories == (
        "color",
        "object",
        "spatial",
        "numeracy",
    )
    assert article("orange owl") == "an orange owl" and plural("wine glass") == "wine glasses"
    for text, said in {
        "objects: [yes, cat]": "objects: must be a list of words",
        "colours: [red]": "objects: is missing",
        "objects: [cat]": "objects: tuple should have at least 2 items",
        "objects: [cat, dog]\nsize: [x]": "size: unknown key; TemplateWords has name, objects",
        "objects: [cat, dog]\nmost: 20": "most: must be a whole number from 2 to 8",
        "[": "is not YAML",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=re.escape(said)):
            read_words(str(path))
    with pytest.raises(ValueError, match="is neither world nor common, nor a file"):
        read_words("elsewhere")


def test_natural_captions_of_the_world_say_several_things():
    wishes, passed = natural_wishes("world", 30)
    assert len({wish.prompt for wish in wishes}) == 30 and passed["with a single thing"]
    assert all(sum(want.count or 2 for want in wish.wants) >= 2 for wish in wishes)
    assert natural_wishes("world", 30)[0] == wishes != natural_wishes("world", 30, 1)[0]


def test_natural_captions_of_a_file(tmp_path):
    path = tmp_path / "captions.txt"
    path.write_text(
        "Two dogs run to the left of a red bench.\n\ntwo dogs run to the left of a red bench.\nsky\na cat\n"
        '{"id": "mine", "prompt": "a cat above a dog"}\n{"prompt": "some birds and a tree"}\n',
        encoding="utf-8-sig",
    )
    wishes, passed = natural_wishes(str(path), 3)
    assert [wish.id for wish in wishes] == ["natural-0000", "mine", "natural-0002"]
    assert [(w.label, w.count) for w in wishes[0].wants] == [("dog", 2), ("bench", 1)] and wishes[
        0
    ].relation == "left"
    assert wishes[1].relation == "above" and wishes[2].wants[0].count is None, "some: two or more"
    assert passed == {"said before": 1, "not understood": 1, "with a single thing": 1}
    with pytest.raises(
        ValueError, match=r"^captions: .* has 3 captions that fit, fewer than 4 \(1 said before"
    ):
        natural_wishes(str(path), 4)
    for text, said in {
        '{"prompt": 3}': "line 1",
        "{": "line 1: not JSON",
        '{"id": "a/b", "prompt": "x"}': "id",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=f"^captions_from: .*{said}"):
            natural_wishes(str(path), 1)


# Agreement

TWO = Wish(
    "x",
    "color",
    "a red cat and a blue dog",
    (Want("a red cat", "cat", 1, "red"), Want("a blue dog", "dog", 1, "blue")),
)
CAT = Detection("cat", (0.1, 0.1, 0.4, 0.4), 0.9, "red", "plain")
DOG = Detection("dog", (0.6, 0.1, 0.9, 0.4), 0.8, "blue", "plain")


def test_what_is_found_as_said_agrees():
    verdict = agree(TWO, [DOG, CAT], 0.4, least_clip=0.3)
    assert verdict.reasons == () and verdict.reason is None and verdict.scores == (0.9, 0.8)
    assert [(r.phrase, r.box.xyxy) for r in verdict.regions] == [
        ("a red cat", CAT.box),
        ("a blue dog", DOG.box),
    ]
    unread = [replace(seen, colour=None) for seen in (CAT, DOG)]
    assert not agree(TWO, unread).reasons, "a colour that nobody read fits"
    asked = [replace(CAT, label="red cat", colour=None), replace(DOG, label="blue dog", colour=None)]
    assert not agree(TWO, asked, phrases=True).reasons and agree(TWO, asked).reason == "missing"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ([CAT], "missing"),
        ([CAT, replace(DOG, colour="red")], "missing"),
        ([CAT, DOG, replace(DOG, box=(0.6, 0.6, 0.9, 0.9))], "count"),
        ([CAT, DOG, replace(CAT, box=(0.1, 0.6, 0.4, 0.9), colour="green")], "count"),
        ([replace(CAT, box=(0.1, 0.1, 0.1, 0.4)), DOG], "missing"),
        ([replace(CAT, box=(float("nan"), 0.1, 0.4, 0.4)), DOG], "missing"),
    ],
)
def test_what_is_not_is_rejected_with_its_reason(found, reason):
    assert agree(TWO, found).reason == reason


def test_relation_and_clip_come_last():
    beside = replace(TWO, relation="right")
    verdict = agree(beside, [CAT, DOG], 0.1, least_clip=0.3)
    assert [each.partition(":")[0] for each in verdict.reasons] == ["relation", "clip"]
    assert not agree(replace(TWO, relation="left"), [CAT, DOG]).reasons
    assert holds("above", [CAT], [replace(DOG, box=(0.2, 0.6, 0.5, 0.9))])
    assert not holds("above", [CAT], [DOG]), "at the same height"


def test_the_wants_that_say_more_choose_first_and_plurals_are_two_or_more():
    wish = Wish(
        "x", "natural", "a cat and a red cat", (Want("a cat", "cat"), Want("a red cat", "cat", 1, "red"))
    )
    green = replace(CAT, box=(0.5, 0.5, 0.8, 0.8), colour="green", score=0.5)
    verdict = agree(wish, [CAT, green])
    assert not verdict.reasons and verdict.regions[0].box.xyxy == green.box
    some = Wish("x", "natural", "cats", (Want("cats", "cat", None),))
    assert agree(some, [CAT]).reason == "count" and len(agree(some, [CAT, green]).regions) == 2


def test_a_thing_found_twice_is_one():
    again = replace(CAT, box=(0.11, 0.1, 0.4, 0.4), score=0.5)
    other = replace(CAT, label="dog", box=(0.1, 0.1, 0.39, 0.4), score=0.6)
    assert apart([again, other, CAT]) == [CAT]


# A build on renders of the world


@pytest.fixture(scope="module")
def renders(tmp_path_factory) -> tuple[Path, Path]:
    """Captions of the first scenes that say several things, as a file, and their pictures by id."""
    folder = tmp_path_factory.mktemp("renders")
    (folder / "pictures").mkdir()
    lines = []
    for index in range(40):
        scene = make_scene("tune", index)
        said = caption(scene, 0)
        if len(said.groups) >= 2 and meaning(said.text, WORDS) and all(group.colour for group in said.groups):
            lines.append(json.dumps({"id": scene.id, "prompt": said.text}))
            Image.fromarray(render(scene)).save(folder / "pictures" / f"{scene.id}.png")
        if len(lines) == 8:
            break
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder / "captions.jsonl", folder / "pictures"


def build(out: Path, captions: Path, pictures: Path, *more: str) -> int:
    fixed = ["dataset", "build", "--templates", "0", "--captions", "8", "--batch-size", "3", "--quiet"]
    return main(
        [*fixed, "--out", str(out), "--captions-from", str(captions), "--images", str(pictures), *more]
    )


@pytest.fixture(scope="module")
def built(renders, tmp_path_factory) -> Path:
    """Of the eight pictures one is another's: it cannot agree."""
    captions, pictures = renders
    mixed = tmp_path_factory.mktemp("mixed") / "pictures"
    shutil.copytree(pictures, mixed)
    first, second = sorted(mixed.iterdir())[:2]
    shutil.copy(second, first)
    out = tmp_path_factory.mktemp("built") / "out"
    assert build(out, captions, mixed) == 0
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(text) for text in path.read_text().splitlines()]


def files(folder: Path) -> dict[str, bytes]:
    """All but what says when, and by whom."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {str(path.relative_to(folder)): path for path in found}
    own = ("run.json", "state.json", "progress/")
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(own)}


def test_renders_agree_and_have_their_true_boxes(built):
    items, rejected = lines(built / "items.jsonl"), lines(built / "rejected.jsonl")
    assert len(items) == 7 and len(rejected) == 1 and rejected[0]["reason"] in ("missing", "count")
    assert json.loads((built / "summary.json").read_text())["rejected"] == {rejected[0]["reason"]: 1}
    for item in items:
        scene = make_scene("tune", int(item["id"].split("-")[1]))
        truth = sorted((thing.phrase, thing.box) for thing in scene.things)
        found = sorted((region["phrase"], tuple(region["box"])) for region in item["regions"])
        assert [phrase for phrase, _ in found] == [phrase for phrase, _ in truth]
        assert all(
            abs(a - b) < 0.04
            for (_, one), (_, two) in zip(found, truth, strict=True)
            for a, b in zip(one, two, strict=True)
        )


def test_a_build_that_was_killed_ends_in_the_same_bytes(built, renders, tmp_path, monkeypatch):
    from trueline.dataset import build as module

    out, write = tmp_path / "out", module.DatasetBuild._look
    settings = json.loads((built / "run.json").read_text())["settings"]
    where = (renders[0], Path(settings["images"]))

    def killed(self, turn, batch, files):
        if list((out / "seen" / "0").glob("00000-*.json")):
            raise KeyboardInterrupt
        return write(self, turn, batch, files)

    with monkeypatch.context() as patch:
        patch.setattr(module.DatasetBuild, "_look", killed)
        assert build(out, *where) == 130
    assert not (out / "items.jsonl").exists()
    assert build(out, *where) == 0
    assert files(out) == files(built)
    before = {path: path.stat().st_mtime_ns for path in (out / "seen").rglob("*.json")}
    assert build(out, *where) == 0 and before == {path: path.stat().st_mtime_ns for path in before}, (
        "not looked again"
    )
    assert files(out) == files(built)


def test_other_settings_or_prompts_in_the_same_folder_are_an_error(built, renders, tmp_path, capsys):
    settings = json.loads((built / "run.json").read_text())["settings"]
    out, pictures = tmp_path / "out", Path(settings["images"])
    shutil.copytree(built, out)
    assert build(out, renders[0], pictures, "--min-clip", "0.9") == 2
    assert "holds a run with another min_clip (0.45, now 0.9)" in capsys.readouterr().err
    assert build(out, renders[0], pictures, "--detector", "owlv2=x") == 2
    changed = tmp_path / "captions.jsonl"
    changed.write_text(renders[0].read_text().replace("a ", "the ", 1))
    assert build(out, changed, pictures) == 2
    assert files(out) == files(built)
    (out / "run.json").write_text("{}")
    assert build(out, renders[0], pictures) == 2 and "no manifest of a run" in capsys.readouterr().err


def test_unreadable_pictures_are_counted_and_named_and_too_many_end_the_build(renders, tmp_path, capsys):
    captions, pictures = renders
    mixed = tmp_path / "pictures"
    shutil.copytree(pictures, mixed)
    first, second, *_ = sorted(mixed.iterdir())
    first.write_bytes(first.read_bytes()[:200])
    second.unlink()
    assert build(tmp_path / "few", captions, mixed) == 2
    said = capsys.readouterr().err
    assert "--max-broken: 2 pictures of 8 cannot be used" in said and first.name in said
    assert build(tmp_path / "most", captions, mixed, "--max-broken", "0.3") == 0
    assert "rejected: 2 broken" in capsys.readouterr().out
    rejected = lines(tmp_path / "most" / "rejected.jsonl")
    assert (
        "cannot be read" in rejected[0]["reasons"][0]
        and f"no picture {second.stem}.png" in rejected[1]["reasons"][0]
    )
    shutil.copy(pictures / second.name, mixed)  # mended: looked at again, with its batch
    assert build(tmp_path / "most", captions, mixed, "--max-broken", "0.3") == 0
    assert len(lines(tmp_path / "most" / "rejected.jsonl")) == 1


def test_what_spares_memory_is_a_flag(gated_folder, tmp_path, monkeypatch, capsys):
    """The CPU stands for the GPU here. Moving nets changes no picture; tiles do, so another folder is needed."""
    real, offloaded = Backbone.enable_model_cpu_offload, []
    monkeypatch.setattr(
        Backbone,
        "enable_model_cpu_offload",
        lambda self, device: (offloaded.append(device), real(self, device)),
    )
    asked = f"dataset build --model {gated_folder} --templates 1 --captions 0 --steps 2 --max-broken 1 --device cpu"
    asked = [*asked.split(), "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*asked, "--vae-tiling", "--offload"]) in (0, 1) and len(offloaded) == 1
    settings = json.loads((tmp_path / "out" / "run.json").read_text())["settings"]
    assert settings["vae_tiling"] is True and "offload" not in settings
    assert main(asked) == 2
    assert "holds a run with another vae_tiling (True, now None)" in capsys.readouterr().err


def test_a_model_draws_until_a_prompt_agrees(tmp_path, capsys):
    settings = "--templates 2 --captions 1 --steps 2 --tries 2 --batch-size 2 --device cpu --dtype fp32"
    arguments = ["dataset", "build", "--out", str(tmp_path / "out"), *settings.split()]
    assert main(arguments) in (0, 1)  # two steps draw next to nothing
    said = capsys.readouterr().err
    assert "try 1: looked at 3; " in said and "try 2: looked at" in said
    whole = files(tmp_path / "out")
    drawn = [name for name in whole if name.startswith("pictures/")]
    assert {name.rsplit("-", 1)[1] for name in drawn} == {"0.png", "1.png"}
    assert whole["pictures/color-0000-0.png"] != whole["pictures/color-0000-1.png"]
    (tmp_path / "out" / "pictures" / "natural-0000-1.png").unlink()
    (tmp_path / "out" / "items.jsonl").unlink()
    main(arguments)
    assert files(tmp_path / "out") == whole
    fewer = [
        "1" if value == "2" and arguments[place - 1] == "--tries" else value
        for place, value in enumerate(arguments)
    ]
    made = (tmp_path / "out" / "pictures").stat().st_mtime_ns
    digest = digest_of(read_manifest(tmp_path / "out" / "run.json"))
    assert main(fewer) in (0, 1), "tries may become fewer,"
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["tries"] == 1
    assert all(each["tries"] == 1 for each in lines(tmp_path / "out" / "rejected.jsonl"))
    assert digest_of(read_manifest(tmp_path / "out" / "run.json")) == digest, "decisions stay good,"
    main(arguments)
    assert files(tmp_path / "out") == whole, "and more again,"
    assert (tmp_path / "out" / "pictures").stat().st_mtime_ns == made, "without a new picture"


# The review and the set


def test_the_page_stands_alone_and_escapes_what_it_shows(built, tmp_path):
    from trueline.dataset.review import write_review

    items = lines(built / "items.jsonl")
    items[0] |= {"prompt": EVIL}
    items[0]["regions"][0]["phrase"] = EVIL
    folder = Folder(tmp_path)
    settings = json.loads((built / "run.json").read_text())["settings"]
    assert all(Path(item["image"]).is_relative_to(settings["images"]) for item in items)
    (page,) = write_review(folder, "abc", items, EVIL)
    text = page.read_text()
    assert "<script>alert" not in text and "http://" not in text and "https://" not in text
    assert re.search(r"<title>&lt;/script&gt;", text) and "default-src 'none'" in text
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["items"][0]["prompt"] == EVIL and data["items"][0]["boxes"][0][0] == EVIL
    assert [each["id"] for each in data["items"]] == [item["id"] for item in items]
    assert all(each["src"].startswith("data:image/jpeg;base64,") for each in data["items"])


@needs_chromium
def test_a_review_in_a_browser_is_kept_and_saved(built, tmp_path):
    drive = """
    const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
    (async () => {
      const text = (id) => document.getElementById(id).textContent, said = [text("count")];
      press("k"); press("d"); said.push(text("count"));
      press("u"); said.push(text("count"));
      document.getElementById("drop").click();
      press("b"); said.push(document.querySelectorAll(".box").length);
      for (let i = 2; i < 7; i++) press("k");
      said.push(text("done"), Object.keys(JSON.parse(Object.values(localStorage)[0]).decisions).length);
      let blob = null;
      URL.createObjectURL = (given) => { blob = given; return "#"; };
      document.querySelector(".save").click();
      document.title = JSON.stringify([said, JSON.parse(await blob.text())]);
    })();
    """
    document, console = browse(built / "review.html", tmp_path, drive)
    assert not console
    said, saved = json.loads(Page(document).text.strip().splitlines()[0])
    assert said == [
        "1 of 7: 0 kept, 0 dropped",
        "3 of 7: 1 kept, 1 dropped",
        "2 of 7: 1 kept, 0 dropped",
        0,
        "All decided: 6 kept, 1 dropped",
        7,
    ]
    assert saved["seen"] == seen_of(built)
    (tmp_path / "d.json").write_text(json.dumps(saved))
    assert finish(built, tmp_path / "set", "--decisions", str(tmp_path / "d.json")) == 0
    assert len(lines(tmp_path / "set" / "data.jsonl")) == 6


def decisions(built: Path, path: Path, choices: dict[str, str], **more) -> Path:
    page = (built / "review.html").read_text()
    digest = re.search(r'"build": "(\w+)"', page)[1]
    path.write_text(json.dumps({"format": FORMAT, "build": digest, "page": 1, "decisions": choices} | more))
    return path


def finish(built: Path, target: Path, *more: str) -> int:
    return main(["dataset", "finish", "--out", str(built), "--to", str(target), *more])


def test_the_set_is_what_training_reads(built, tmp_path, capsys):
    items = lines(built / "items.jsonl")
    ids = [item["id"] for item in items]
    saved = decisions(built, tmp_path / "d.json", {ids[0]: "drop", ids[1]: "keep"})
    target = tmp_path / "set"
    assert finish(built, target, "--decisions", str(saved)) == 2
    assert f"5 of 7 items are not decided, first {ids[2]}" in capsys.readouterr().err and not target.exists()
    more = [
        "--decisions",
        str(saved),
        "--undecided",
        "keep",
        "--licence",
        "CC-BY-4.0",
        "--title",
        "My *set* <b>",
    ]
    assert finish(built, target, *more) == 0
    assert [item["id"] for item in lines(target / "data.jsonl")] == ids[1:]
    examples = open_examples(data := Data(source=str(target / "data.jsonl")), Rules.of(data, (128, 128), 30))
    assert len(examples) == 6 and not examples.left_out.items
    assert examples.picture(0).shape == (128, 128, 3) and examples.samples(1)[0].prompt == items[1]["prompt"]
    card = (target / "README.md").read_text()
    for said in (
        'license: "CC-BY-4.0"',
        "# My \\*set\\* &lt;b&gt;",
        "| natural | 8 | 7 | 6 |",
        "`oracle`, asked for nouns",
        "2 items decided by a person, 1 dropped; those not decided: keep",
        "made elsewhere",
        "cosine at least 0.45",
    ):
        assert said in card, said
    before = files(target)
    assert finish(built, target, *more) == 0 and files(target) == before, "the same bytes"
    assert not list(tmp_path.glob(".set*"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    assert finish(built, tmp_path / "mine", *more) == 2 and (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"build": "0" * 16}, "is of another build"),
        ({"format": "x"}, "holds no decisions of this version"),
        ({"decisions": {"nobody": "keep"}}, "decides 'keep' on 'nobody'"),
        ({"decisions": [1]}, "holds no decisions"),
        ({"seen": [1]}, "holds no decisions"),
    ],
)
def test_decisions_that_do_not_belong_are_refused(built, tmp_path, capsys, change, said):
    saved = decisions(built, tmp_path / "d.json", {}, **change)
    assert finish(built, tmp_path / "set", "--decisions", str(saved), "--undecided", "keep") == 2
    assert said in capsys.readouterr().err


def repainted(built: Path, pictures: Path, id: str) -> None:
    """Another file for the same picture: its pixels hardly change, so that it agrees as before."""
    path = pictures / f"{id}.png"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    red, green, blue = picture.getpixel((0, 0))
    picture.putpixel((0, 0), (red ^ 1, green, blue))
    picture.save(path)


def seen_of(built: Path) -> dict[str, str]:
    return {item["id"]: item["meta"]["seen"] for item in lines(built / "items.jsonl")}


def test_a_decision_belongs_to_the_picture_that_was_seen(built, renders, tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(renders[1], pictures)
    assert build(out, renders[0], pictures) == 0
    before = seen_of(out)
    first, second, *rest = before
    choices = {first: "keep", second: "keep"} | dict.fromkeys(rest, "drop")
    saved = decisions(out, tmp_path / "d.json", choices, seen=before)
    assert finish(out, tmp_path / "set", "--decisions", str(saved)) == 0
    assert "--decisions" not in capsys.readouterr().err
    repainted(out, pictures, first)
    assert finish(out, tmp_path / "other", "--decisions", str(saved)) == 2
    assert f"{first}.png has changed since it was looked at; run" in capsys.readouterr().err
    assert build(out, renders[0], pictures) == 0
    after = seen_of(out)
    assert [id for id in before if before[id] != after[id]] == [first]
    assert finish(out, tmp_path / "other", "--decisions", str(saved)) == 2
    said = capsys.readouterr().err
    assert "1 are about pictures or boxes that have changed since and do not count" in said
    assert f"1 of {len(before)} items are not decided, first {first}" in said
    assert finish(out, tmp_path / "other", "--decisions", str(saved), "--undecided", "drop") == 0
    assert [item["id"] for item in lines(tmp_path / "other" / "data.jsonl")] == [second]
    page = (out / "review.html").read_text()
    assert after[first] in page and before[first] not in page


def test_decisions_of_before_count_by_their_id_which_is_said_once(built, tmp_path, capsys):
    ids = list(seen_of(built))
    saved = decisions(built, tmp_path / "d.json", dict.fromkeys(ids, "keep"))
    assert finish(built, tmp_path / "set", "--decisions", str(saved)) == 0
    said = capsys.readouterr().err
    assert said.count("7 do not say which picture was seen") == 1 and len(said.splitlines()) == 1


def test_a_set_of_nothing_is_refused(built, tmp_path, capsys):
    assert finish(built, tmp_path / "set", "--undecided", "drop") == 2
    assert "nothing is left of 7 items" in capsys.readouterr().err
    assert finish(tmp_path, tmp_path / "set", "--undecided", "keep") == 2
    assert "holds no build that is done" in capsys.readouterr().err


def test_text_in_the_card_is_text():
    assert line("a\n# b|c <script>") == "a \\# b\\|c &lt;script&gt;"


# The command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bild"], "there is no action 'bild'"),
        (["build", "--out", "x", "--words", "common"], "--captions-from: give a file"),
        (["build", "--out", "x", "--words", "common", "--captions", "0"], "--detector: give one"),
        (["build", "--out", "x", "--templates", "0", "--captions", "0"], "nothing to make"),
        (["build", "--out", "x", "--images", "y", "--tries", "2"], "--tries: has no effect with --images"),
        (["build", "--out", "x", "--images", "y", "--model", "world"], "--images: a model draws nothing"),
        (["build", "--out", "x", "--max-broken", "2"], "--max-broken: must be between 0 and 1"),
        (["build", "--out", "x", "--steps", "0"], "--steps: must be at least 1"),
        (["build", "--out", "x", "--clip", "none", "--min-clip", "0.2"], "--min-clip: has no effect"),
    ],
)
def test_misuse_is_one_sentence(arguments, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["dataset", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_prompts_alone_can_be_had(tmp_path, capsys):
    arguments = ["--words", "common", "--captions", "0", "--templates", "5", "--prompts-only"]
    assert main(["dataset", "build", "--out", str(tmp_path), *arguments]) == 0
    wishes = lines(tmp_path / "prompts.jsonl")
    assert len(wishes) == 5 and {"id", "prompt", "wants"} <= wishes[0].keys()


def test_help_loads_no_library():
    code = (
        "import sys\nfrom trueline.cli import main\ntry: main(['dataset', 'build', '--help'])\n"
        "except SystemExit: pass\nprint([m for m in ('torch', 'numpy', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.splitlines()[-1] == "[]"
