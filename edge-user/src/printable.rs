//! Text from outside, made fit to be shown to a person: nothing in it steers a terminal or hides the rest.

/// The longest piece of what was typed that an error quotes, in characters.
const QUOTED: usize = 80;

/// The whole text; each character that could steer a terminal or turn the direction of writing is replaced.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// What was typed, as an error quotes it: the same, cut short.
pub fn quotable(text: &str) -> String {
    printable(text).chars().take(QUOTED).collect()
}

fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_cannot_be_steered() {
        assert_eq!(printable("a\u{1b}[2Jb\u{202e}c\nd"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d");
        assert_eq!(quotable(&"\u{1b}ä".repeat(100)).chars().count(), QUOTED);
    }
}
