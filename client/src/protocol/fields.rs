//! A line taken apart at its separators.

use std::str::FromStr;

use super::{Invalid, Refusal};

/// The fields of a line that are still to be read.
pub(super) struct Fields<'a> {
    rest: Option<&'a str>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(line: &'a str) -> Self {
        Fields { rest: Some(line) }
    }

    /// Whether at least `count` fields are still to be read.
    pub(super) fn has(&self, count: usize) -> bool {
        count == 0 || self.rest.is_some_and(|rest| rest.split('|').take(count).count() == count)
    }

    /// The next field; `None` at the end of the line.
    pub(super) fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        let (field, rest) = match rest.split_once('|') {
            Some((field, rest)) => (field, Some(rest)),
            None => (rest, None),
        };
        self.rest = rest;
        Some(field)
    }

    /// Everything that is left, separators included: for JSON and the values of headers.
    pub(super) fn rest(&mut self) -> Option<&'a str> {
        self.rest.take()
    }

    /// The next field, which must be there; it may be empty.
    pub(super) fn required(&mut self) -> Result<&'a str, Refusal> {
        self.next().ok_or(Refusal::InvalidFormat)
    }

    /// The next field as a value.
    pub(super) fn parse<T: FromStr<Err = Invalid>>(&mut self) -> Result<T, Refusal> {
        Ok(self.required()?.parse()?)
    }

    /// The next field as a value; `None` where it is empty or missing.
    pub(super) fn optional<T: FromStr<Err = Invalid>>(&mut self) -> Result<Option<T>, Refusal> {
        match self.next() {
            None | Some("") => Ok(None),
            Some(field) => Ok(Some(field.parse()?)),
        }
    }

    /// The next field as a count.
    pub(super) fn number(&mut self, kind: &'static str) -> Result<u32, Refusal> {
        let text = self.required()?;
        let refusal = || Invalid::new(kind, text, "it is no whole number of 32 bits", "5").into();
        text.parse().map_err(|_| refusal())
    }
}
