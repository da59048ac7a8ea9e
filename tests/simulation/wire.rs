//! The server's end of Postgres' protocol, as far as tokio-postgres speaks it with our parts.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use uuid::Uuid;

pub const BOOL: u32 = 16;
pub const INT8: u32 = 20;
pub const INT4: u32 = 23;
pub const TEXT: u32 = 25;
pub const FLOAT8: u32 = 701;
pub const VOID: u32 = 2278;
pub const UUID: u32 = 2950;

/// What a client sends.
#[derive(Debug, Clone)]
pub enum Frame {
    Startup,
    Query(String),
    Parse { name: String, sql: String, types: Vec<u32> },
    Describe { statement: bool, name: String },
    Bind { statement: String, values: Vec<Option<Bytes>> },
    Execute,
    Close,
    Sync,
    Terminate,
}

/// Takes the next whole message, if it is there. `greeted`: the startup message has been read.
pub fn next(input: &mut BytesMut, greeted: bool) -> Option<Frame> {
    let head = usize::from(greeted);
    let length = input.get(head..head + 4).map(|mut bytes| bytes.get_u32() as usize)?;
    if input.len() < head + length {
        return None;
    }
    let mut message = input.split_to(head + length).freeze();
    let kind = if greeted { message.get_u8() } else { 0 };
    message.advance(4);
    Some(match kind {
        0 => Frame::Startup,
        b'Q' => Frame::Query(string(&mut message)),
        b'P' => {
            let (name, sql) = (string(&mut message), string(&mut message));
            let count = message.get_u16();
            Frame::Parse { name, sql, types: (0..count).map(|_| message.get_u32()).collect() }
        }
        b'D' => Frame::Describe { statement: message.get_u8() == b'S', name: string(&mut message) },
        b'B' => {
            let (_portal, statement) = (string(&mut message), string(&mut message));
            let formats = usize::from(message.get_u16());
            message.advance(formats * 2);
            let count = message.get_u16();
            Frame::Bind { statement, values: (0..count).map(|_| value(&mut message)).collect() }
        }
        b'E' => Frame::Execute,
        b'C' => Frame::Close,
        b'S' => Frame::Sync,
        b'X' => Frame::Terminate,
        other => panic!("the simulated server does not know message {:?}", char::from(other)),
    })
}

fn string(message: &mut Bytes) -> String {
    let end = message.iter().position(|&byte| byte == 0).unwrap();
    let text = String::from_utf8(message.split_to(end).to_vec()).unwrap();
    message.advance(1);
    text
}

fn value(message: &mut Bytes) -> Option<Bytes> {
    let length = message.get_i32();
    usize::try_from(length).ok().map(|length| message.split_to(length))
}

/// A `text` parameter.
pub fn text(value: &Option<Bytes>) -> Option<Arc<str>> {
    value.as_ref().map(|bytes| std::str::from_utf8(bytes).unwrap().into())
}

pub fn int8(value: &Option<Bytes>) -> i64 {
    value.clone().unwrap().get_i64()
}

pub fn uuid(value: &Option<Bytes>) -> Option<Uuid> {
    value.as_ref().map(|bytes| Uuid::from_slice(bytes).unwrap())
}

/// A `text[]` parameter of one dimension.
pub fn texts(array: &Option<Bytes>) -> Vec<Option<Arc<str>>> {
    let mut array = array.clone().unwrap();
    let dimensions = array.get_i32();
    array.advance(8);
    if dimensions == 0 {
        return Vec::new();
    }
    let count = array.get_i32();
    array.advance(4);
    (0..count).map(|_| text(&value(&mut array))).collect()
}

/// A column of an answer, in binary.
#[derive(Debug, Clone)]
pub enum Datum {
    Null(u32),
    Bool(bool),
    Int4(i32),
    Int8(i64),
    Text(String),
    Float8(f64),
    Uuid(Uuid),
    Void,
}

impl Datum {
    fn type_oid(&self) -> u32 {
        match self {
            Datum::Null(oid) => *oid,
            Datum::Bool(_) => BOOL,
            Datum::Int4(_) => INT4,
            Datum::Int8(_) => INT8,
            Datum::Text(_) => TEXT,
            Datum::Float8(_) => FLOAT8,
            Datum::Uuid(_) => UUID,
            Datum::Void => VOID,
        }
    }

    fn put(&self, out: &mut BytesMut) {
        let bytes: Vec<u8> = match self {
            Datum::Null(_) => return out.put_i32(-1),
            Datum::Bool(value) => vec![u8::from(*value)],
            Datum::Int4(value) => value.to_be_bytes().to_vec(),
            Datum::Int8(value) => value.to_be_bytes().to_vec(),
            Datum::Text(value) => value.as_bytes().to_vec(),
            Datum::Float8(value) => value.to_be_bytes().to_vec(),
            Datum::Uuid(value) => value.as_bytes().to_vec(),
            Datum::Void => Vec::new(),
        };
        out.put_i32(bytes.len() as i32);
        out.extend_from_slice(&bytes);
    }
}

/// One message.
pub fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

pub fn greeting(out: &mut BytesMut) {
    message(out, b'R', |out| out.put_u32(0));
    message(out, b'K', |out| out.put_u64(1));
    ready(out, b'I');
}

pub fn ready(out: &mut BytesMut, state: u8) {
    message(out, b'Z', |out| out.put_u8(state));
}

pub fn described(out: &mut BytesMut, types: &[u32], columns: Option<&[Datum]>) {
    message(out, b't', |out| {
        out.put_u16(types.len() as u16);
        types.iter().for_each(|&oid| out.put_u32(oid));
    });
    let Some(columns) = columns else { return message(out, b'n', |_| {}) };
    message(out, b'T', |out| {
        out.put_u16(columns.len() as u16);
        for column in columns {
            out.extend_from_slice(b"c\0");
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(column.type_oid());
            out.put_i16(-1);
            out.put_i32(-1);
            out.put_u16(1);
        }
    });
}

pub fn row(out: &mut BytesMut, row: &[Datum]) {
    message(out, b'D', |out| {
        out.put_u16(row.len() as u16);
        row.iter().for_each(|datum| datum.put(out));
    });
}

pub fn complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |out| {
        out.extend_from_slice(tag.as_bytes());
        out.put_u8(0);
    });
}

pub fn error(out: &mut BytesMut, code: &str, text: &str) {
    message(out, b'E', |out| {
        for (field, value) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', code), (b'M', text)] {
            out.put_u8(field);
            out.extend_from_slice(value.as_bytes());
            out.put_u8(0);
        }
        out.put_u8(0);
    });
}
