use bytes::BytesMut;
use proptest::prelude::*;

use super::build::{self, Argument};
use super::error::{self, Position, Severity};
use super::read::{self, Bind, Execute, Named, Parse};
use super::startup::{self, Key, Opening};
use super::*;
use crate::report::{About, Report};
use crate::sqlstate;

fn built(build: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    build(&mut out);
    let header = header(&out).unwrap().unwrap();
    assert_eq!(header.length, out.len(), "one whole message");
    out
}

#[test]
fn reads_what_it_builds() {
    let message = built(|out| build::parse(out, b"s", b"SELECT $1", &[23, 25]));
    assert_eq!(Parse::read(&message[5..]), Ok(Parse { name: b"s", sql: b"SELECT $1", types: vec![23, 25] }));

    let arguments = [Argument { binary: true, value: Some(b"\0\x01") }, Argument { binary: false, value: None }];
    let message = built(|out| build::bind(out, b"p", b"s", &arguments, &[1]));
    let bind = Bind::read(&message[5..]).unwrap();
    assert_eq!((bind.portal, bind.statement), (&b"p"[..], &b"s"[..]));
    assert_eq!((bind.values.as_slice(), bind.binary()), (&[Some(&b"\0\x01"[..]), None][..], vec![true, false]));
    assert_eq!(bind.results, [1]);

    let message = built(|out| build::execute(out, b"p", 7));
    assert_eq!(Execute::read(&message[5..]), Ok(Execute { portal: b"p", row_limit: 7 }));
    let message = built(|out| build::describe_statement(out, b"s"));
    assert_eq!(Named::read(&message[5..]), Ok(Named { statement: true, name: b"s" }));
    let message = built(|out| build::data_row(out, [Some(&b"x"[..]), None].into_iter()));
    assert_eq!(read::data_row(&message[5..]), Ok(vec![Some(&b"x"[..]), None]));
    let message = built(|out| build::text_columns(out, ["one", "two"].into_iter()));
    assert_eq!(read::format_places(&message[5..]).unwrap().len(), 2);
}

#[test]
fn reads_openings() {
    let mut out = BytesMut::new();
    let parameters = vec![("user".to_owned(), "ann".to_owned()), ("database".to_owned(), "night".to_owned())];
    build::startup(&mut out, &parameters);
    assert_eq!(startup::length(&out), Ok(Some(out.len())));
    assert_eq!(startup::read(&out), Ok(Opening::Start { minor: 0, parameters }));
    let key = Key { process: 7, secret: -9 };
    let mut out = BytesMut::new();
    build::cancel(&mut out, key);
    assert_eq!(startup::read(&out), Ok(Opening::Cancel(key)));
}

#[test]
fn refuses_lengths_that_no_message_has() {
    for length in [i32::MIN, -1, 0, 3] {
        let mut frame = vec![b'Q'];
        frame.extend(length.to_be_bytes());
        assert_eq!(header(&frame), Err(Malformed::Length { kind: b'Q', length }));
    }
    assert_eq!(header(b"Q\0\0\0"), Ok(None));
    for length in [-1, 0, 7, 10_001] {
        assert_eq!(startup::length(&i32::to_be_bytes(length)), Err(Malformed::StartupLength));
    }
}

#[test]
fn a_report_becomes_an_error_with_all_its_fields() {
    let about = About { constraint: Some("t_pkey".into()), ..About::default() };
    let report = Report::new(sqlstate::UNIQUE_VIOLATION, "duplicate").detail("Key (id)=(1)").hint("another");
    let report = report.about(about);
    let message = built(|out| error::report(out, Severity::Error, &report));
    let body = &message[5..];
    assert_eq!(message[0], b'E');
    assert_eq!(error::code(body), sqlstate::UNIQUE_VIOLATION);
    assert_eq!(error::field(body, b'n'), Some(&b"t_pkey"[..]));
    assert_eq!(error::text(body), "duplicate");
    assert!(!error::is_fatal(body));
}

#[test]
fn positions_are_shifted_or_dropped() {
    let mut report = Report::new(sqlstate::SYNTAX_ERROR, "no");
    report.position = Some(3);
    let message = built(|out| error::report(out, Severity::Error, &report));
    let shifted = built(|out| error::repositioned(out, &message[5..], Position::Shift(10)));
    assert_eq!(error::field(&shifted[5..], b'P'), Some(&b"13"[..]));
    let dropped = built(|out| error::repositioned(out, &message[5..], Position::Drop));
    assert_eq!(error::field(&dropped[5..], b'P'), None);
}

proptest! {
    /// Whatever bytes come, reading answers with a value: no panic, no read beyond the frame.
    #[test]
    fn hostile_bodies_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = (Parse::read(&body), Bind::read(&body), Execute::read(&body), Named::read(&body));
        let _ = (read::query(&body), read::data_row(&body), read::format_places(&body));
        let _ = (read::parameter_types(&body), read::parameter_status(&body));
        let _ = (header(&body), startup::length(&body), startup::read(&body));
        let _ = (error::code(&body), error::text(&body), error::is_fatal(&body));
        built(|out| error::repositioned(out, &body, Position::Shift(1)));
    }

    /// A message cut short anywhere is malformed, never half read.
    #[test]
    fn truncated_messages_are_malformed(cut in 0usize..100, sql in "[a-z ]{0,40}") {
        let message = built(|out| build::parse(out, b"name", sql.as_bytes(), &[23]));
        let body = &message[5..];
        let cut = cut % body.len();
        prop_assert!(Parse::read(&body[..cut]).is_err());
        let arguments = [Argument { binary: false, value: Some(sql.as_bytes()) }];
        let message = built(|out| build::bind(out, b"", b"name", &arguments, &[]));
        let body = &message[5..];
        prop_assert!(Bind::read(&body[..cut % body.len()]).is_err());
    }
}
