"""Every reader of pictures gets PostScript that is called a picture: one sentence, and no Ghostscript is started."""

import base64
import json
import os
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from trueline.dataset import Wish, finish
from trueline.dataset.pictures import GivenPictures
from trueline.engine import Engine, carry_out
from trueline.evaluation.benchmarks import benchmark_class
from trueline.evaluation.benchmarks.t2i_compbench.folder import export_compbench
from trueline.evaluation.elsewhere import Elsewhere
from trueline.evaluation.judging import judging
from trueline.evaluation.report import thumbnail
from trueline.evaluation.run import REFERENCE, EvaluationRun, EvaluationSettings
from trueline.files import Bundle
from trueline.formats import read
from trueline.sampling.options import Sampling
from trueline.training.data.examples import open_examples
from trueline.training.settings import Data

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 64 64
%%EndComments
0 0 moveto 64 64 lineto stroke showpage
%%EOF
"""


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """The file that Ghostscript makes when it is started."""
    home, made = tmp_path / "bin", tmp_path / "started"
    home.mkdir()
    (home / "gs").write_text(f"#!/bin/sh\ntouch {made}\nexit 0\n")
    (home / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(home), prepend=":")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # what PIL remembers of an earlier search
    return made


def coco(folder: Path, eps: Path) -> Path:
    (folder / "annotations").mkdir()
    (folder / "val2014").mkdir()
    (folder / "val2014" / "a.png").write_bytes(eps.read_bytes())
    images = [{"id": 1, "file_name": "a.png", "width": 64, "height": 64}]
    captions = [{"image_id": 1, "caption": "a cat"}]
    things = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "iscrowd": 0}]
    categories = [{"id": 1, "name": "cat"}]
    rows = {
        "captions": {"annotations": captions},
        "instances": {"annotations": things, "categories": categories},
    }
    for kind, content in rows.items():
        path = folder / "annotations" / f"{kind}_val2014.json"
        path.write_text(json.dumps({"images": images} | content))
    return folder


def training_on_layouts(folder: Path, eps: Path) -> None:
    (folder / "data.jsonl").write_text(json.dumps({"prompt": "a cat", "image": "a.png"}))
    open_examples(Data(source=str(folder / "data.jsonl")), (64, 64), 8).picture(0)


def training_on_coco(folder: Path, eps: Path) -> None:
    open_examples(Data(source=str(coco(folder, eps))), (64, 64), 8).picture(0)


def _judging(folder: Path, benchmark, method: str, images: Path) -> None:
    settings = EvaluationSettings(
        benchmark=benchmark.name,
        model="",
        n=1,
        seeds=(0,),
        sampling=Sampling(),
        dtype="float32",
        batch_size=1,
    )
    wanted = EvaluationRun(folder / "other", benchmark, settings).pictures
    for path in (images / f"{picture.name}.png" for picture in wanted):
        path.write_bytes(EPS)
    run = EvaluationRun(
        folder / "out", benchmark, settings, elsewhere=[Elsewhere("mine", images, wanted, benchmark)]
    )
    judge = SimpleNamespace(name="nobody", protocol="")
    carry_out(run.folder, [judging(run, [method], judge)], Engine(), silent=True)


def judging_pictures_made_elsewhere(folder: Path, eps: Path) -> None:
    (folder / "images").mkdir()
    row = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    (folder / "geneval").mkdir()
    (folder / "geneval" / "evaluation_metadata.jsonl").write_text(json.dumps(row))
    _judging(folder, benchmark_class("geneval")(data=folder), "mine", folder / "images")


def judging_cocos_own_pictures(folder: Path, eps: Path) -> None:
    (folder / "images").mkdir()
    _judging(folder, benchmark_class("coco")(data=coco(folder, eps), n=1), REFERENCE, folder / "images")


def exporting_for_t2i_compbench(folder: Path, eps: Path) -> None:
    export_compbench(folder / "out", [(SimpleNamespace(prompt="a cat", id="a"), eps)])


def a_mask_of_labelme(folder: Path, eps: Path) -> None:
    shape = {"label": "cat", "points": [[0, 0], [40, 40]], "shape_type": "mask"}
    shape["mask"] = base64.b64encode(eps.read_bytes()).decode()
    (folder / "a.json").write_text(json.dumps({"shapes": [shape], "imageWidth": 64, "imageHeight": 64}))
    read(folder / "a.json", "labelme")


def building_a_data_set(folder: Path, eps: Path) -> None:
    GivenPictures(folder).open(0, Wish("a", "natural", "a cat", ()), Bundle())


def finishing_a_data_set(folder: Path, eps: Path) -> None:
    finish._content(eps, {})


def a_page(folder: Path, eps: Path) -> None:
    thumbnail(eps, 64)


@pytest.mark.parametrize("reader", [training_on_layouts, building_a_data_set, a_page])
def test_no_reader_waits_for_a_pipe(tmp_path, reader):
    os.mkfifo(tmp_path / "a.png")
    found: list[Exception] = []

    def call():
        try:
            reader(tmp_path, tmp_path / "a.png")
        except ValueError as error:
            found.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(20)
    assert len(found) == 1 and not thread.is_alive()


READERS = [
    training_on_layouts,
    training_on_coco,
    judging_pictures_made_elsewhere,
    judging_cocos_own_pictures,
    exporting_for_t2i_compbench,
    a_mask_of_labelme,
    building_a_data_set,
    finishing_a_data_set,
    a_page,
]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_no_reader_starts_a_program(tmp_path, mark, reader):
    eps = tmp_path / "a.png"
    eps.write_bytes(EPS)
    with pytest.raises(
        ValueError, match=r"^[^\n]*it is no PNG, JPEG or WebP, whatever its name\)?[^\n]*; [^\n]*$"
    ):
        reader(tmp_path, eps)
    assert not mark.exists()
    with suppress(OSError), Image.open(eps) as image:  # what they would all do
        np.asarray(image)
    assert mark.exists(), "the test sees a start"
