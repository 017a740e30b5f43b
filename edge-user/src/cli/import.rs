//! `edge import`: reads a list as the caller, and hands what it says to the agent.

use std::{
    fs::File,
    io::{self, IsTerminal, Read},
    path::Path,
};

use serde_json::json;

use super::{
    args::{Global, Import, Length},
    ask,
    output::{Complaint, Outcome, WrongList},
    progress::Progress,
};
use crate::{
    control::protocol::{Command, ImportRequest, Imported, Reply},
    error::Failure,
    lists::{self, Given},
    parcel::{End, Parcel, Part},
};

/// The longest list that is read.
const MAX_BYTES: u64 = 1 << 30;
const CHUNK: usize = 1 << 20;

pub fn import(global: &Global, arguments: &Import) -> Result<Outcome, Complaint> {
    let name = name(&arguments.file);
    let progress = Progress::new(global);
    let bytes = read(&arguments.file, &name, &progress)?;
    progress.step(format!("parsing {name}"));
    let given = Given {
        origin: arguments.origin,
        reason: arguments.reason.clone(),
        end: arguments.length.map(|length| match length {
            Length::UntilLifted => End::UntilLifted,
            Length::For(length) => End::After(length.as_secs()),
        }),
    };
    let parts = lists::read(&bytes, &base(&arguments.file), arguments.format, given)
        .map_err(|faults| Complaint::List(WrongList { file: name.clone(), faults }))?;
    drop(bytes);
    let imported = put(global, arguments, &name, parts, &progress)?;
    drop(progress);
    Ok(told(&imported, &name))
}

fn put(
    global: &Global,
    arguments: &Import,
    name: &str,
    parts: Vec<Part>,
    progress: &Progress,
) -> Result<Imported, Complaint> {
    let count: usize = parts.iter().map(|part| part.targets.len()).sum();
    progress.step(format!("putting {count} addresses and networks into force"));
    let request = ImportRequest {
        source: name.to_owned(),
        count: count as u64,
        force: arguments.force,
        parcel: Parcel::new(parts),
    };
    match ask::agent_or_pins(global, Command::Import(request))? {
        Reply::Imported(imported) => Ok(*imported),
        _ => Err(ask::mismatched()),
    }
}

fn name(file: &Path) -> String {
    if file == Path::new("-") { "standard input".to_owned() } else { file.display().to_string() }
}

/// What entries say that they are from.
fn base(file: &Path) -> String {
    file.file_name().map_or_else(|| name(file), |base| name(Path::new(base)))
}

fn read(file: &Path, name: &str, progress: &Progress) -> Result<Vec<u8>, Failure> {
    let unread = |error: io::Error| {
        let advice = "name a file with addresses, or `-` for standard input";
        match error.kind() {
            io::ErrorKind::PermissionDenied => Failure::forbidden(format!("{name} cannot be read: {error}")),
            _ => Failure::usage(format!("{name} cannot be read: {error}; {advice}")),
        }
    };
    if file == Path::new("-") {
        if io::stdin().is_terminal() {
            eprintln!("edge: reading addresses, one a line; Ctrl-D ends them");
        }
        progress.reading(name, None);
        return whole(io::stdin().lock(), 0, name, progress).map_err(unread)?;
    }
    let file = File::open(file).map_err(unread)?;
    let length = length(&file).map_err(unread)?;
    progress.reading(name, length);
    let bytes = whole(&file, length.unwrap_or_default(), name, progress).map_err(unread)??;
    unchanged(name, length, bytes.len() as u64, self::length(&file).map_err(unread)?)?;
    Ok(bytes)
}

/// `None`: it has none, or says so, as those of `/proc`.
fn length(file: &File) -> io::Result<Option<u64>> {
    let data = file.metadata()?;
    Ok((data.is_file() && data.len() > 0).then_some(data.len()))
}

/// The last line of a file that is being written may be the beginning of another address.
fn unchanged(name: &str, before: Option<u64>, read: u64, after: Option<u64>) -> Result<(), Failure> {
    if before.is_some_and(|before| before != read || after != Some(read)) {
        return Err(Failure::refused(format!(
            "{name} changed while it was read, so nothing is taken from it; import it when it is whole"
        )));
    }
    Ok(())
}

fn whole(mut input: impl Read, expected: u64, name: &str, progress: &Progress) -> io::Result<Result<Vec<u8>, Failure>> {
    let mut bytes = Vec::with_capacity(expected.min(MAX_BYTES) as usize + 1);
    loop {
        match (&mut input).take(CHUNK as u64).read_to_end(&mut bytes)? {
            0 => return Ok(Ok(bytes)),
            read => progress.read(read),
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Ok(Err(Failure::usage(format!("{name} is over {MAX_BYTES} bytes; cut it into several"))));
        }
    }
}

fn told(imported: &Imported, name: &str) -> Outcome {
    let Imported { imported: count, addresses, prefixes, ended, .. } = imported;
    let mut text = match count {
        0 => format!("nothing of {name} is to be blocked"),
        _ => format!("in force from {name}: {addresses} addresses, {prefixes} networks"),
    };
    if *ended > 0 {
        text.push_str(&format!("\nended already, so left out: {ended}"));
    }
    let mut warnings = imported.told_left_out();
    warnings.extend(imported.warnings.iter().cloned());
    Outcome { warnings, ..Outcome::new(json!(imported), text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::LeftOut;

    #[test]
    fn what_is_left_out_is_named_and_counted() {
        let left_out = vec![LeftOut { address: "192.0.2.1".parse().unwrap(), reason: "it is loopback".to_owned() }];
        let imported = Imported {
            imported: 3,
            addresses: 2,
            prefixes: 1,
            left_out,
            left_out_total: 5,
            ended: 1,
            warnings: vec![],
        };
        let outcome = told(&imported, "a.txt");
        assert_eq!(outcome.text, "in force from a.txt: 2 addresses, 1 networks\nended already, so left out: 1");
        assert_eq!(outcome.warnings.len(), 2);
        assert!(outcome.warnings[0].starts_with("192.0.2.1/32 is protected"), "{:?}", outcome.warnings);
        assert_eq!((outcome.exit_code, &outcome.json["left_out_total"]), (0, &json!(5)));
        assert_eq!(told(&Imported::default(), "a").text, "nothing of a is to be blocked");
    }

    #[test]
    fn a_file_that_grows_or_shrinks_is_not_taken() {
        assert!(unchanged("a", Some(7), 7, Some(7)).is_ok() && unchanged("/proc/x", None, 7, None).is_ok());
        for (before, read, after) in [(7, 8, Some(8)), (7, 7, Some(9)), (7, 3, Some(3)), (7, 7, None)] {
            let failure = unchanged("a", Some(before), read, after).unwrap_err();
            assert!(failure.message.starts_with("a changed while it was read"), "{failure:?}");
        }
    }

    #[test]
    fn a_list_is_called_by_its_name() {
        assert_eq!((name(Path::new("-")), base(Path::new("-"))), ("standard input".into(), "standard input".into()));
        assert_eq!((name(Path::new("/a/b.txt")), base(Path::new("/a/b.txt"))), ("/a/b.txt".into(), "b.txt".into()));
    }
}
