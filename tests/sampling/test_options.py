"""``Sampling`` is the only list of options: flags, records, evaluations and the loop's arguments follow it."""

import inspect
import json
from argparse import ArgumentParser

import pytest
from pydantic import Field

from trueline.commands import evaluate, generate
from trueline.commands._parser import add_settings, flag_of, settings_of
from trueline.evaluation.run import EvaluationSettings
from trueline.sampling.loop import sample
from trueline.sampling.options import Sampling, recorded
from trueline.sampling.request import Request

LINE = {
    **{"--steps": "7", "--scheduler": "euler", "--guidance-scale": "2", "--guidance-interval": "0,.5"},
    **{"--grounding-schedule": ".5,.25,.25", "--eta": ".25"},
}
SAID = Sampling(
    steps=7,
    scheduler="euler",
    guidance_scale=2.0,
    guidance_interval=(0, 0.5),
    grounding_schedule=(0.5, 0.25, 0.25),
    eta=0.25,
)


def test_every_option_says_what_it_is():
    for name, field in Sampling.model_fields.items():
        assert field.description and not field.is_required(), name
    schema = Sampling.model_json_schema()["properties"]
    assert (schema["steps"]["minimum"], schema["steps"]["maximum"]) == (1, 1000)
    assert (schema["eta"]["minimum"], schema["eta"]["maximum"]) == (0, 1)


def test_no_option_is_listed_twice():
    assert not Sampling.model_fields.keys() & inspect.signature(sample).parameters.keys()
    assert not Sampling.model_fields.keys() & Request.model_fields.keys()


def test_commands_have_a_flag_for_every_option():
    flags = [part for pair in LINE.items() for part in pair]
    assert set(LINE) == {flag_of(name) for name in recorded()}
    drawn = generate.parser().parse_args(["a cat", *flags, "--strict"])
    assert settings_of(drawn, Sampling) == SAID.model_copy(update={"strict": True})
    table = evaluate.parser().parse_args(["world", *flags])
    assert settings_of(table, Sampling) == SAID


@pytest.mark.parametrize("name", Sampling.model_fields)
def test_a_record_says_every_option(name):
    flag = [flag_of(name), *([LINE[flag_of(name)]] if flag_of(name) in LINE else [])]
    with pytest.raises(ValueError, match=f"--regenerate: the record says everything; leave {flag[0]} out"):
        generate.main(["--regenerate", "x.json", *flag])


def test_settings_of_an_evaluation_hold_every_option_that_decides_pixels():
    settings = EvaluationSettings("world", "world", None, (0,), SAID, "fp32", 16).to_json()
    own = {"benchmark", "model", "n", "seeds", "dtype", "batch_size", "planner", "vae_tiling"}
    assert settings.keys() == own | {*recorded()}
    assert Sampling.of_record(json.loads(json.dumps(settings))) == SAID


def test_a_new_option_needs_no_other_place():
    class More(Sampling):
        rescale: float = Field(default=0.5, description="how much")

    top = ArgumentParser()
    add_settings(top, More)
    assert "--rescale NUMBER how much (default 0.5)" in " ".join(top.format_help().split())
    assert "(default 50)" in top.format_help()
    assert settings_of(top.parse_args(["--rescale", ".25"]), More, {"steps": 20}) == More(
        steps=20, rescale=0.25
    )
    assert More(rescale=0.25).to_record()["rescale"] == 0.25
