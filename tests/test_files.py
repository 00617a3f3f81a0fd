"""The strict readers and the checksums of ``trueline.files``."""

import hashlib
import re

import pytest

from trueline import files

READERS = {
    "read_text": files.read_text,
    "read_json_list": files.read_json_list,
    "read_json_object": files.read_json_object,
    "read_json_lines": files.read_json_lines,
    "read_table": lambda path, cure: files.read_table(path, cure, ("a", "b")),
}


@pytest.mark.parametrize(
    ("reader", "content", "complaint"),
    [
        ("read_text", None, r"cannot read it \(No such file or directory\)"),
        ("read_text", b"one\n\xff", r"not UTF-8 \(line 2, byte 4\); convert it, or"),
        ("read_json_list", b"{}", "must be a list of objects"),
        ("read_json_list", b"[1]", "must be a list of objects"),
        ("read_json_list", b"[{]", r"not whole JSON \(line 1, column 3\)"),
        ("read_json_object", b"[]", "must be an object"),
        ("read_json_object", b"[" * 100_000, "not JSON that can be read"),
        ("read_json_object", b'{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice in one object; keep one"),
        ("read_json_lines", b"{}\n\n[]", "line 3: must be an object"),
        ("read_table", b"a,c\n1,2\n", "has no column b"),
        ("read_table", b"a,b\n1,2,3\n", "line 2: must have 2 columns, as the header"),
        ("read_table", b'a,b\n1,"2', r"line 2: not CSV \(unexpected end of data\)"),
    ],
)
def test_a_broken_file_is_one_sentence_with_the_cure(tmp_path, reader, content, complaint):
    path = tmp_path / "a.file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path}(, line \d+)?: .*take another$") as caught:
        READERS[reader](path, "take another")
    assert re.search(complaint, str(caught.value))


def test_checksums(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert files.json_digest({"b": 1, "a": 2}) == hashlib.sha256(b'{"a": 2, "b": 1}').hexdigest()
