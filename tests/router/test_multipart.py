"""Forms: the model is found where a form's parser finds it, and nothing but its name changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.multipart import MAX_PARTS, FormBody, read_form
from router.reading import BadCall

TYPE = b"multipart/form-data; boundary=XyZ"


def form(*parts: tuple[bytes, bytes]) -> bytes:
    """A form of these (headers after `content-disposition: form-data`, content)."""
    lines = [b"--XyZ\r\nContent-Disposition: form-data%b\r\n\r\n%b\r\n" % part for part in parts]
    return b"".join([*lines, b"--XyZ--\r\n"])


MODEL = (b'; name="model"', b"jane")
FILE = (b'; name="file"; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\x00\xff")


@settings(max_examples=200, deadline=None)
@given(
    content=st.binary(max_size=200).filter(lambda data: b"--XyZ" not in data),
    before=st.booleans(),
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_only_the_models_name_changes_whatever_a_file_holds(content: bytes, before: bool, name: str) -> None:
    parts = [MODEL, (FILE[0], content)] if before else [(FILE[0], content), MODEL]
    read = read_form(form(*parts), TYPE)
    assert read.model == "jane"
    quoted = b'"%b"' % name.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    if all(ord(character) >= 32 for character in name):
        changed = [(head, name.encode() if head == MODEL[0] else data) for head, data in parts]
        assert b"".join(read.write(quoted)) == form(*changed)


FOUND: list[tuple[str, bytes, bytes]] = [
    ("a name without quotes", form((b"; name=model", b"jane"), FILE), TYPE),
    ("headers in capitals", form(MODEL, FILE).replace(b"Content-Disposition", b"CONTENT-DISPOSITION"), TYPE),
    ("another header before", form(MODEL).replace(b"Content-D", b"Content-Type: text/plain\r\nContent-D"), TYPE),
    ("another parameter before the name", form((b'; filename="x"; name="model"', b"jane")), TYPE),
    ("a quoted boundary", form(MODEL), b'multipart/form-data; charset=utf-8; boundary="XyZ"'),
    ("a type in capitals", form(MODEL), b"Multipart/Form-Data; Boundary=XyZ"),
    ("a preamble", b"hello\r\n" + form(MODEL), TYPE),
    (
        "a file that holds a form",
        form((FILE[0], b'--Q\r\ncontent-disposition: form-data; name="model"\r\n\r\nx\r\n'), MODEL),
        TYPE,
    ),
    ("a file that is named model", form((b'; name="file"; filename="name=model"', b"x"), MODEL), TYPE),
]


@pytest.mark.parametrize(("body", "content_type"), [row[1:] for row in FOUND], ids=[row[0] for row in FOUND])
def test_the_model_is_found_in_every_spelling(body: bytes, content_type: bytes) -> None:
    read: FormBody = read_form(body, content_type)
    assert read.model == "jane" and body[read.start : read.end] == b"jane"


NOT_FOUND: list[tuple[str, bytes, bytes]] = [
    ("no boundary in the type", form(MODEL), b"multipart/form-data"),
    ("another boundary", form(MODEL), b"multipart/form-data; boundary=other"),
    ("no model", form(FILE), TYPE),
    (
        "a model only inside a file",
        form((FILE[0], b'content-disposition: form-data; name="model"\r\n\r\njane\r\n')),
        TYPE,
    ),
    ("two models", form(MODEL, MODEL), TYPE),
    ("an empty model", form((b'; name="model"', b"")), TYPE),
    ("a model of 201 characters", form((b'; name="model"', b"x" * 201)), TYPE),
    ("a model that is not UTF-8", form((b'; name="model"', b"\xff")), TYPE),
    ("cut off", form(FILE, MODEL)[:-12], TYPE),
    ("a part without headers", b"--XyZ\r\njane\r\n--XyZ--\r\n", TYPE),
    ("too many parts", form(*[FILE] * MAX_PARTS, MODEL), TYPE),
    ("nothing", b"", TYPE),
]


@pytest.mark.parametrize(("body", "content_type"), [row[1:] for row in NOT_FOUND], ids=[row[0] for row in NOT_FOUND])
def test_a_form_that_does_not_say_one_model_is_the_callers_fault(body: bytes, content_type: bytes) -> None:
    with pytest.raises(BadCall):
        read_form(body, content_type)


@pytest.mark.parametrize(
    ("said", "stream"), [(b"true", True), (b"True", True), (b"1", True), (b"false", False), (b"", False)]
)
def test_a_form_may_ask_for_a_stream(said: bytes, stream: bool) -> None:
    assert read_form(form(MODEL, (b'; name="stream"', said)), TYPE).stream is stream
