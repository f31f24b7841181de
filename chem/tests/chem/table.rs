//! Every row of a file comes out in its place, with features or with a reason.

use std::io::{Cursor, Write};

use chemxor_chem::named;
use chemxor_chem::table::{Column, FeatureKind, Shape, Table, TableError, write_features};
use chemxor_core::Standardisation;
use proptest::prelude::*;

fn table(bytes: &[u8], shape: Shape, column: &str) -> Result<Table, TableError> {
    let source = Box::new(Cursor::new(bytes.to_vec()));
    Table::from_reader("t", source, shape, &Column::parse(column))
}

fn smiles(bytes: &[u8], shape: Shape, column: &str) -> Vec<(u64, Result<String, String>)> {
    let rows = table(bytes, shape, column).unwrap();
    rows.map(|row| (row.line, row.smiles)).collect()
}

#[test]
fn columns_are_found_by_name_and_by_position() {
    let text = b"\xef\xbb\xbfid\tSMILES\n1\tCCO\n2\tCC\n";
    let expected = vec![(2, Ok("CCO".to_owned())), (3, Ok("CC".to_owned()))];
    assert_eq!(smiles(text, Shape::Tsv, "smiles"), expected);
    assert_eq!(smiles(text, Shape::Tsv, "2"), expected);
    let error = table(text, Shape::Tsv, "structure").err().unwrap();
    assert!(error.to_string().contains("it has: id, SMILES"), "{error}");
    assert!(matches!(
        table(b"", Shape::Csv, "1").err(),
        Some(TableError::Empty { .. })
    ));
}

#[test]
fn a_first_molecule_is_never_taken_for_a_header() {
    for first in ["CCO", "C", "Cl", "bad(", "c1ccccc1", "[SmI", "CO"] {
        let text = format!("{first},1\nCC,2\n");
        let rows = smiles(text.as_bytes(), Shape::Csv, "1");
        assert_eq!(rows[0], (1, Ok(first.to_owned())));
        assert_eq!(rows.len(), 2);
        let rows = smiles(
            format!("{first} a name\nCC\n").as_bytes(),
            Shape::Smi,
            "smiles",
        );
        assert_eq!(rows[0], (1, Ok(first.to_owned())));
        assert_eq!(rows.len(), 2);
        // a name is asked for and there is none: an error, not a lost row
        assert!(table(text.as_bytes(), Shape::Csv, "smiles").is_err());
    }
    assert_eq!(
        smiles(b"smiles name\nCC x\n", Shape::Smi, "smiles").len(),
        1
    );
}

#[test]
fn gzip_is_known_by_its_bytes_and_a_cut_one_is_reported() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    for row in 0..20_000u32 {
        writeln!(packer, "{}C{row}", "C".repeat(row as usize % 7)).unwrap();
    }
    let packed = packer.finish().unwrap();
    assert_eq!(smiles(&packed, Shape::Smi, "1").len(), 20_000);
    let rows = smiles(&packed[..packed.len() / 2], Shape::Smi, "1");
    assert!(rows.len() < 20_000);
    assert!(rows.last().unwrap().1.is_err());
}

#[test]
fn an_overlong_line_costs_one_row() {
    let text = format!("CC\n{}\nCCC\n", "C".repeat(5 << 20));
    let rows = smiles(text.as_bytes(), Shape::Smi, "1");
    assert_eq!(rows.len(), 3);
    assert!(rows[1].1.is_err());
    assert_eq!(rows[2], (3, Ok("CCC".to_owned())));
}

fn written(
    text: &[u8],
    name: &str,
    kind: impl Fn(chemxor_core::Featuriser) -> FeatureKind,
) -> String {
    let mut output = Vec::new();
    let mut table = table(text, Shape::Csv, "smiles").unwrap();
    let none = Standardisation::default();
    let kind = kind(named(name).unwrap());
    write_features(&mut table, &kind, none, &mut output, |_| {}).unwrap();
    String::from_utf8(output).unwrap()
}

#[test]
fn bad_rows_keep_their_place_with_line_and_reason() {
    let text = b"id,smiles\na,C\nb,C(\nc\nd,CC,more\n";
    let counts = written(text, "ecfp4-counts", FeatureKind::Counts);
    let lines: Vec<&str> = counts.lines().collect();
    assert_eq!(lines[0], "id,smiles,status,reason,counts");
    assert!(lines[1].starts_with("a,C,ok,,"), "{}", lines[1]);
    assert!(
        lines[2].starts_with("b,C(,error,\"line 3: SMILES"),
        "{}",
        lines[2]
    );
    assert_eq!(
        lines[3],
        "c,,error,line 4: the SMILES is missing: the line has 1 fields,"
    );
    assert!(lines[4].starts_with("d,\"CC,more\",ok,,"), "{}", lines[4]);
    let descriptors = written(text, "descriptors", |_| FeatureKind::Descriptors);
    assert!(descriptors.starts_with("id,smiles,status,reason,mol_wt,crippen_logp,tpsa,"));
}

proptest! {
    #[test]
    fn rows_out_are_rows_in(lines in proptest::collection::vec("[A-Za-z0-9,.\" ()-]{0,20}", 0..20)) {
        let text = format!("smiles,x\nC,1\n{}", lines.join("\n"));
        let rows = smiles(text.as_bytes(), Shape::Csv, "smiles").len();
        let output = written(text.as_bytes(), "ecfp4-bits", FeatureKind::Bits);
        prop_assert_eq!(csv::Reader::from_reader(output.as_bytes()).records().filter(Result::is_ok).count(), rows);
        let expected = csv::ReaderBuilder::new().flexible(true).from_reader(text.as_bytes()).byte_records().count();
        prop_assert_eq!(rows, expected);
    }
}

#[test]
fn what_was_done_to_a_molecule_stands_in_its_row() {
    let text = "name,smiles\nsalt,[Na+].CC(=O)[O-]\nplain,CCO\nbad,C(\n";
    let source = Box::new(Cursor::new(text.as_bytes().to_vec()));
    let column = Column::Name("smiles".to_owned());
    let mut table = Table::from_reader("t.csv", source, Shape::Csv, &column).unwrap();
    let what = Standardisation {
        largest_fragment: true,
        neutralise: true,
    };
    let mut output = Vec::new();
    let kind = FeatureKind::Bits(named("ecfp4-bits").unwrap());
    write_features(&mut table, &kind, what, &mut output, |_| {}).unwrap();
    let rows: Vec<csv::StringRecord> = csv::Reader::from_reader(output.as_slice())
        .records()
        .map(Result::unwrap)
        .collect();
    let fields = |row: usize| rows[row].iter().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        fields(0)[2..6],
        [
            "ok",
            "",
            "largest fragment kept; charges removed",
            "CC(=O)O"
        ]
    );
    assert_eq!(fields(1)[2..6], ["ok", "", "", ""]);
    assert_eq!(fields(2)[2], "error");
    assert_eq!(rows[2].len(), rows[0].len());
}
