//! COPY's binary format (<https://www.postgresql.org/docs/15/sql-copy.html>, "Binary Format").

use bytes::{Buf, Bytes, BytesMut};

use super::super::Report;
use crate::sqlstate::BAD_COPY_FILE_FORMAT;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = 19;

pub(super) enum Taken {
    Row(Vec<Option<Bytes>>),
    End,
    More,
}

fn bad(message: impl Into<String>) -> Report {
    Report::new(BAD_COPY_FILE_FORMAT, message)
}

/// Takes the file header off the input, once; false: not all of it has come.
pub(super) fn take_header(input: &mut BytesMut, done: &mut bool, ended: bool) -> Result<bool, Report> {
    if *done {
        return Ok(true);
    }
    if input.len() < HEADER {
        let start = &input[..input.len().min(SIGNATURE.len())];
        return match start.len() < SIGNATURE.len() || !SIGNATURE.starts_with(start) {
            true if ended => Err(bad("COPY file signature not recognized")),
            _ if ended => Err(bad("invalid COPY file header (missing flags)")),
            _ => Ok(false),
        };
    }
    if !input.starts_with(SIGNATURE) {
        return Err(bad("COPY file signature not recognized"));
    }
    let word = |at: usize| u32::from_be_bytes([input[at], input[at + 1], input[at + 2], input[at + 3]]);
    let (flags, extension) = (word(11), word(15) as usize);
    if flags & (1 << 16) != 0 {
        return Err(bad("invalid COPY file header (WITH OIDS)"));
    }
    if flags >> 16 != 0 {
        return Err(bad("unrecognized critical flags in COPY file header"));
    }
    if extension > i32::MAX as usize {
        return Err(bad("invalid COPY file header (missing length)"));
    }
    if input.len() - HEADER < extension {
        return if ended { Err(bad("invalid COPY file header (wrong length)")) } else { Ok(false) };
    }
    input.advance(HEADER + extension);
    *done = true;
    Ok(true)
}

/// Takes a row of `count` fields off the input.
pub(super) fn take_row(input: &mut BytesMut, count: usize, ended: bool) -> Result<Taken, Report> {
    let short = |ended: bool| if ended { Err(bad("unexpected EOF in COPY data")) } else { Ok(Taken::More) };
    if input.len() < 2 {
        // Postgres takes a missing trailer for the end.
        return Ok(if ended { Taken::End } else { Taken::More });
    }
    let fields = i16::from_be_bytes([input[0], input[1]]);
    if fields == -1 {
        return match input.len() {
            2 if ended => Ok(Taken::End),
            2 => Ok(Taken::More),
            _ => Err(bad("received copy data after EOF marker")),
        };
    }
    if usize::try_from(fields) != Ok(count) {
        return Err(bad(format!("row field count is {fields}, expected {count}")));
    }
    let mut place = 2;
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(bytes) = input.get(place..place + 4) else { return short(ended) };
        let length = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        place += 4;
        match usize::try_from(length) {
            Ok(length) => {
                place += length;
                if place > input.len() {
                    return short(ended);
                }
                lengths.push(Some(length));
            }
            Err(_) if length == -1 => lengths.push(None),
            Err(_) => return Err(bad("invalid field size")),
        }
    }
    let mut row = input.split_to(place).freeze();
    row.advance(2);
    let mut take = |length: Option<usize>| {
        row.advance(4);
        length.map(|length| row.split_to(length))
    };
    Ok(Taken::Row(lengths.into_iter().map(&mut take).collect()))
}
