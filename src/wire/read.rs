//! Reading the bodies of messages. Never reads beyond the frame, never panics.
//!
//! Names and SQL are bytes: they are in the client's encoding, which need not be UTF-8.

use super::Malformed;

/// A column in a RowDescription.
#[derive(Debug)]
pub struct Column {
    pub name: String,
    /// Zero for what is computed.
    pub table_oid: u32,
    pub type_oid: u32,
    /// -1 for none.
    pub modifier: i32,
}

/// The columns of a RowDescription.
pub fn columns(body: &[u8]) -> Result<Vec<Column>, Malformed> {
    let mut body = Body::new(body);
    let count = body.i16()?;
    let mut columns = Vec::new();
    for _ in 0..count {
        let name = String::from_utf8_lossy(body.string()?).into_owned();
        let table_oid = body.u32()?;
        body.i16()?;
        let type_oid = body.u32()?;
        body.i16()?;
        let modifier = body.i32()?;
        body.i16()?;
        columns.push(Column { name, table_oid, type_oid, modifier });
    }
    Ok(columns)
}

/// The reason in a CopyFail.
pub fn copy_fail(body: &[u8]) -> Result<&[u8], Malformed> {
    Body::new(body).string()
}

/// What is left of a message's body.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a> {
    rest: &'a [u8],
}

impl<'a> Body<'a> {
    /// A body without its header.
    pub fn new(body: &'a [u8]) -> Body<'a> {
        Body { rest: body }
    }

    /// Takes this many bytes.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed::Body)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// Takes one byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Takes a 16-bit integer.
    pub fn i16(&mut self) -> Result<i16, Malformed> {
        self.array().map(i16::from_be_bytes)
    }

    /// Takes a 32-bit integer.
    pub fn i32(&mut self) -> Result<i32, Malformed> {
        self.array().map(i32::from_be_bytes)
    }

    /// Takes a 32-bit OID.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a string up to its zero byte, which must be within the frame.
    pub fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let end = self.rest.iter().position(|&byte| byte == 0).ok_or(Malformed::Text)?;
        let (taken, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Ok(taken)
    }

    /// Takes a counted list; the count cannot make us reserve more than the frame could hold.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Result<T, Malformed>) -> Result<Vec<T>, Malformed> {
        let count = u16::from_be_bytes(self.array()?) as usize;
        let mut items = Vec::with_capacity(count.min(self.rest.len()));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// A value with its length before it; -1 is NULL.
    fn value(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.i32()? {
            -1 => Ok(None),
            length => self.bytes(usize::try_from(length).map_err(|_| Malformed::Body)?).map(Some),
        }
    }

    /// What has not been taken.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed::Body) }
    }
}

/// Parse: prepares a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parse<'a> {
    pub name: &'a [u8],
    pub sql: &'a [u8],
    pub types: Vec<u32>,
}

impl<'a> Parse<'a> {
    pub fn read(body: &'a [u8]) -> Result<Parse<'a>, Malformed> {
        let mut body = Body::new(body);
        let parse = Parse { name: body.string()?, sql: body.string()?, types: body.list(Body::u32)? };
        body.end().map(|()| parse)
    }
}

/// Bind: makes a portal of a statement and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind<'a> {
    pub portal: &'a [u8],
    pub statement: &'a [u8],
    /// None: all text; one: for all; else one each.
    pub formats: Vec<i16>,
    pub values: Vec<Option<&'a [u8]>>,
    pub results: Vec<i16>,
}

impl<'a> Bind<'a> {
    pub fn read(body: &'a [u8]) -> Result<Bind<'a>, Malformed> {
        let mut body = Body::new(body);
        let bind = Bind {
            portal: body.string()?,
            statement: body.string()?,
            formats: body.list(Body::i16)?,
            values: body.list(Body::value)?,
            results: body.list(Body::i16)?,
        };
        let formats = bind.formats.len();
        body.end()?;
        if formats > 1 && formats != bind.values.len() { Err(Malformed::Body) } else { Ok(bind) }
    }

    /// The format of each value: true is binary.
    pub fn binary(&self) -> Vec<bool> {
        let format = |place: usize| match self.formats.as_slice() {
            [] => false,
            [all] => *all == 1,
            each => each.get(place) == Some(&1),
        };
        (0..self.values.len()).map(format).collect()
    }
}

/// Formats expanded to one for each of `columns`.
pub fn expand(formats: &[i16], columns: usize) -> Vec<i16> {
    match formats {
        [] => vec![0; columns],
        [all] => vec![*all; columns],
        each => each.to_vec(),
    }
}

/// Describe and Close name a statement (`S`) or a portal (`P`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    pub statement: bool,
    pub name: &'a [u8],
}

impl<'a> Named<'a> {
    pub fn read(body: &'a [u8]) -> Result<Named<'a>, Malformed> {
        let mut body = Body::new(body);
        let statement = match body.u8()? {
            b'S' => true,
            b'P' => false,
            _ => return Err(Malformed::Body),
        };
        let named = Named { statement, name: body.string()? };
        body.end().map(|()| named)
    }
}

/// Execute: runs a portal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    pub portal: &'a [u8],
    /// No limit when it is not positive.
    pub row_limit: i32,
}

impl<'a> Execute<'a> {
    pub fn read(body: &'a [u8]) -> Result<Execute<'a>, Malformed> {
        let mut body = Body::new(body);
        let execute = Execute { portal: body.string()?, row_limit: body.i32()? };
        body.end().map(|()| execute)
    }
}

/// The SQL of a Query message.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    let mut body = Body::new(body);
    let sql = body.string()?;
    body.end().map(|()| sql)
}

/// The type OIDs of a ParameterDescription.
pub fn parameter_types(body: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut body = Body::new(body);
    let types = body.list(Body::u32)?;
    body.end().map(|()| types)
}

/// Where the format codes stand in the body of a RowDescription, one place for each column.
pub fn format_places(body: &[u8]) -> Result<Vec<usize>, Malformed> {
    let whole = body.len();
    let mut body = Body::new(body);
    let places = body.list(|field| {
        field.string()?;
        field.bytes(4 + 2 + 4 + 2 + 4)?;
        let place = whole - field.rest().len();
        field.i16().map(|_| place)
    })?;
    body.end().map(|()| places)
}

/// The values of a DataRow, as slices of `body`: `None` is NULL.
pub fn data_row(body: &[u8]) -> Result<Vec<Option<&[u8]>>, Malformed> {
    let mut body = Body::new(body);
    let values = body.list(Body::value)?;
    body.end().map(|()| values)
}

/// The name and value of a ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut body = Body::new(body);
    let pair = (body.string()?, body.string()?);
    body.end().map(|()| pair)
}
