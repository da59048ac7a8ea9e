//! Positions in the write-ahead log.
//!
//! An LSN is a 64-bit byte offset; Postgres prints it as two hexadecimal halves
//! (<https://www.postgresql.org/docs/15/datatype-pg-lsn.html>). It is compared as a number, never as text.

use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log of main.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    /// How many bytes `self` is ahead of `other`; zero when it is not ahead.
    pub fn bytes_ahead_of(self, other: Lsn) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// The text was not of the form `XXXXXXXX/XXXXXXXX`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: {0:?}")]
pub struct ParseLsnError(String);

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let half = |digits: &str| {
                let well_formed = (1..=8).contains(&digits.len()) && !digits.starts_with('+');
                well_formed.then(|| u64::from_str_radix(digits, 16).ok())?
            };
            Some(Lsn(half(high)? << 32 | half(low)?))
        };
        parse().ok_or_else(|| ParseLsnError(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for value in [0, 1, 0xFFFF_FFFF, 0x1_0000_0000, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(value).to_string().parse(), Ok(Lsn(value)));
        }
    }

    #[test]
    fn compares_as_a_number() {
        let (short, long): (Lsn, Lsn) = ("9/FF".parse().unwrap(), "10/0".parse().unwrap());
        assert!(short < long);
    }

    #[test]
    fn refuses_what_is_not_an_lsn() {
        for text in ["", "/", "1", "1/", "/1", "1/2/3", "g/0", "+1/0", "123456789/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text:?}");
        }
    }
}
