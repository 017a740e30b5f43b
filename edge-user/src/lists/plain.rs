//! An address or CIDR a line; `#` and `;` begin a comment.

use super::{List, Said};

pub fn read(bytes: &[u8], list: &mut List) {
    let part = list.part(Said::default());
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let text = without_comment(line);
        if text.is_empty() {
            continue;
        }
        // What long lists are mostly of.
        match address4(text) {
            Some(bits) => list.parts[part].targets.push_host4(bits),
            None => list.add_text(part, &String::from_utf8_lossy(text), index + 1),
        }
    }
}

/// What of a line is said, without space around it.
pub fn without_comment(line: &[u8]) -> &[u8] {
    let end = line.iter().position(|byte| matches!(byte, b'#' | b';')).unwrap_or(line.len());
    line[..end].trim_ascii()
}

/// Four numbers without leading zeros, as the standard library reads them.
fn address4(text: &[u8]) -> Option<u32> {
    let (mut bits, mut octet, mut digits, mut dots) = (0u32, 0u32, 0u32, 0u32);
    for byte in text {
        match byte {
            b'0'..=b'9' if digits == 0 || octet > 0 => {
                octet = octet * 10 + u32::from(byte - b'0');
                digits += 1;
            }
            b'.' if digits > 0 => {
                bits = bits << 8 | octet;
                (octet, digits, dots) = (0, 0, dots + 1);
            }
            _ => return None,
        }
        if octet > 255 || dots > 3 {
            return None;
        }
    }
    (dots == 3 && digits > 0).then_some(bits << 8 | octet)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_address_is_read_as_the_standard_library_does(text in "[0-9.]{0,16}|([0-9]{1,3}\\.){3}[0-9]{1,3}") {
            let expected = text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
            prop_assert_eq!(address4(text.as_bytes()), expected);
        }
    }
}
