//! One event as it is written and read: a JSON object in one line, whatever the names in it are made of.

use std::{borrow::Cow, io, net::IpAddr};

use serde::{Deserialize, Serialize};
use serde_json::{
    Serializer,
    ser::{CharEscape, Formatter},
};

use crate::clock::Wall;

/// The longest subject and reason, in bytes.
const MAX_TEXT: usize = 1_024;

/// Each name once: in the program, and as it is written.
macro_rules! names {
    ($($(#[$about:meta])* $name:ident = $text:literal,)*) => {
        /// The endpoint or command. Of all names, only that of a sign-in contains `login`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Name {
            $($(#[$about])* #[serde(rename = $text)] $name,)*
        }

        impl Name {
            pub const ALL: &[Name] = &[$(Name::$name,)*];

            pub const fn text(self) -> &'static str {
                match self {
                    $(Name::$name => $text,)*
                }
            }
        }
    };
}

names! {
    Login = "login",
    Refresh = "refresh",
    Logout = "logout",
    Me = "me",
    Verify = "verify",
    Token = "token",
    Introspect = "introspect",
    Revoke = "revoke",
    /// A packet that the kernel dropped: a sample.
    Drop = "drop",
    Run = "run",
    Stop = "stop",
    Block = "block",
    Unblock = "unblock",
    Allow = "allow",
    Disallow = "disallow",
    Import = "import",
    Export = "export",
    List = "list",
    Why = "why",
    Status = "status",
    Audit = "audit",
    Reload = "reload",
    Unload = "unload",
    Backup = "backup",
    Restore = "restore",
    UserAdd = "user.add",
    UserRole = "user.role",
    UserList = "user.list",
    UserPasswd = "user.passwd",
    UserDisable = "user.disable",
    UserEnable = "user.enable",
    UserRemove = "user.remove",
    UserImport = "user.import",
    KeyCreate = "key.create",
    KeyList = "key.list",
    KeyRotate = "key.rotate",
    KeyRevoke = "key.revoke",
    SecretRotate = "secret.rotate",
    SessionList = "session.list",
    SessionEnd = "session.end",
    TokenRevokeAll = "token.revoke-all",
}

impl Name {
    /// A command that changes nothing, and that programs repeat.
    pub const fn is_look(self) -> bool {
        matches!(
            self,
            Name::Export
                | Name::List
                | Name::Why
                | Name::Status
                | Name::Audit
                | Name::UserList
                | Name::KeyList
                | Name::SessionList
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    Failure,
}

/// Who gave a command, by the kernel's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub uid: u32,
    /// Of the user; filled in where the line is written. `None`: there is none of this uid.
    pub name: Option<String>,
}

/// One line. What was written by another version of edge may have a name that this one does not know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub time: Wall,
    pub event: Cow<'static, str>,
    pub outcome: Outcome,
    pub peer: Option<IpAddr>,
    /// The name as given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<Actor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// How many events this line stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

impl Event {
    pub fn new(name: Name, outcome: Outcome, time: Wall) -> Event {
        Event {
            time,
            event: Cow::Borrowed(name.text()),
            outcome,
            peer: None,
            subject: None,
            actor: None,
            key_id: None,
            reason: None,
            request_id: None,
            count: None,
        }
    }

    /// Cut to what a line holds, whoever wrote so much.
    pub fn bounded(self) -> Event {
        let cut = |mut text: String| {
            text.truncate(text.floor_char_boundary(MAX_TEXT));
            text
        };
        Event { subject: self.subject.map(cut), reason: self.reason.map(cut), ..self }
    }

    /// As JSON, without a newline at its end or anywhere else.
    pub fn line(&self) -> String {
        in_one_line(self)
    }

    /// For people, in one line too.
    pub fn text(&self) -> String {
        let Event { time, event, outcome, peer, subject, actor, key_id, reason, request_id, count } = self;
        let outcome = if *outcome == Outcome::Success { "success" } else { "FAILURE" };
        let mut text = format!("{time} {outcome} {}", bare(event));
        let mut add = |key: &str, value: Option<String>| {
            text.extend(value.map(|value| format!(" {key}={value}")));
        };
        add("peer", peer.map(|peer| peer.to_string()));
        add("subject", subject.as_deref().map(in_one_line));
        add("actor", actor.as_ref().map(|actor| actor.name.as_deref().map_or_else(|| actor.uid.to_string(), bare)));
        add("key", key_id.as_deref().map(in_one_line));
        add("reason", reason.as_deref().map(in_one_line));
        add("request", request_id.as_deref().map(in_one_line));
        add("count", count.map(|count| count.to_string()));
        text
    }
}

/// A word as it is, anything else in quotes.
fn bare(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if !text.is_empty() && text.chars().all(is_word) { text.to_owned() } else { in_one_line(text) }
}

fn in_one_line<T: Serialize + ?Sized>(value: &T) -> String {
    let mut line = Vec::with_capacity(256);
    // Nothing in here fails to be JSON, and a vector takes what it is given.
    let written = value.serialize(&mut Serializer::with_formatter(&mut line, OneLine));
    debug_assert!(written.is_ok());
    String::from_utf8_lossy(&line).into_owned()
}

/// Writes every character as `\uXXXX` that could end a line, steer a terminal, turn the direction of writing, or not be
/// seen.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_hidden(*c)) {
            out.write_all(&rest.as_bytes()[..at])?;
            write!(out, "\\u{:04x}", u32::from(c))?;
            rest = &rest[at + c.len_utf8()..];
        }
        out.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: ?Sized + io::Write>(&mut self, out: &mut W, escape: CharEscape) -> io::Result<()> {
        let byte = match escape {
            CharEscape::Quote => return out.write_all(b"\\\""),
            CharEscape::ReverseSolidus => return out.write_all(b"\\\\"),
            CharEscape::Solidus => return out.write_all(b"/"),
            CharEscape::Backspace => 0x08,
            CharEscape::FormFeed => 0x0c,
            CharEscape::LineFeed => b'\n',
            CharEscape::CarriageReturn => b'\r',
            CharEscape::Tab => b'\t',
            CharEscape::AsciiControl(byte) => byte,
        };
        write!(out, "\\u{byte:04x}")
    }
}

/// All of them lie in the basic plane, so that four digits name them.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_written_as_it_is_called_and_one_alone_signs_in() {
        for name in Name::ALL {
            assert_eq!(serde_json::to_value(name).unwrap(), name.text());
            assert_eq!(name.text().contains("login"), *name == Name::Login);
        }
    }

    #[test]
    fn a_line_has_what_applies_and_always_time_event_outcome_and_peer() {
        let event = Event::new(Name::Block, Outcome::Success, Wall(1_767_323_045_000));
        let least = "{\"time\":\"2026-01-02T03:04:05.000Z\",\"event\":\"block\",\"outcome\":\"success\",\"peer\":null}";
        assert_eq!(event.line(), least);
        let actor = Some(Actor { uid: 0, name: Some("root".to_owned()) });
        let event = Event { actor, count: Some(7), peer: Some("::1".parse().unwrap()), ..event };
        assert!(event.line().ends_with(",\"peer\":\"::1\",\"actor\":{\"uid\":0,\"name\":\"root\"},\"count\":7}"));
        assert_eq!(event.text(), "2026-01-02T03:04:05.000Z success block peer=::1 actor=root count=7");
        assert_eq!(serde_json::from_str::<Event>(&event.line()).unwrap(), event);
    }

    #[test]
    fn a_name_cannot_end_the_line_nor_hide_a_part_of_it() {
        let hostile = "a\n{\"event\":\"login\"}\u{1b}[2J\u{7f}\u{85}\u{2028}\u{202e}\u{2066}\u{61c}\u{feff}\t\"\\ä漢";
        let event = Event {
            subject: Some(hostile.to_owned()),
            reason: Some("\r".to_owned()),
            ..Event::new(Name::Login, Outcome::Failure, Wall(0))
        };
        for line in [event.line(), event.text()] {
            assert!(!line.chars().any(is_hidden), "{line:?}");
            for escaped in [
                "a\\u000a{\\\"",
                "\\u001b[2J",
                "\\u007f\\u0085\\u2028\\u202e\\u2066\\u061c\\ufeff\\u0009\\\"\\\\ä漢",
                "\\u000d",
            ] {
                assert!(line.contains(escaped), "{escaped} in {line}");
            }
        }
        assert_eq!(serde_json::from_str::<Event>(&event.line()).unwrap().subject.as_deref(), Some(hostile));
        let long = Event { reason: Some("\u{1}".repeat(1 << 20)), ..event.clone() }.bounded();
        assert!(long.line().len() < 8 * MAX_TEXT && long.subject == event.subject);
        let named = Event { event: Cow::Borrowed("x y\u{202e}"), ..event };
        assert!(named.text().contains(" FAILURE \"x y\\u202e\" subject="), "{}", named.text());
    }
}
