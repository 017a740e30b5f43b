//! Columns parted by commas, semicolons or tabs. A header names them; without one, the first column that holds an address
//! is the one.

use csv::{ByteRecord, ReaderBuilder, Trim};

use super::{List, Said, origin, time};
use crate::block::Target;

/// Names of the column that holds the address.
const ADDRESS: [&str; 9] = ["address", "ip", "ip_address", "ipaddress", "cidr", "network", "prefix", "subnet", "value"];

/// Which column says what.
#[derive(Default)]
struct Columns {
    address: usize,
    origin: Option<usize>,
    reason: Option<usize>,
    created: Option<usize>,
    expires: Option<usize>,
    offence: Option<usize>,
}

pub fn read(bytes: &[u8], list: &mut List) {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(Trim::All)
        .comment(Some(b'#'))
        .delimiter(delimiter(bytes))
        .from_reader(bytes);
    let mut record = ByteRecord::new();
    let mut columns: Option<Columns> = None;
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                let line = error.position().map_or(1, csv::Position::line);
                return list.fault(line as usize, format!("it is no CSV: {error}"));
            }
        }
        let line = record.position().map_or(1, csv::Position::line) as usize;
        match &columns {
            Some(columns) => row(&record, columns, line, list),
            None => match begin(&record) {
                Some((found, is_header)) => {
                    if !is_header {
                        row(&record, &found, line, list);
                    }
                    columns = Some(found);
                }
                None => return list.fault(line, format!("no column holds addresses; name it {}", ADDRESS.join(", "))),
            },
        }
    }
}

/// The one that the first line with any of them has most of.
fn delimiter(bytes: &[u8]) -> u8 {
    let mut lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.starts_with(b"#"));
    let count = |line: &[u8], wanted: u8| line.iter().filter(|byte| **byte == wanted).count();
    let first = lines.find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    [b'\t', b';', b','].into_iter().max_by_key(|wanted| count(first, *wanted)).unwrap_or(b',')
}

/// The columns by the first record, and whether that is a header.
fn begin(record: &ByteRecord) -> Option<(Columns, bool)> {
    let names: Vec<String> = record.iter().map(|field| String::from_utf8_lossy(field).to_ascii_lowercase()).collect();
    let named = |name: &str| names.iter().position(|one| one == name);
    if let Some(address) = ADDRESS.iter().find_map(|name| named(name)) {
        let columns = Columns {
            address,
            origin: named("origin"),
            reason: named("reason"),
            created: named("created"),
            expires: named("expires"),
            offence: named("offence"),
        };
        return Some((columns, true));
    }
    let address = names.iter().position(|field| field.parse::<Target>().is_ok())?;
    Some((Columns { address, ..Columns::default() }, false))
}

fn row(record: &ByteRecord, columns: &Columns, line: usize, list: &mut List) {
    let field = |column: usize| String::from_utf8_lossy(record.get(column).unwrap_or_default());
    match said(record, columns) {
        Ok(said) => {
            let part = list.part(said);
            list.add_text(part, &field(columns.address), line);
        }
        Err(message) => list.fault(line, message),
    }
}

fn said(record: &ByteRecord, columns: &Columns) -> Result<Said, String> {
    let field = |column: Option<usize>| {
        let bytes = record.get(column?).filter(|field| !field.is_empty())?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let offence = |text: String| text.parse().map_err(|_| "the offence is no number".to_owned());
    Ok(Said {
        origin: field(columns.origin).map(|text| origin(&text)).transpose()?,
        reason: field(columns.reason),
        created: field(columns.created).map(|text| time(&text)).transpose()?,
        expires: field(columns.expires).map(|text| time(&text)).transpose()?,
        offence: field(columns.offence).map(offence).transpose()?,
    })
}
