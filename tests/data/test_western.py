"""Tables that are not UTF-8: read as cp1252 or by their mark, and said; refused where the encoding is not certain."""

from __future__ import annotations

import re

import pytest

from retrograde.data.columns import columns_for
from retrograde.data.formats import open_table
from retrograde.data.roles import Predicts
from retrograde.data.series import read_series
from retrograde.errors import DataError

_ROWS = (f"{day:02}.01.2024;1.{day:03},5;Müllerstraße {day}\r\n" for day in range(1, 29))
GERMAN = "Datum;Größe;Straße\r\n" + "".join(_ROWS)


def test_a_table_of_a_german_excel_is_read(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GERMAN.encode("cp1252"))
    table = open_table(path)
    assert table.names == ["Datum", "Größe", "Straße"]
    assert table.sample()["Straße"][1] == "Müllerstraße 2" and table.encoding == "cp1252"
    assert table.notes[0] == (
        "a.csv is not UTF-8 and is read as cp1252 (Windows, Western European): 'Größe', 'Müllerstraße' (a "
        "guess; --encoding states another)."
    )
    columns, _ = columns_for(Predicts.FUTURE, table, {})
    assert read_series(table, columns).numbers[0][:3, 0].tolist() == [1001.5, 1002.5, 1003.5]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
def test_a_mark_names_the_encoding(tmp_path, encoding):
    path = tmp_path / "a.csv"
    path.write_bytes(GERMAN.encode(encoding))
    table = open_table(path)
    assert table.names == ["Datum", "Größe", "Straße"] and len(table) == 28
    said = [note for note in table.notes if "begins with the mark" in note]
    assert said == [f"a.csv begins with the mark of {encoding}, and is read as that."] * (encoding != "utf-8-sig")


@pytest.mark.parametrize(
    "line",
    [
        "Noël à l'œuvre, « oui »",
        "¿qué? ¡Sí! mañana 1º",
        "Ærø Åre Ünal Öresund",
        "Þórður",
        "coração não condições",
        "col·lecció",
        "O’Brien “hi” – 5 € or 3°C ±2 µm ½",
        "MÜLLER CÔTE D’IVOIRE",
        "één Reünie",
    ],
)
def test_words_of_western_languages(tmp_path, line):
    path = tmp_path / "a.tsv"
    path.write_bytes(f"n\ttext\n1\t{line}\n2\tplain\n".encode("cp1252"))
    assert open_table(path).sample()["text"] == [line, "plain"]


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("cp1251", "дата Москва"),
        ("cp1251", "и на"),
        ("cp1253", "όνομα Αθήνα"),
        ("cp1250", "miesiąc ilość żółw"),
        ("cp850", "Größe März"),
        ("cp437", "Straße Größe"),
        ("mac_roman", "Größe März"),
        ("shift_jis", "日付 売上"),
        ("gb18030", "日期 销售"),
        ("euc_kr", "날짜 서울"),
        ("cp1254", "ığ İstanbul"),
        ("cp1250", "příliš žluťoučký"),
        ("cp1250", "město třída dům"),
        ("cp1250", "őszi tűz árvíz"),
        ("cp1250", "mărime ţară"),
        ("cp1250", "čas šola žena"),
        ("cp1254", "doğum yılı şehir ülke"),
        ("cp1257", "šalis žmonės ūkis"),
    ],
)
def test_other_encodings_are_refused(tmp_path, encoding, line):
    path = tmp_path / "a.csv"
    path.write_bytes(f"n,text\n1,{line}\n".encode(encoding))
    with pytest.raises(DataError, match=r"a\.csv is not utf-8 text: byte 0x.. at offset .*--enc"):
        open_table(path)
    assert open_table(path, encoding).sample()["text"] == [line]


def test_what_is_stated_is_not_guessed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(GERMAN.encode("cp1252"))
    with pytest.raises(DataError, match=r"is not ascii text"):
        open_table(path, "ascii")
    with pytest.raises(DataError, match=r"a\.csv is not utf-8 text: byte 0xf6 at offset 8 cannot be decoded"):
        open_table(path, "utf-8")


def test_letters_of_a_language_are_shown(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("n,ville\n1,Besançon\n2,Orléans\n3,Évry\n4,Nîmes\n".encode("cp1252"))
    assert "European): 'Besançon', 'Orléans', 'Nîmes' (a guess" in open_table(path).notes[0]


def test_names_from_all_of_western_europe(tmp_path):
    path = tmp_path / "a.csv"
    names = ["München", "Málaga", "Århus", "Besançon", "São Paulo", "Forlì", "Ærø", "Þórður", "Señor"]
    path.write_bytes("\n".join(["name,n", *(f"{name},1" for name in names), ""]).encode("cp1252"))
    assert open_table(path).sample()["name"] == names


def test_lines_of_json_are_read_likewise(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"straße": "Müller", "n": 1}\n'.encode("cp1252"))
    table = open_table(path)
    assert table.names == ["straße", "n"] and re.search("read as cp1252", table.notes[0])
