"""Tables that people wrote: what is understood, and what is never passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedsim.data.columns import meant
from fedsim.data.table import Row, belonging, find_table, read_table
from fedsim.errors import InputError

OPTIONAL = ("group", "site")
LINES = ["path,label,group,site", "1.png,a,P1,Basel", "2.png,b,P2,Bern"]


def read(file: Path) -> list[dict[str, str]]:
    rows = read_table(file, ("path", "label"), unique="path", optional=OPTIONAL)
    return [{name: row.get(name) for name in ("path", "label", *OPTIONAL)} for row in rows]


def written(folder: Path, lines: list[str], encoding: str = "utf-8") -> Path:
    file = folder / "t.csv"
    file.write_bytes("\r\n".join(lines).encode(encoding))
    return file


PLAIN = [
    {"path": "1.png", "label": "a", "group": "P1", "site": "Basel"},
    {"path": "2.png", "label": "b", "group": "P2", "site": "Bern"},
]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks(tmp_path, delimiter, encoding):
    lines = [line.replace(",", delimiter) for line in LINES]
    assert read(written(tmp_path, lines, encoding)) == PLAIN


@pytest.mark.parametrize(
    "lines",
    [
        ["PATH,Label,Group,SITE", *LINES[1:]],
        [" path , label,group ,site", *LINES[1:]],
        ['"path","label","group","site"', '"1.png","a","P1","Basel"', '"2.png",b,P2,Bern'],
        ["sep=,", *LINES],
        ["", *LINES, ",,,", "  "],
        ["\ufeffpath,label,group,site", *LINES[1:]],
    ],
)
def test_the_same_table_by_other_hands(tmp_path, lines):
    assert read(written(tmp_path, lines, "utf-8-sig")) == PLAIN


@pytest.mark.parametrize(
    ("name", "column"),
    [
        *[
            (name, "group")
            for name in (
                "Patient",
                "patient id",
                "patient_ID",
                "PatientID",
                "patientNo",
                "Patients",
                "groups",
                "group_id",
                "gruop",
                "lesion_id",
                "subject-id",
                "MRN",
                "patient_hash",
                "PatientPseudonym",
                "patientIdx",
                "orig_patient",
                "donor_id",
                "specimen",
                "Patientennummer",
                "Patienten-Nr",
                "codigo_paciente",
                "código_paciente",
                "numero_paciente",
            )
        ],
        *[
            (name, "site")
            for name in ("sites", "site_name", "SiteID", "Centre", "center", "hospital name")
        ],
    ],
)
def test_a_near_name_of_an_optional_column_is_refused(tmp_path, name, column):
    header = f"path,label,{name}"
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, [header, "1.png,a,x", "2.png,b,y"]))
    text = str(caught.value)
    assert repr(name) in text
    assert f"write {column!r} in the header" in text


@pytest.mark.parametrize(
    "name",
    [
        *("age", "size", "side", "suite", "anatom_site_general", "note", "image_id", ""),
        *("patient_age", "age_of_patient", "age_patient", "edad_paciente", "patient_sex"),
        *("n_patients", "num_patients", "number_of_patients", "Anzahl Patienten", "patient_count"),
        *("subject_weight", "patient_smoking", "patient_diagnosis_code", "PatientBirthDate"),
        *("is_patient", "inpatient", "is_inpatient", "patient_ok", "IssuerOfPatientID"),
        *("fall", "falls", "fall_label", "ajcc_pt", "control_group", "age_group_id", "visits"),
    ],
)
def test_other_columns_are_nobodys_business(tmp_path, name):
    assert meant(name, OPTIONAL) is None
    rows = read(written(tmp_path, [f"path,label,{name}", "1.png,a,x", "2.png,b,x"]))
    assert [row["group"] for row in rows] == ["", ""]


def test_a_doubtful_name_counts_where_its_values_repeat(tmp_path):
    assert len(read(written(tmp_path, ["path,label,case_id", "1.png,a,x", "2.png,b,y"]))) == 2
    with pytest.raises(InputError, match="'case_id'"):
        read(written(tmp_path, ["path,label,case_id", "1.png,a,x", "2.png,b,x"]))


@pytest.mark.parametrize(
    "name",
    [
        *("PatientID2", "patient2", "patientid2", "unique_patient_id", "UniquePatientID"),
        *("study_subject_id", "hospital_patient_id", "deidentified_patient", "patient_id_hashed"),
        *("patient_study_id", "ClinicalTrialSubjectID", "id_of_patient", "id_del_paciente"),
        *("Fallnummer", "Fall-Nr", "Aktennummer", "nhs_number", "NHSNumber", "study_pt_id"),
        *("medical record number", "medical_record_no", "Probandennummer", "caseid"),
    ],
)
def test_a_name_that_holds_a_word_for_a_patient_counts_where_its_values_repeat(tmp_path, name):
    assert meant(name, OPTIONAL) == ("group", False)
    assert len(read(written(tmp_path, [f"path,label,{name}", "1.png,a,x", "2.png,b,y"]))) == 2
    with pytest.raises(InputError, match=f"column '{name}'.*looks like the column 'group'"):
        read(written(tmp_path, [f"path,label,{name}", "1.png,a,x", "2.png,b,x"]))


@pytest.mark.parametrize("name", ["Klinik", "Klinikum", "Standort", "clinica"])
def test_a_name_that_may_be_a_site_counts_where_its_values_repeat(tmp_path, name):
    with pytest.raises(InputError, match=f"column '{name}'.*looks like the column 'site'"):
        read(written(tmp_path, [f"path,label,{name}", "1.png,a,x", "2.png,b,x"]))


@pytest.mark.parametrize("name", ["slide", "StudyInstanceUID", "SeriesInstanceUID", "sample_id"])
def test_what_joins_pictures_is_no_matter_of_names(tmp_path, name):
    with pytest.raises(InputError, match=f"'{name}'"):
        read(written(tmp_path, [f"path,label,{name}", "1.png,a,x", "2.png,b,x"]))


def test_a_table_of_another_coding_says_what_to_do(tmp_path):
    written(tmp_path, ["path,label", "1.png,gutärtig"], "latin-1")
    with pytest.raises(InputError, match="save it as UTF-8 CSV"):
        find_table(tmp_path, ("path", "label"), OPTIONAL, "a layout")


def test_records_without_a_site_are_counted():
    rows = [
        Row({"path": "1", "site": ""}, "t.csv:2"),
        Row({"path": "2", "site": "Basel"}, "t.csv:3"),
    ]
    _, sites, notes = belonging(rows)
    assert sites == ["site-0", "Basel"]
    assert notes == ["1 of 2 records have no site: theirs is called site-0"]
    assert belonging([Row({"path": "1"}, "t.csv:2")])[2] == []


@pytest.mark.parametrize("name", ["split", "Fold"])
def test_it_is_said_that_a_split_of_the_table_is_not_read(name):
    assert belonging([Row({"path": "1", name: "test"}, "t.csv:2")])[2] == [
        f"not read: column {name}; data.split decides what is for training and test"
    ]


def test_a_column_that_joins_groups_is_refused_and_one_that_parts_them_is_not(tmp_path):
    header = "path,label,group,patient"
    with pytest.raises(InputError, match="'p' in several groups"):
        read(written(tmp_path, [header, "1.png,a,g1,p", "2.png,b,g2,p"]))
    with pytest.raises(InputError, match="'p' in several groups"):
        read(written(tmp_path, [header, "1.png,a,,p", "2.png,b,,p"]))
    rows = read(written(tmp_path, [header, "1.png,a,g,p1", "2.png,b,g,p2"]))
    assert [row["group"] for row in rows] == ["g", "g"]


@pytest.mark.parametrize(
    "header", ["path,label,group,Group", "path,label,label", "path,PATH,label"]
)
def test_a_column_that_is_there_twice_is_refused(tmp_path, header):
    line = ",".join("x" * len(header.split(",")))
    with pytest.raises(InputError, match="is there 2 times"):
        read(written(tmp_path, [header, line]))


def test_a_header_that_is_repeated_among_the_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"t\.csv:4: repeats the header"):
        read(written(tmp_path, [*LINES, "Path,Label,group,site"]))


def test_of_many_wrong_rows_some_are_shown_and_the_rest_is_counted(tmp_path):
    with pytest.raises(InputError) as caught:
        read(written(tmp_path, ["path,label", *["only"] * 500]))
    assert len(str(caught.value).splitlines()) <= 40
    assert "... and 470 more" in str(caught.value)


def test_the_table_of_the_records_is_found_among_others(tmp_path):
    def find() -> tuple[str, str] | None:
        return find_table(tmp_path, ("path", "label"), OPTIONAL, "a layout")

    assert find() is None
    (tmp_path / "._labels.csv").write_bytes(b"\0\5\x16\7")
    assert find() is None
    (tmp_path / "notes.csv").write_text("who,when\na,b\n")
    with pytest.raises(InputError, match=r"notes\.csv: columns missing: path, label"):
        find()
    written(tmp_path, LINES)
    assert find() == ("t.csv", "read t.csv, not notes.csv")
    (tmp_path / "notes.csv").unlink()
    assert find() == ("t.csv", "")
    for other in ("path,patient", "file,Patient ID", "path,label", "hospital,city"):
        (tmp_path / "other.csv").write_text(f"{other}\n1.png,x\n")
        with pytest.raises(InputError, match=r"several tables: other\.csv, t\.csv; data\.csv=NAME"):
            find()


def test_a_spreadsheet_is_not_passed_over(tmp_path):
    (tmp_path / "labels.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"labels\.xlsx: is not read: save it as CSV"):
        find_table(tmp_path, ("path", "label"), OPTIONAL, "a layout")
    written(tmp_path, LINES)
    found = find_table(tmp_path, ("path", "label"), OPTIONAL, "a layout")
    assert found == ("t.csv", "read t.csv, not labels.xlsx")
