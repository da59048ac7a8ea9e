//! Building messages at the end of an output buffer.

use bytes::{BufMut, BytesMut};

use super::startup::Key;

/// Appends one message: its kind, its length, and what `body` writes.
pub fn message(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(kind);
    let start = out.len();
    out.put_i32(0);
    body(out);
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a string and its zero byte. A zero byte within would end it early, so the rest is left away.
pub fn string(out: &mut BytesMut, text: &[u8]) {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

fn value(out: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            out.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            out.put_slice(bytes);
        }
        None => out.put_i32(-1),
    }
}

/// The protocol counts in 16 bits without sign.
fn count(out: &mut BytesMut, items: usize) {
    out.put_u16(u16::try_from(items).unwrap_or(u16::MAX));
}

/// A startup packet of protocol 3.0.
pub fn startup(out: &mut BytesMut, parameters: &[(String, String)]) {
    let start = out.len();
    out.put_i32(0);
    out.put_i32(3 << 16);
    for (name, text) in parameters {
        string(out, name.as_bytes());
        string(out, text.as_bytes());
    }
    out.put_u8(0);
    let length = i32::try_from(out.len() - start).unwrap_or(i32::MAX);
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// A CancelRequest packet.
pub fn cancel(out: &mut BytesMut, key: Key) {
    out.put_i32(16);
    out.put_i16(1234);
    out.put_i16(5678);
    out.put_i32(key.process);
    out.put_i32(key.secret);
}

pub fn query(out: &mut BytesMut, sql: &[u8]) {
    message(out, b'Q', |body| string(body, sql));
}

pub fn parse(out: &mut BytesMut, name: &[u8], sql: &[u8], types: &[u32]) {
    message(out, b'P', |body| {
        string(body, name);
        string(body, sql);
        count(body, types.len());
        types.iter().for_each(|&oid| body.put_u32(oid));
    });
}

/// A value for Bind, and whether it is binary.
#[derive(Debug, Clone, Copy)]
pub struct Argument<'a> {
    pub binary: bool,
    pub value: Option<&'a [u8]>,
}

pub fn bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], arguments: &[Argument<'_>], results: &[i16]) {
    message(out, b'B', |body| {
        string(body, portal);
        string(body, statement);
        count(body, arguments.len());
        arguments.iter().for_each(|argument| body.put_i16(argument.binary.into()));
        count(body, arguments.len());
        arguments.iter().for_each(|argument| value(body, argument.value));
        count(body, results.len());
        results.iter().for_each(|&format| body.put_i16(format));
    });
}

fn named(out: &mut BytesMut, kind: u8, what: u8, name: &[u8]) {
    message(out, kind, |body| {
        body.put_u8(what);
        string(body, name);
    });
}

pub fn describe_statement(out: &mut BytesMut, name: &[u8]) {
    named(out, b'D', b'S', name);
}

pub fn describe_portal(out: &mut BytesMut, name: &[u8]) {
    named(out, b'D', b'P', name);
}

pub fn close_statement(out: &mut BytesMut, name: &[u8]) {
    named(out, b'C', b'S', name);
}

pub fn close_portal(out: &mut BytesMut, name: &[u8]) {
    named(out, b'C', b'P', name);
}

pub fn execute(out: &mut BytesMut, portal: &[u8], row_limit: i32) {
    message(out, b'E', |body| {
        string(body, portal);
        body.put_i32(row_limit);
    });
}

pub fn flush(out: &mut BytesMut) {
    message(out, b'H', |_| {});
}

pub fn copy_fail(out: &mut BytesMut, why: &str) {
    message(out, b'f', |body| string(body, why.as_bytes()));
}

pub fn sync(out: &mut BytesMut) {
    message(out, b'S', |_| {});
}

/// What a server sends.
pub fn ready(out: &mut BytesMut, status: u8) {
    message(out, b'Z', |body| body.put_u8(status));
}

pub fn command_complete(out: &mut BytesMut, tag: &str) {
    message(out, b'C', |body| string(body, tag.as_bytes()));
}

/// A message without a body: ParseComplete `1`, BindComplete `2`, NoData `n`, PortalSuspended `s` …
pub fn bare(out: &mut BytesMut, kind: u8) {
    message(out, kind, |_| {});
}

/// CopyInResponse.
pub fn copy_in(out: &mut BytesMut, binary: bool, columns: usize) {
    message(out, b'G', |body| {
        body.put_u8(u8::from(binary));
        count(body, columns);
        (0..columns).for_each(|_| body.put_i16(i16::from(binary)));
    });
}

pub fn authentication_ok(out: &mut BytesMut) {
    message(out, b'R', |body| body.put_i32(0));
}

pub fn backend_key(out: &mut BytesMut, key: Key) {
    message(out, b'K', |body| {
        body.put_i32(key.process);
        body.put_i32(key.secret);
    });
}

pub fn parameter_status(out: &mut BytesMut, name: &str, text: &str) {
    message(out, b'S', |body| {
        string(body, name.as_bytes());
        string(body, text.as_bytes());
    });
}

/// NegotiateProtocolVersion: we speak 3.0, and know none of these options.
pub fn negotiate(out: &mut BytesMut, unknown: &[&str]) {
    message(out, b'v', |body| {
        body.put_i32(3 << 16);
        body.put_i32(i32::try_from(unknown.len()).unwrap_or(i32::MAX));
        unknown.iter().for_each(|name| string(body, name.as_bytes()));
    });
}

/// A RowDescription of text columns that belong to no table.
pub fn text_columns<'a>(out: &mut BytesMut, names: impl ExactSizeIterator<Item = &'a str>) {
    message(out, b'T', |body| {
        count(body, names.len());
        for name in names {
            string(body, name.as_bytes());
            body.put_u32(0);
            body.put_i16(0);
            body.put_u32(25);
            body.put_i16(-1);
            body.put_i32(-1);
            body.put_i16(0);
        }
    });
}

pub fn data_row<'a>(out: &mut BytesMut, values: impl ExactSizeIterator<Item = Option<&'a [u8]>>) {
    message(out, b'D', |body| {
        count(body, values.len());
        values.for_each(|bytes| value(body, bytes));
    });
}
