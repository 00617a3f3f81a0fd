"""No secret in a file, a log or an error: user info and query of an address, keys, what servers echo."""

import base64
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

import pytest
from chat_server import Act, ChatServer, by, fail, isolate, say
from PIL import Image
from pydantic import BaseModel

from trueline.chat import Chat, ChatError
from trueline.chat.masking import Mask
from trueline.cli import TRACEBACK, main
from trueline.commands._model import warnings_as_lines
from trueline.commands._planners import say as say_of
from trueline.errors import FieldError, Frozen, is_secret, redacted, redacted_arguments, short
from trueline.evaluation.benchmarks.nsr_1k import COUNTING, SPATIAL
from trueline.evaluation.tables import markdown

PASSWORD, TOKEN, KEY = "hunter2+pass/word", "tok=123&456", "sk-Geheim/9~a+b"
SECRETS = (PASSWORD, TOKEN, KEY)


def with_secrets(server: ChatServer) -> str:
    user_info = f"someone:{quote(PASSWORD, safe='')}@"
    return f"{server.url.replace('://', f'://{user_info}')}?token={quote(TOKEN, safe='')}&version=1"


def echoes(secret: str) -> list[str]:
    """How a server may write it."""
    raw = secret.encode()
    plain = [secret, quote(secret, safe=""), json.dumps(secret)[1:-1], raw.hex(), secret.upper()]
    plain.append("".join(f"\\u{ord(letter):04x}" for letter in secret))
    coded = [
        base64.b64encode(before + raw + after) for before in (b"", b"x", b"xy") for after in (b"", b"\n")
    ]
    coded.append(base64.urlsafe_b64encode(b"Bearer " + raw))
    return plain + [each.decode() for each in coded]


def readings(text: bytes) -> Iterator[bytes]:
    """Of a text: as it stands, with what URLs, JSON, hexadecimal digits and base64 hide undone."""
    yield text
    yield unquote_to_bytes(text)
    yield re.sub(rb"\\u00([0-9a-f]{2})", lambda m: bytes.fromhex(m[1].decode()), text, flags=re.IGNORECASE)
    for run in re.findall(rb"[A-Za-z0-9+/_-]{8,}", text):
        for start in range(4):
            part = run[start:].translate(bytes.maketrans(b"-_", b"+/"))
            whole = part[: len(part) - (len(part) % 4 == 1)]
            yield base64.b64decode(whole + b"=" * (-len(whole) % 4))
    for run in re.findall(rb"(?:[0-9a-f]{2}){4,}", text, flags=re.IGNORECASE):
        yield bytes.fromhex(run.decode())


def assert_clean(text: bytes, where: object) -> None:
    for reading in readings(text):
        for secret in SECRETS:
            assert secret.lower().encode() not in reading.lower(), (secret, where)


ECHOES = [written for secret in SECRETS for written in echoes(secret)]


def assert_no_secret_in(folder: Path) -> int:
    """Every file, also the texts within pictures; returns how many there are."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        assert_clean(path.read_bytes() + str(path).encode(), path)
        if path.suffix == ".png":
            with Image.open(path) as picture:
                assert_clean(json.dumps(dict(picture.text), ensure_ascii=False).encode(), path)
    return len(files)


# The function


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://user:hunter2@127.0.0.1:1/v1?token=tok123", "http://***@127.0.0.1:1/v1?***"),
        ("see 'http://u:p@h/x?y=z'; give (https://a.b/c?d).", "see 'http://***@h/x?***'; give (https://a.b/c?***)."),
        ("no file http:/u:p@h/x?a=b, of a path", "no file http:/***@h/x?***, of a path"),
        ("s3://key:word@bucket/x#frag", "s3://***@bucket/x#***"),
        ('{"api_key": "sk-1", "max_tokens": 3}', '{"api_key": "***", "max_tokens": 3}'),
        ("unrecognized arguments: --llm.api-key sk-123 --n 2", "unrecognized arguments: --llm.api-key *** --n 2"),
        ("hubToken=abc;PASSWORD='a b' n=3", "hubToken=***;PASSWORD=*** n=3"),
        ("Authorization: Bearer abcdefg", "Authorization: Bearer ***"),
        ("--key: study/key.json is no key", "--key: study/key.json is no key"),
        ("--set: write KEY=VALUE (got 'x')", "--set: write KEY=VALUE (got 'x')"),
        ("a red apple at 3:/4, replay:/a@b.json, http://h:80/v1", "a red apple at 3:/4, replay:/a@b.json, http://h:80/v1"),
    ],
)  # fmt: skip
def test_what_a_text_may_say(text, safe):
    assert redacted(text) == safe == redacted(safe)


@pytest.mark.parametrize(
    "text", ["http://" * 20_000, "a" * 300_000, "a=" * 200_000, "http://h?" + "." * 200_000]
)
def test_a_long_text_takes_no_time(text):
    assert len(redacted(text)) <= len(text) + 9


def test_settings_and_arguments():
    settings = {
        "m": "http://u:p@h",
        "hub": {"token": "x", "at": ["https://h?q"]},
        "api_key": None,
        "token_mlp": 64,
    }
    assert redacted(settings) == {
        "m": "http://***@h", "hub": {"token": "***", "at": ["https://h?***"]}, "api_key": None, "token_mlp": 64,
    }  # fmt: skip
    line = ["--n", "2", "--url", "http://u:a b@h/v1?c d", "--hub-token", "-x", "--set", "data.token=abc def"]
    kept = ["--max_tokens", "9", "--key", "votes/key.json", "--model=a=b", "a red apple"]
    assert redacted_arguments([*line, *kept], shown=["--key"]) == [
        "--n", "2", "--url", "http://***@h/v1?***", "--hub-token", "***", "--set", "data.token=***", *kept,
    ]  # fmt: skip


def test_names():
    secret = (
        "api_key",
        "hub-token",
        "clientSecret",
        "OPENAI_API_KEY",
        "db.password",
        "data.token",
        "apikey",
        "pwd",
    )
    assert all(map(is_secret, secret))
    assert not any(map(is_secret, ("max_tokens", "keyword", "tokenizer", "monkey", "prompt", "keyboard")))


def test_errors_of_settings_show_no_secret():
    class Hub(Frozen):
        token: int = 0
        address: int = 0

    for given in ({"token": "geheim"}, {"address": "http://u:geheim@h"}):
        with pytest.raises(FieldError) as caught:
            Hub(**given)
        assert "geheim" not in str(caught.value) and "***" in str(caught.value)
    assert short("http://u:geheim@h") == "'http://***@h'"


def test_a_mask_knows_how_a_secret_is_written():
    mask = Mask(SECRETS)
    for written in ECHOES:
        assert_clean(mask(f"it is {written}!").encode(), written)
        with pytest.raises(AssertionError):
            assert_clean(f"it is {written}!".encode(), "the check itself")
    plain = "a red apple, someone's passwords and tokens"
    assert mask(plain) == plain and Mask([])(plain) == plain


def test_a_table_of_old_rows_shows_no_secret():
    row = dict.fromkeys(("benchmark", "model", "method", "metric", "category", "protocol", "commit"), "x")
    row |= {"value": 1, "low": 1, "high": 1, "n": 1, "images_per_prompt": 1, "seeds": []}
    text = markdown([row | {"command": "trueline evaluate --llm.base_url http://u:geheim@h/v1?token=t"}])
    assert "http://***@h/v1?***" in text and "geheim" not in text


# A server that echoes


class Words(BaseModel):
    words: str


@pytest.mark.parametrize("status", [200, 401, 500])
def test_what_a_server_echoes_is_neither_kept_nor_shown(status, monkeypatch, tmp_path, caplog):
    isolate(monkeypatch)
    caplog.set_level(logging.DEBUG)
    text = " ".join(ECHOES)
    act = say(json.dumps({"words": text})) if status == 200 else fail(status, text)
    notes: list[str] = []
    with ChatServer(act) as server:
        chat = Chat.of("test", base_url=with_secrets(server), api_key=KEY, cache=tmp_path, retries=0)
        try:
            said = chat.ask([{"role": "user", "content": "?"}], Words, notes=notes).words
        except ChatError as error:
            said = str(error)
    assert "***" in said and (status != 200 or any("it is masked" in note for note in notes))
    assert_clean(" ".join([said, *notes, caplog.text, repr(chat.settings)]).encode(), "said")
    assert assert_no_secret_in(tmp_path) == (status == 200)
    assert "HTTP Request" in caplog.text, "the HTTP library logs what it asks for"
    sent = server.headers[0]["authorization"].removeprefix("Basic ")
    assert base64.b64decode(sent).decode() == f"someone:{PASSWORD}", "the server itself is told"
    assert f"?token={quote(TOKEN, safe='')}&version=1" in server.paths[0]


# Real commands

PLAN = {"regions": [{"object": "apple", "phrase": "a red apple", "box": [0, 0, 200, 200]}]}
JUDGED = {"objects": [{"tag": "apple", "likelihood": "certain", "phrase": "a red apple"}]}


def echoing(body: dict) -> Act:
    """An answer that can be used, with every secret in it, where there is a question that it fits; else an error."""
    question = body["messages"][-1]["content"]
    text = " ".join(ECHOES)
    if "two cats" in question:
        return fail(401, text)
    if '"tags"' in question:
        return say(JUDGED | {"thoughts": text})
    more = {"object": text[:60], "phrase": f"a red apple {ECHOES[0]}", "box": [10, 10, 300, 300]}
    return say(f"My key: {text}\n" + json.dumps({"regions": [*PLAN["regions"], more]}))


@pytest.fixture
def data(tmp_path) -> Path:
    """Two prompts of NSR-1K and of GenEval: the model has a plan for one of each."""
    prompts = ("a red apple", "two cats")
    rows = [
        {"id": k, "prompt": prompt, "sub-type": "real", "num_object": [["cat", 2]], "object_list": []}
        for k, prompt in enumerate(prompts)
    ]
    tagged = [
        {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": prompt}
        for prompt in prompts
    ]
    files = {
        COUNTING: json.dumps(rows),
        SPATIAL: "[]",
        "geneval/evaluation_metadata.jsonl": "".join(json.dumps(row) + "\n" for row in tagged),
    }
    for file, text in files.items():
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file).write_text(text)
    return tmp_path / "data"


def brightness(images, texts):
    return [sum(image.convert("L").getdata()) / 1e6 for image in images]


def test_commands_that_ask_a_server_leave_no_secret_anywhere(
    data, gated_folder, tmp_path, monkeypatch, capfd
):
    isolate(monkeypatch)
    monkeypatch.setenv("TRUELINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    tiny = ["--model", str(gated_folder), "--steps", "1", "--dtype", "fp32", "--quiet"]
    llm = ["--planner", "llm:x", "--llm.retries", "1"]
    again = ["--realign", "--detector", "oracle", "--segmenter", "none", "--reasoner", "llm:x"]
    judge = ["--judges", f"bright={__name__}:brightness"]
    found = ["--data", str(data), "--quiet"]
    with ChatServer(by(echoing)) as server:
        at = ["--llm.base_url", with_secrets(server)]
        codes = [
            main(
                ["plan", "a red apple", "two cats", *llm, *at, "--out", "plans.jsonl", "--draw", "plans.png"]
            ),
            main(["evaluate", "nsr-1k-layout", *found, *llm, *at, "--out", "layouts"]),
            main(
                [
                    "evaluate",
                    "geneval",
                    *found,
                    *llm,
                    *at,
                    *tiny,
                    *judge,
                    "--methods",
                    "plain",
                    "gligen",
                    "--out",
                    "g",
                ]
            ),
            main(["generate", "a red apple", *llm, *at, *again, *tiny, "--out", "pictures", "--overlay"]),
        ]
        asked = len(server.requests)
        monkeypatch.setenv("OPENAI_BASE_URL", with_secrets(server))
        codes.append(main(["plan", "a red apple", *llm]))
    assert codes == [1, 1, 1, 0, 0] and len(server.requests) == asked, "the last is in the cache"
    assert_no_secret_in(tmp_path)
    assert_clean("\n".join(capfd.readouterr()).encode(), "the screen")
    for file in ("layouts/results.json", "g/results.json"):
        command = json.loads((tmp_path / file).read_text())[0]["command"]
        assert f"--llm.base_url {server.url.replace('://', '://***@')}?***" in command
    assert "***@" in (tmp_path / "g/report.html").read_text() and list((tmp_path / "cache").rglob("*.json"))


ADDRESS = f"http://someone:{quote(PASSWORD, safe='')}@127.0.0.1:1/x?token={quote(TOKEN, safe='')}"


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "a red apple", "--model", ADDRESS, "--out", "out"],
        ["generate", "a red apple", "--lora", ADDRESS, "--out", "out"],
        ["generate", "--layout", ADDRESS],
        ["generate", "--regenerate", ADDRESS],
        ["generate", "a red apple", "--planner", f"replay:{ADDRESS}"],
        ["generate", "a red apple", "--llm.api-key", KEY],
        ["generate", "a red apple", "--planner", "llm:x", "--llm.api_key", KEY],
        ["plan", "a red apple", "--planner", f"replay:{ADDRESS}"],
        ["plan", "a red apple", "--planner", "llm:x", "--llm.base_url", ADDRESS.replace("http", "magic")],
        ["plan", "--file", ADDRESS],
        ["evaluate", "world", "--model", ADDRESS, "--out", "out", "--n", "1"],
        [
            "evaluate",
            "world",
            "--judges",
            f"clip={ADDRESS}",
            "--n",
            "1",
            "--steps",
            "1",
            "--methods",
            "plain",
        ],
        ["evaluate", "geneval", "--data", ADDRESS],
        ["dataset", "build", "--model", ADDRESS, "--out", "out", "--templates", "1", "--captions", "1"],
        ["dataset", "build", "--captions-from", ADDRESS, "--out", "out"],
        ["train", "goal", "--model", ADDRESS, "--out", "out"],
        ["train", "goal", "--data", ADDRESS, "--out", "out"],
        ["train", "goal", "--config", ADDRESS, "--out", "out"],
        ["train", "goal", "--set", f"data.hub_token={KEY}", "--out", "out"],
        ["train", "goal", "--set", f"steps={ADDRESS}", "--out", "out"],
        ["world", "report", "--model", ADDRESS],
        ["votes", "votes.json", "--key", ADDRESS],
        ["merge", ADDRESS, "--out", "out"],
        ["results", ADDRESS],
        ["convert", ADDRESS, "--from", "coco", "--to", "yolo", "--out", "out"],
    ],
    ids=lambda command: "-".join(word for word in command[:4] if "/" not in word),
)
def test_an_address_in_any_argument_is_shown_by_no_error(command, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(TRACEBACK, raising=False)
    (tmp_path / "votes.json").write_text("{}")
    assert main(command) == 2
    written = capfd.readouterr()
    assert len(written.err.strip()) > 20
    assert_clean(f"{written.out}\n{written.err}".encode(), "the screen")
    assert_no_secret_in(tmp_path)


@pytest.mark.parametrize(
    "command", [["plan", "a", "--planner"], ["results"], ["generate", "--layout"], ["merge"]]
)
def test_nor_by_a_traceback(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(TRACEBACK, "1")
    monkeypatch.chdir(tmp_path)
    assert main([*command, f"replay:{ADDRESS}", *["--out", "out"] * (command == ["merge"])]) == 2
    written = capsys.readouterr().err
    assert "Traceback" in written and written.count("127.0.0.1:1") >= 2
    assert_clean(written.encode(), "the traceback")


def test_an_error_of_the_system_names_its_file_without_secrets(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(TRACEBACK, "1")
    monkeypatch.setattr("trueline.commands.methods.main", lambda _: Path(f"{tmp_path}/{ADDRESS}").read_text())
    assert main(["methods"]) == 2
    written = capsys.readouterr().err
    assert "FileNotFoundError" in written and written.count("127.0.0.1:1") >= 2
    assert_clean(written.encode(), "the traceback")


def test_nor_by_a_remark_or_a_warning(capsys):
    with warnings_as_lines():
        warnings.warn(f"{ADDRESS} is slow", UserWarning, stacklevel=1)
    say_of("a cat", 0, f"{ADDRESS} has no plan")
    written = capsys.readouterr().err
    assert written.count("127.0.0.1:1") == 2
    assert_clean(written.encode(), "the screen")
