//! What queries and forms say: `application/x-www-form-urlencoded`.

use std::collections::BTreeMap;

/// The parameters of a form, each once.
pub(super) struct Form(BTreeMap<String, String>);

impl Form {
    /// `None`: it is no text, or a parameter stands there twice.
    pub(super) fn parse(body: &[u8]) -> Option<Form> {
        let mut parameters = BTreeMap::new();
        for pair in body.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &[][..]),
            };
            let text = |part| String::from_utf8(bytes(part)).ok();
            if parameters.insert(text(name)?, text(value)?).is_some() {
                return None;
            }
        }
        Some(Form(parameters))
    }

    /// One without a value is as good as missing (RFC 6749, section 3.2).
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

/// Every `require` of a query, a list with commas as several.
pub(super) fn required_roles(query: &str) -> impl Iterator<Item = String> {
    let values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| decoded(key) == "require");
    let roles: Vec<_> =
        values.flat_map(|(_, value)| decoded(value).split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    roles.into_iter().filter(|role| !role.is_empty())
}

/// A parameter that stands there once.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    Form::parse(query.as_bytes())?.value(name).map(str::to_owned)
}

/// `application/x-www-form-urlencoded`; what is no escape stays as it is.
pub(super) fn decoded(text: &str) -> String {
    String::from_utf8_lossy(&bytes(text.as_bytes())).into_owned()
}

fn bytes(text: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = text.get(at) {
        let digit = |index: usize| text.get(index).and_then(|byte| char::from(*byte).to_digit(16));
        let escape = (byte == b'%').then(|| Some((digit(at + 1)? * 16 + digit(at + 2)?) as u8)).flatten();
        out.push(match escape {
            Some(byte) => byte,
            None if byte == b'+' => b' ',
            None => byte,
        });
        at += if escape.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_has_each_parameter_once_and_an_empty_one_is_none() {
        let form = Form::parse(b"grant_type=client+credentials&a=%C3%A4%zz&empty=&&flag").unwrap();
        assert_eq!(form.value("grant_type"), Some("client credentials"));
        assert_eq!(form.value("a"), Some("\u{e4}%zz"));
        assert_eq!((form.value("empty"), form.value("flag"), form.value("none")), (None, None, None));
        for bad in [&b"a=1&a=2"[..], b"a=1&%61=1", b"a&a", b"a=%FF", b"a=\xff"] {
            assert!(Form::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn every_required_role_counts_however_it_is_written() {
        let roles: Vec<String> = required_roles("require=a&x=1&require=b,c&requir%65=%64&require=").collect();
        assert_eq!(roles, ["a", "b", "c", "d"]);
    }
}
