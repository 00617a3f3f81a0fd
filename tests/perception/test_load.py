"""``load``: names, plug-ins, and what comes with the package or with an extra."""

import importlib.util
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from trueline.perception import KINDS, Detector, Matcher, load
from trueline.perception.inception import Inception
from trueline.world.pack import CLIP_PICTURES
from trueline.world.perception import CLIP_FOLDER, Oracle
from trueline.world.scenes import make_scene, render
from trueline.world.vae import to_tensor


def test_the_table_names_what_there_is_and_imports_no_torch():
    code = "import sys, trueline.perception as p; print(len(p.KINDS), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == [str(len(KINDS)), "False"]
    for target in KINDS.values():
        module, attribute = target.split(":")
        assert callable(
            getattr(
                importlib.import_module(module if "." in module else f"trueline.perception.{module}"),
                attribute,
            )
        )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("unidet=here", "unknown kind of model 'unidet'; use one of owlv2"),
        ("", "unknown kind"),
        ("owlv2", "owlv2 needs a checkpoint"),
        ("clip=/nowhere/at/all", "weights of /nowhere/at/all cannot be read"),
        ("inception-tf=/nowhere.pth", r"/nowhere\.pth is missing"),
        ("world-clip=/nowhere", "trueline world build"),
        ("mine=no_such_module_here:score", "cannot be imported"),
        ("mine=math:pi", "is a float, not a function"),
        ("mine=math:nothing.here", "cannot be imported"),
    ],
)
def test_what_cannot_be_loaded_is_said_in_one_sentence(name, problem):
    with pytest.raises(ValueError, match=problem) as caught:
        load(name, local_files_only=True)
    assert "\n" not in str(caught.value)


def test_precision_is_checked(clip_folder):
    with pytest.raises(ValueError, match="dtype must be"):
        load(f"clip={clip_folder}", dtype="int8")


# ---------------------------------------------------------------------------------------------- plug-ins


@pytest.fixture
def plugin_module(tmp_path, monkeypatch):
    (tmp_path / "my_scores.py").write_text(
        "import numpy as np, torch\n"
        "def length(images, texts): return [len(t) + i.width for i, t in zip(images, texts)]\n"
        "def tensor(images, texts): return torch.ones(len(texts), requires_grad=True)\n"
        "def array(images, texts): return np.arange(len(texts), dtype=np.float64)\n"
        "def short(images, texts): return [1.0]\n"
        "def nan(images, texts): return [float('nan')] * len(texts)\n"
        "def words(images, texts): return list(texts)\n"
        "def wrong(images, texts): return {}['secret']\n"
        "def told(images, texts): raise ValueError('texts: too long')\n"
        "class Q:\n    @staticmethod\n    def align(images, texts): return [2] * len(texts)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_scores", None)


def test_a_plug_in_is_a_matcher(plugin_module, pictures):
    plugin = load("imagereward=my_scores:length")
    assert isinstance(plugin, Matcher) and plugin.name == "imagereward"
    scores = plugin.match(pictures[:2], ["a", "bcd"])
    assert scores.dtype is torch.float32 and scores.tolist() == [61.0, 43.0]
    for name, wanted in (("tensor", [1, 1]), ("array", [0, 1]), ("Q.align", [2, 2])):
        assert load(f"x=my_scores:{name}").match(pictures[:2], ["a", "b"]).tolist() == wanted
    assert plugin.match([], []).shape == (0,)


@pytest.mark.parametrize(
    ("name", "problem"), [("short", r"shape \(1,\), not \(2,\)"), ("nan", "got nan"), ("words", "got a list")]
)
def test_what_a_plug_in_returns_is_checked(plugin_module, pictures, name, problem):
    with pytest.raises(ValueError, match=problem):
        load(f"x=my_scores:{name}").match(pictures[:2], ["a", "b"])


def test_a_plug_in_that_fails_is_named(plugin_module, pictures, tmp_path):
    with pytest.raises(
        ValueError, match=r"^the plug-in my_scores:wrong failed \(KeyError: 'secret'\); mend it"
    ) as caught:
        load("x=my_scores:wrong").match(pictures[:1], ["a"])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match=r"^texts: too long$"):
        load("x=my_scores:told").match(pictures[:1], ["a"])
    (tmp_path / "my_broken.py").write_text("def f(:")
    with pytest.raises(ValueError, match="my_broken:f cannot be imported"):
        load("x=my_broken:f")


# ---------------------------------------------------------------------------------------------- Inception


def test_inception_without_torch_fidelity_names_the_extra(tmp_path):
    torch.save({"w": torch.zeros(1)}, tmp_path / "w.pth")
    wanted = "weights are not those" if importlib.util.find_spec("torch_fidelity") else r"trueline\[fid\]"
    with pytest.raises(ValueError, match=wanted):
        Inception(tmp_path / "w.pth")


def test_inception_refuses_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    torch.save({"w": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match="more than tensors"):
        Inception(tmp_path / "trap.pth")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("inception/code/__torch__.py", "")
    with pytest.raises(ValueError, match="TorchScript"):
        Inception(tmp_path / "script.pt")
    assert not (tmp_path / "ran").exists()


# ---------------------------------------------------------------------------------------------- the world


def test_the_oracle_sees_a_scene():
    scene = make_scene("test", 3)
    oracle = load("oracle")
    assert isinstance(oracle, Detector) and isinstance(oracle, Oracle)
    picture = Image.fromarray(render(scene))
    names = [thing.name for thing in scene.things]
    found = oracle.detect([picture], [names])[0]
    assert sorted((d.label, d.colour, d.texture) for d in found) == sorted(
        (t.name, t.colour, t.texture) for t in scene.things
    )
    assert all(d.mask.shape == (128, 128) and d.score >= oracle.least for d in found)
    only = oracle.detect([picture], [names[:1]])[0]
    assert {d.label for d in only} == {names[0]}
    assert oracle.detect([picture], [[]]) == [[]]


def test_the_oracle_resizes_and_says_so():
    scene = make_scene("test", 3)
    names = [thing.name for thing in scene.things]
    large = Image.fromarray(render(scene)).resize((256, 192))
    with pytest.warns(UserWarning, match="256 x 192 was resized"):
        found = load("oracle").detect([large], [names])[0]
    assert sorted(d.label for d in found) == sorted(names)
    assert all(d.mask.shape == (192, 256) for d in found)


def test_the_worlds_clip_sees_pictures_as_it_was_trained_to():
    """The preprocessing that ``pack`` writes beside the weights is the training's ``to_tensor``."""
    from transformers import CLIPImageProcessor

    picture = render(make_scene("test", 0))
    processor = CLIPImageProcessor(**{k: v for k, v in CLIP_PICTURES.items() if k != "image_processor_type"})
    seen = processor([Image.fromarray(picture)], return_tensors="pt").pixel_values
    torch.testing.assert_close(seen, to_tensor(picture[None]), atol=1e-5, rtol=0)


def test_the_packaged_clip_loads_or_says_how_to_make_it():
    if not (CLIP_FOLDER / "config.json").is_file():
        with pytest.raises(ValueError, match="trueline world build"):
            load("world-clip")
        return
    clip = load("world-clip")
    scene = make_scene("test", 0)
    picture = Image.fromarray(render(scene))
    assert clip.name == "world" and clip.images([picture]).shape == (1, 128)
    thing = scene.things[0]
    right, wrong = clip.match(
        [picture] * 2, [f"a {thing.colour} {thing.name}", "a photo of nothing"]
    ).tolist()
    assert np.isfinite([right, wrong]).all() and right > wrong
