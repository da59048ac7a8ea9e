//! Takes passwords out of text that is about to be shown.
//!
//! Works on any text, since a connection string can turn up in a library's error message or in the quoted line of a
//! broken file. When in doubt it hides too much.

const HIDDEN: &str = "***";

/// The text with the password of every URL (`scheme://user:password@`) and every `password=…` replaced by `***`.
pub fn mask(text: &str) -> String {
    mask_assignments(&mask_urls(text))
}

fn mask_urls(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || c == '"' || c == '\'').unwrap_or(after.len());
        out.push_str(&mask_authority(&after[..end]));
        rest = &after[end..];
    }
    out.push_str(rest);
    out
}

/// What follows `://`. The last `@` counts, so that a password with a forgotten escape does not shine through.
fn mask_authority(text: &str) -> String {
    let Some(colon) = text.find(':') else { return text.to_owned() };
    if let Some(at) = text.rfind('@').filter(|at| *at > colon) {
        return format!("{}:{HIDDEN}{}", &text[..colon], &text[at..]);
    }
    // `user:password` without a host is a mistake, but still a password. `host:5432` is not.
    let port = text[colon + 1..].split(['/', '?', ',']).next().unwrap_or_default();
    if text.starts_with('[') || port.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.to_owned();
    }
    format!("{}:{HIDDEN}", &text[..colon])
}

fn mask_assignments(text: &str) -> String {
    const KEY: &str = "password=";
    let lower = text.to_ascii_lowercase();
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(at) = lower[from..].find(KEY) {
        let value = from + at + KEY.len();
        out.push_str(&text[from..value]);
        out.push_str(HIDDEN);
        let quoted = text[value..].strip_prefix('\'');
        from = match quoted.and_then(|rest| rest.find('\'')) {
            Some(length) => value + length + 2,
            None => text[value..]
                .find(|c: char| c.is_whitespace() || matches!(c, '&' | '"' | '\''))
                .filter(|length| *length > 0)
                .map_or(text.len(), |length| value + length),
        };
    }
    out.push_str(&text[from..]);
    out
}
