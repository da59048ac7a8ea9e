//! The stream of a COPY in pieces of any size.

use super::lines::{Reader, testing};
use super::options::{Format, Header, Options};

fn options(format: Format) -> Options {
    let csv = format == Format::Csv;
    Options {
        format,
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { Vec::new() } else { b"\\N".to_vec() },
        header: Header::No,
        quote: b'"',
        escape: b'"',
        force_null: vec![false; 2],
        freeze: false,
        force_not_null: vec![false; 2],
    }
}

/// The rows, or the error with its context, whatever the pieces.
fn read(options: &Options, data: &[u8]) -> String {
    let outcomes: Vec<String> = [1, 2, 3, 7, 1000].iter().map(|&size| pieces(options, data, size)).collect();
    assert!(outcomes.windows(2).all(|pair| pair[0] == pair[1]), "{outcomes:#?}");
    outcomes.into_iter().next_back().unwrap()
}

fn pieces(options: &Options, data: &[u8], size: usize) -> String {
    let mut reader: Reader = testing("t", &["a", "b"], options.clone());
    let mut out = Vec::new();
    let mut take = |reader: &mut Reader| loop {
        match reader.next_row() {
            Ok(Some(row)) => {
                let fields = row.fields.iter().map(|field| match field {
                    Some(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    None => "NULL".to_owned(),
                });
                out.push(fields.collect::<Vec<_>>().join("|"));
            }
            Ok(None) => return true,
            Err(broken) => {
                out.push(format!("{} ({})", broken.report.message, broken.report.context.unwrap_or_default()));
                return false;
            }
        }
    };
    let mut fine = true;
    for piece in data.chunks(size) {
        reader.push(piece);
        fine = fine && take(&mut reader);
    }
    reader.end();
    if fine {
        take(&mut reader);
    }
    out.join("\n")
}

#[test]
fn text_is_split_as_postgres_does() {
    let text = options(Format::Text);
    assert_eq!(read(&text, b"1\tx\n\\N\ta\\tb\\x41\\101\\\\\\q\n"), "1|x\nNULL|a\tbAA\\q");
    assert_eq!(read(&text, b"1\ta\\\nb\n2\t\n"), "1|a\nb\n2|");
    assert_eq!(read(&text, b"1\tx\r\n2\ty\r\n"), "1|x\n2|y");
    assert_eq!(read(&text, b"1\tx\r2\ty"), "1|x\n2|y");
    assert_eq!(read(&text, b"1\tx\n\\.\nrubbish"), "1|x");
    assert_eq!(read(&text, b"1\n"), "missing data for column \"b\" (COPY t, line 1: \"1\")");
    assert_eq!(read(&text, b"1\t2\t3\n"), "extra data after last expected column (COPY t, line 1: \"1\t2\t3\")");
    assert_eq!(read(&text, b"1\tx\n2\ty\r\n"), "1|x\nliteral carriage return found in data (COPY t, line 2: \"2\ty\")");
    assert_eq!(read(&text, b"1\t\xff\n"), "invalid byte sequence for encoding \"UTF8\": 0xff (COPY t, line 1)");
    assert_eq!(
        read(&text, b"1\t\\000\n"),
        "invalid byte sequence for encoding \"UTF8\": 0x00 (COPY t, line 1: \"1\t\\000\")"
    );
}

#[test]
fn csv_is_split_as_postgres_does() {
    let csv = options(Format::Csv);
    assert_eq!(read(&csv, b"1,\"a,\"\"b\"\"\nc\"\n,\"\"\n"), "1|a,\"b\"\nc\nNULL|");
    assert_eq!(read(&csv, b"\\.\n"), "");
    assert_eq!(read(&csv, b"1,\\.\n"), "1|\\.");
    assert_eq!(read(&csv, b"1,\"a\n"), "unterminated CSV quoted field (COPY t, line 1: \"1,\"a\n\")");
    let odd = Options { quote: b'\'', escape: b'\\', null: b"nil".to_vec(), ..csv.clone() };
    assert_eq!(read(&odd, b"nil,'nil'\n'it\\'s','\\\\'\n"), "NULL|nil\nit's|\\");
    let forced =
        Options { force_null: vec![true, false], force_not_null: vec![false, true], null: b"x".to_vec(), ..csv };
    assert_eq!(read(&forced, b"\"x\",x\n"), "NULL|x");
}

#[test]
fn a_binary_row_is_not_waited_for_without_end() {
    let header = |extension: u32| [b"PGCOPY\n\xff\r\n\0\0\0\0\0".as_slice(), &extension.to_be_bytes()].concat();
    let row = [header(0), 2_i16.to_be_bytes().to_vec(), i32::MAX.to_be_bytes().to_vec()].concat();
    for start in [row, header(0x7fff_ffff)] {
        let mut reader: Reader = testing("t", &["a", "b"], options(Format::Binary));
        reader.push(&start);
        let piece = vec![b'x'; 1 << 20];
        let taken = (0..200).take_while(|_| {
            reader.push(&piece);
            matches!(reader.next_row(), Ok(None))
        });
        assert_eq!(taken.count(), 128 - 1);
        let broken = reader.next_row().unwrap_err();
        assert_eq!(broken.report.message, "a row of COPY may not be longer than 128 MiB");
    }
}
