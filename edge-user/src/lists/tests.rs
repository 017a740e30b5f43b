//! Lists as they come, and what is wrong with them.

use super::*;

fn parts(text: &str, format: Format) -> Vec<Part> {
    read(text.as_bytes(), "a.txt", format, Given::default()).unwrap()
}

fn names(part: &Part) -> Vec<String> {
    part.targets.iter().map(|(_, target)| target.to_string()).collect()
}

/// The one part, told by its first words and by its name alike.
fn only(text: &str, format: Format) -> (About, Vec<String>) {
    let told = parts(text, Format::Auto);
    assert_eq!(told, parts(text, format));
    assert_eq!(told.len(), 1, "{told:?}");
    (told[0].about.clone(), names(&told[0]))
}

fn faults(text: &str, format: Format) -> Vec<(usize, String)> {
    let faults = read(text.as_bytes(), "a.txt", format, Given::default()).unwrap_err();
    assert_eq!(faults.count, faults.named.len());
    faults.named.into_iter().map(|fault| (fault.line, fault.message)).collect()
}

#[test]
fn a_plain_list_is_an_address_a_line() {
    let text =
        "\u{feff}# scanners\r\n203.0.113.7\r\n\n  2001:db8::/32\t; all\n::ffff:198.51.100.7 # mapped\n203.0.113.7/32";
    let (about, names) = only(text, Format::Plain);
    assert_eq!(names, ["198.51.100.7/32", "203.0.113.7/32", "2001:db8::/32"]);
    let expected = About {
        origin: Origin::Manual,
        reason: "imported from a.txt".to_owned(),
        created: None,
        end: End::UntilLifted,
        offence: 1,
    };
    assert_eq!(about, expected);
    assert!(parts("", Format::Auto).is_empty() && parts("# nothing\n\n", Format::Auto).is_empty());
}

#[test]
fn a_netset_of_firehol_is_read() {
    let text = "#\n# firehol_level1\n#\n# ipv4 hash:net ipset\n# Maintainer : FireHOL\n#\n1.10.16.0/20\n1.19.0.0/16\n5.188.10.0\n";
    assert_eq!(only(text, Format::Netset).1, ["1.10.16.0/20", "1.19.0.0/16", "5.188.10.0/32"]);
}

#[test]
fn both_forms_of_spamhaus_drop_are_read() {
    let text =
        "; Spamhaus DROP List 2024/05/16\n; Last-Modified: Thu\n1.10.16.0/20 ; SBL256894\n2.56.192.0/22 ; SBL459831\n";
    assert_eq!(only(text, Format::Spamhaus).1, ["1.10.16.0/20", "2.56.192.0/22"]);
    let lines = r#"{"cidr":"1.10.16.0/20","sblid":"SBL256894","rir":"apnic"}
{"cidr":"2a06:5280::/29","sblid":"SBL400115","rir":"ripencc"}
{"type":"metadata","timestamp":1715847181,"size":85610,"records":2,"copyright":"(c) 2024 The Spamhaus Project SLU","terms":"https://www.spamhaus.org/drop/terms/"}
"#;
    for format in [Format::Auto, Format::Spamhaus, Format::Json] {
        let found = parts(lines, format);
        let told: Vec<_> = found.iter().map(|part| (part.about.reason.as_str(), names(part))).collect();
        let expected =
            [("SBL256894", vec!["1.10.16.0/20".to_owned()]), ("SBL400115", vec!["2a06:5280::/29".to_owned()])];
        assert_eq!(told, expected);
    }
}

#[test]
fn columns_are_found_by_name_or_by_what_they_hold() {
    let (about, names) =
        only("id,IP,reason,expires\n1,203.0.113.7,\"scans, a lot\",2026-01-02T03:04:05Z\n", Format::Csv);
    assert_eq!(names, ["203.0.113.7/32"]);
    assert_eq!((about.reason.as_str(), about.end), ("scans, a lot", End::At(Wall(1_767_323_045_000))));
    assert_eq!(only("scan,203.0.113.7,x\nscan,2001:db8::1,y\n", Format::Csv).1, ["203.0.113.7/32", "2001:db8::1/128"]);
    assert_eq!(names_of_csv("network;country\n203.0.113.0/24;XX\n"), ["203.0.113.0/24"]);
    assert_eq!(names_of_csv("# a\naddress\tn\n203.0.113.0\t1\n"), ["203.0.113.0/32"]);
    assert_eq!(names_of_csv("203.0.113.0\n203.0.113.1\n"), ["203.0.113.0/32", "203.0.113.1/32"]);
}

fn names_of_csv(text: &str) -> Vec<String> {
    parts(text, Format::Csv).iter().flat_map(names).collect()
}

const ENTRY: &str = r#"{"address":"203.0.113.7/32","origin":"auth","reason":"5 failed\nlogins","created":"2026-01-02T03:04:05.000Z","expires":"2026-01-02T03:19:05.000Z","offence":2,"packets":12,"bytes":720}"#;

#[test]
fn what_edge_lists_is_read_with_all_that_it_says() {
    let expected = About {
        origin: Origin::Auth,
        reason: "5 failed\nlogins".to_owned(),
        created: Some(Wall(1_767_323_045_000)),
        end: End::At(Wall(1_767_323_945_000)),
        offence: 2,
    };
    let other = r#"{"address":"2001:db8::/32","origin":"manual","reason":"","created":"2026-01-02T03:04:05.000Z","expires":null,"offence":1}"#;
    for text in [format!("[{ENTRY},\n{other}]"), format!("{ENTRY}\n{other}\n"), format!(" [\n {ENTRY}, {other} ]\n")] {
        let found = parts(&text, Format::Auto);
        assert_eq!(found, parts(&text, Format::Json));
        assert_eq!((&found[0].about, names(&found[0])), (&expected, vec!["203.0.113.7/32".to_owned()]));
        assert_eq!((found[1].about.end, names(&found[1])), (End::UntilLifted, vec!["2001:db8::/32".to_owned()]));
    }
    assert_eq!(only(r#"["203.0.113.7", "2001:db8::/32"]"#, Format::Json).1, ["203.0.113.7/32", "2001:db8::/32"]);
    assert!(parts("[]", Format::Auto).is_empty());
}

#[test]
fn what_is_given_goes_before_what_the_list_says() {
    let given = Given { origin: Some(Origin::Feed), reason: Some("by us".to_owned()), end: Some(End::After(60)) };
    let found = read(ENTRY.as_bytes(), "a.txt", Format::Auto, given).unwrap();
    let expected =
        About { origin: Origin::Feed, reason: "by us".to_owned(), created: None, end: End::After(60), offence: 2 };
    assert_eq!(found[0].about, expected);
}

#[test]
fn every_wrong_line_is_named_up_to_a_bound() {
    let found = faults("203.0.113.7\nnonsense\n# fine\n10.0.0.300 # here\n\u{1b}[2J\n203.0.113.08\n", Format::Auto);
    assert_eq!(found.iter().map(|fault| fault.0).collect::<Vec<_>>(), [2, 4, 5, 6]);
    assert!(found[1].1.starts_with("`10.0.0.300` is no address"), "{found:?}");
    assert!(!found[2].1.contains('\u{1b}'));
    let many = "x\n".repeat(50);
    let faults = read(many.as_bytes(), "a.txt", Format::Plain, Given::default()).unwrap_err();
    assert_eq!((faults.count, faults.named.len(), faults.named[19].line), (50, NAMED, 20));
}

#[test]
fn every_format_names_the_line() {
    let lines = |text: &str, format| faults(text, format).into_iter().map(|fault| fault.0).collect::<Vec<_>>();
    assert_eq!(lines("[\n\"203.0.113.7\",\n{\"address\": \"x\"},\n{\"a\":1},\n7]", Format::Auto), [3, 4, 5]);
    assert_eq!(lines("[\n\"203.0.113.7\",\n", Format::Auto), [3]);
    assert_eq!(lines(&format!("{ENTRY}\n\n{{}}\n{{\n{ENTRY}"), Format::Auto), [3, 4]);
    assert_eq!(lines(&ENTRY.replace("auth", "nobody"), Format::Auto), [1]);
    assert_eq!(lines(&ENTRY.replace("03:04", "3:4"), Format::Auto), [1]);
    assert_eq!(lines("a,address\n1,203.0.113.7\n2\n3,x\n", Format::Auto), [3, 4]);
    assert_eq!(lines("a,b\nc,d\n", Format::Auto), [1]);
    let bytes = b"\xff\xfe\x00\n\x7fELF\x00";
    assert_eq!(read(bytes, "a", Format::Auto, Given::default()).unwrap_err().count, 2);
}

#[test]
fn what_is_wrong_is_told_in_the_terms_of_the_list() {
    let told = |text: &str| faults(text, Format::Json).remove(0).1;
    for (wrong, message) in [
        ("[7]", "it is no entry: invalid type: integer `7`, expected an address in quotes or an object with one"),
        ("[{\"address\": 7}]", "it is no entry: invalid type: integer `7`, expected a string"),
        ("[{\"offence\": \"2\"}]", "it is no entry: invalid type: string \"2\", expected a whole number"),
        (
            "[{\"ip\": \"203.0.113.7\", \"cidr\": \"203.0.113.0/24\"}]",
            "it is no entry: it has several of `address`, `cidr`, `ip` and `network`; leave one",
        ),
        ("{\"address\": \"203.0.113.7\"", "it is no JSON: EOF while parsing an object"),
        ("[\"203.0.113.7\",", "it is no JSON: EOF while parsing a value"),
    ] {
        assert_eq!(told(wrong), message, "{wrong}");
    }
}
