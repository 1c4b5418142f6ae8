from __future__ import annotations

import gzip
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from retrograde.data import text as texts
from retrograde.data.files import decoded as _decoded
from retrograde.data.files import some_of
from retrograde.data.text import Text, read_text
from retrograde.data.vocabulary import Vocabulary
from retrograde.errors import DataError, OptionError, RunError

PROSE = (
    "The cat sat on the mat; the cat's hat sat on the cat.\n\n    def f(x):\n\treturn x  ** 2\n"
    "Привет, мир! مرحبا بالعالم. 日本語の文。 e\u0301te\u0301\u00a0\u2028x\n"
) * 5
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


def test_a_file_a_gzip_and_a_folder_read_alike(tmp_path):
    (tmp_path / "one.txt").write_text("first\nsecond\n")
    (tmp_path / "two.gz").write_bytes(gzip.compress(b"first\nsecond\n"))
    folder = tmp_path / "folder"
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "z.txt").write_text("second")  # its last line is ended
    (folder / "a.md").write_text("first\n")
    (folder / ".hidden").write_text("not this")
    (folder / "empty.txt").write_text("")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    texts = [read_text(tmp_path / name) for name in ("one.txt", "two.gz", "folder")]
    assert {text.content for text in texts} == {"first\nsecond\n"}
    assert len({text.fingerprint for text in texts}) == 1
    assert "picture.png" in texts[2].notes[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "shift_jis"])
def test_line_endings_and_marks_are_gone(tmp_path, encoding):
    file = tmp_path / "text.txt"
    file.write_bytes("\ufeff".encode(encoding) if encoding == "utf-16-le" else b"")
    with file.open("ab") as end:
        end.write("一行\r\n二行\r三行\n".encode(encoding))
    assert read_text(file, encoding).content == "一行\n二行\n三行\n"


@pytest.mark.parametrize(
    ("content", "encoding", "offset"),
    [
        (b"abc\xff", "utf-8", 3),
        ("ж".encode() * 10 + b"\xff", "utf-8", 20),
        (b"\xef\xbb\xbfab\xff", "utf-8", 5),
        ("ab".encode("utf-16") + b"\x00\xd8a\x00", "utf-16", 6),
        (b"abc\x98", "cp1251", 3),
    ],
)
def test_undecodable_bytes_are_pointed_at(tmp_path, content, encoding, offset):
    file = tmp_path / "text.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=f"offset {offset} .*--encoding"):
        read_text(file, encoding)


def test_the_encoding_of_chinese_text_is_among_those_to_try(tmp_path):
    file = tmp_path / "唐诗.txt"
    file.write_bytes("床前明月光".encode("gbk"))
    with pytest.raises(DataError, match=r"唐诗\.txt is not utf-8 text: .*--encoding \(.*gb18030"):
        read_text(file, "utf-8")


def test_the_standard_library_is_text_in_a_fixed_order():
    text = read_text("builtin:stdlib")
    assert text.content == read_text("builtin:stdlib").content
    assert len(text.content) > 5_000_000
    abc, argparse = (text.content.index(f"\nclass {name}(") for name in ("ABCMeta", "ArgumentParser"))
    assert abc < argparse
    assert "site-packages/pip" not in text.content[:1000] and "class BaseTestUUID" not in text.content


def test_unknown_encodings_are_refused(tmp_path):
    for encoding in ("klingon", "rot13", "base64", "", "utf-8\0"):
        with pytest.raises(OptionError, match="encoding"):
            read_text(tmp_path, encoding)


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_what_was_seen_comes_back_exactly(kind):
    vocabulary = Vocabulary.fit(PROSE, kind, vocab_size=400)
    numbers = vocabulary.encode(PROSE)
    assert numbers.dtype == np.int32 and numbers.min() >= 0 and numbers.max() < len(vocabulary)
    assert vocabulary.decode(numbers) == PROSE
    assert b"".join(vocabulary.bytes_of(int(number)) for number in numbers).decode() == PROSE
    loaded = Vocabulary.from_json(vocabulary.to_json())
    assert loaded.kind == kind and loaded.encode(PROSE).tolist() == numbers.tolist()


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
@settings(max_examples=40, deadline=None)
@given(text=anything)
def test_the_saved_tokenizer_gives_the_same_numbers(kind, text):
    """Also for text it has not seen: `tokenizers` alone, without our code, encodes alike."""
    vocabulary = _FITTED[kind]
    alone = Tokenizer.from_str(vocabulary.to_json())
    assert alone.encode(text).ids == vocabulary.encode(text).tolist()
    if kind == "bpe":
        assert vocabulary.decode(vocabulary.encode(text)) == text


_FITTED = {kind: Vocabulary.fit(PROSE, kind, vocab_size=300) for kind in ("char", "word", "bpe")}


@settings(max_examples=40, deadline=None)
@given(text=anything.filter(bool))
def test_characters_and_words_of_any_text_are_reversible(text):
    for kind in ("char", "word"):
        vocabulary = Vocabulary.fit(text, kind)
        assert vocabulary.decode(vocabulary.encode(text)) == text
        assert vocabulary.unknown_pieces(text) == []


def test_every_character_is_distinct():
    text = "a\u0301á \t\n\u00a0Aa٣3"
    vocabulary = Vocabulary.fit(text, "char")
    assert len(vocabulary) == len(set(text)) + 1
    assert vocabulary.encode("Ω").tolist() == [vocabulary.unknown] == [0]
    assert vocabulary.unknown_pieces("aΩbΩ") == ["Ω", "b"]


def test_vocab_size_and_min_count_bound_the_vocabulary():
    text = "one two two three three three four four four four"
    kept = Vocabulary.fit(text, "word", vocab_size=3)
    assert sorted(kept.tokenizer.get_vocab()) == [" four", " three", "<unk>"]
    kept = Vocabulary.fit(text, "word", min_count=3)
    assert sorted(kept.tokenizer.get_vocab()) == [" four", " three", "<unk>"]
    assert len(Vocabulary.fit(text, "char", vocab_size=4)) == 4
    assert len(Vocabulary.fit(PROSE, "bpe", vocab_size=280)) == 280
    for options in ({"vocab_size": 1}, {"min_count": 100}):
        with pytest.raises(OptionError):
            Vocabulary.fit(text, "word", **options)
    with pytest.raises(OptionError, match="at least 256"):
        Vocabulary.fit(text, "bpe", vocab_size=255)


def test_ten_thousand_words_are_kept_and_all_characters():
    words = " ".join(f"w{n}" for n in range(10_050))
    assert len(Vocabulary.fit(words, "word")) == 10_000
    assert len(Vocabulary.fit("".join(chr(0x4E00 + n) for n in range(10_050)), "char")) == 10_051


def test_long_texts_are_encoded_as_short_ones_are():
    text = PROSE * 500  # beyond one block
    for vocabulary in _FITTED.values():
        assert vocabulary.encode(text).tolist() == vocabulary.encode(PROSE).tolist() * 500


def test_something_else_is_no_vocabulary():
    for content in ("", "{}", json.dumps({"model": {"type": "WordLevel"}}), "\x00"):
        with pytest.raises(RunError, match=r"vocabulary\.json"):
            Vocabulary.from_json(content)


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "shift_jis", "iso2022_jp", "utf-7", "cp1252"]
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_decoding_in_pieces_is_decoding_at_once(encoding, data):
    """Wherever a piece ends: within a character, a mark or a line end; and so does the place of what cannot be read."""
    part = st.sampled_from(["a", "\r", "\n", "\r\n", "\ufeff", "\0", "é", "日", "語"]).map(
        lambda some: some.encode(encoding.removesuffix("-sig"), "ignore")
    )
    content = b"".join(data.draw(st.lists(part | st.binary(max_size=2), max_size=8)))
    size = data.draw(st.integers(1, 5))
    blocks = (content[at : at + size] for at in range(0, len(content), size))
    try:
        whole = content.decode(encoding)
    except UnicodeError as error:
        start = error.start + 3 * (encoding == "utf-8-sig" and content.startswith(b"\xef\xbb\xbf"))
        with pytest.raises(DataError, match=rf"byte 0x{content[start]:02x} at offset {start} "):
            list(_decoded(blocks, encoding, "here"))
        return
    if "\0" in whole:
        with pytest.raises(DataError, match=r"a NUL at byte offset (\d+)") as raised:
            list(_decoded(blocks, encoding, "here"))
        place = int(re.search(r"offset (\d+)", str(raised.value))[1])
        assert content[place:].decode("utf-16" if encoding == "utf-16" and not place else encoding, "replace")
        if encoding in ("utf-8", "cp1252"):
            assert place == content.index(0)
        return
    wanted = whole.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert "".join(_decoded(blocks, encoding, "here")) == wanted


@pytest.mark.parametrize(
    ("encoding", "blocks", "place"),
    [
        ("utf-8", [b"\xef\xbb\xbf\xef", b"\xbb\xbf\x00"], 6),
        ("utf-16-le", [b"a\x00\x3d\xd8", b"\x00\xdeb\x00\x00\x00"], 8),
        ("utf-16-le", [b"a\x00\x00", b"\x00b\x00"], 2),
    ],
)
def test_the_place_of_a_nul_next_to_a_character_in_two_blocks(encoding, blocks, place):
    with pytest.raises(DataError, match=f"a NUL at byte offset {place};"):
        list(_decoded(iter(blocks), encoding, "here"))


def test_text_is_handed_out_from_any_character_to_any(monkeypatch):
    monkeypatch.setattr(texts, "PIECE", 50)
    text = Text((PROSE[at : at + 7] for at in range(0, len(PROSE), 7)), "here")
    assert text.content == PROSE and text.characters == len(PROSE)
    assert text.fingerprint == Text(PROSE, "there").fingerprint
    assert len(list(text.pieces())) > 5
    for start, stop in ((0, 0), (0, 1), (49, 51), (50, 100), (30, 320), (len(PROSE) - 1, None), (len(PROSE), None)):
        assert "".join(text.pieces(start, stop)) == PROSE[start:stop]


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_where_a_text_is_cut_makes_no_difference(kind):
    text = PROSE * 40 + "without an end " * 9000 + PROSE  # lines longer than a block too
    pieces = [text[at : at + 999] for at in range(0, len(text), 999)]
    whole = Vocabulary.fit(text, kind, vocab_size=300)
    assert Vocabulary.fit(pieces, kind, vocab_size=300).to_json() == whole.to_json()
    assert np.array_equal(np.concatenate(list(whole.encode_pieces(pieces))), whole.encode(text))


def test_a_damaged_gzip_says_so_even_where_its_rubble_is_no_text(tmp_path):
    packed = bytearray(gzip.compress(bytes(range(1, 256)) * 300, 0))
    packed[-6] ^= 1  # the check sum
    (tmp_path / "a.gz").write_bytes(packed)
    with pytest.raises(DataError, match="damaged gzip file"):
        read_text(tmp_path / "a.gz")


def test_three_names_are_listed_and_more_are_hinted_at():
    assert some_of(["a", "b", "c"]) == "a, b, c" and some_of(["a", "b", "c", "d"]) == "a, b, c, …"
