//! What queries and forms say: `application/x-www-form-urlencoded`.

/// Every `require` of a query, a list with commas as several.
pub(super) fn required_roles(query: &str) -> impl Iterator<Item = String> {
    let values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| decoded(key) == "require");
    let roles: Vec<_> =
        values.flat_map(|(_, value)| decoded(value).split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    roles.into_iter().filter(|role| !role.is_empty())
}

/// `application/x-www-form-urlencoded`; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let text = text.as_bytes();
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
    String::from_utf8_lossy(&out).into_owned()
}
