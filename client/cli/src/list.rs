//! Lists of blobs: what `put` and `ls` print.

use std::fs::File;
use std::io::{BufRead, BufReader, stdin};
use std::path::Path;

use serde::Deserialize;

use crate::error::{CliError, UsageError};
use crate::keys::{Wanted, parse_key};

#[derive(Deserialize)]
struct Object {
    key: String,
    path: Option<String>,
}

/// Reads a list, from standard input if it is called `-`.
pub(crate) fn read(file: &Path) -> Result<Vec<Wanted>, CliError> {
    if file.as_os_str() == "-" {
        return parse(file, stdin().lock());
    }
    let opened = File::open(file).map_err(CliError::Unreadable)?;
    parse(file, BufReader::new(opened))
}

/// Each line is a key, or a key and a path, or an object with these; others are empty.
fn parse(file: &Path, lines: impl BufRead) -> Result<Vec<Wanted>, CliError> {
    let mut all = Vec::new();
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line.map_err(CliError::Unreadable)?;
        if line.trim().is_empty() {
            continue;
        }
        let (key, label) = if line.starts_with('{') {
            let object: Object = serde_json::from_str(&line).map_err(|_| {
                let file = file.into();
                UsageError::ListObject { file, line: number }
            })?;
            (object.key, object.path)
        } else {
            match line.split_once(char::is_whitespace) {
                Some((key, label)) => {
                    let label = label.trim_start();
                    let label = (!label.is_empty()).then(|| label.to_owned());
                    (key.to_owned(), label)
                }
                None => (line, None),
            }
        };
        let key = parse_key(&key).map_err(|source| UsageError::List {
            file: file.into(),
            line: number,
            source,
        })?;
        all.push(Wanted { key, label });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use oriel_protocol::Key;

    use super::*;

    fn of(text: &str) -> Result<Vec<Wanted>, CliError> {
        parse(Path::new("keys"), text.as_bytes())
    }

    #[test]
    fn lists_are_text_or_objects() {
        let key = Key::of_content(b"a");
        let label = |label: &str| Wanted {
            key,
            label: Some(label.into()),
        };
        let text = format!(
            "{key}\n\n{key}  a b \n{{\"key\":\"{key}\",\"path\":\"x\\ny\",\"bytes\":3}}\n{{\"key\":\"{key}\"}}\n{key} \n"
        );
        let bare = Wanted::of_key(key);
        let expected = [
            bare.clone(),
            label("a b "),
            label("x\ny"),
            bare.clone(),
            bare,
        ];
        assert_eq!(of(&text).unwrap(), expected);
        assert_eq!(of("").unwrap(), []);
    }

    #[test]
    fn wrong_lines_are_named() {
        let key = Key::of_content(b"a");
        for (text, says) in [
            (format!("{key}\nabc x\n"), "keys, line 2: 'abc' is no key"),
            (
                format!("{key}\n{{\"kex\":1}}\n"),
                "keys, line 2 is no object",
            ),
            ("{\"key\":\"00\"}".into(), "keys, line 1: '00' is no key"),
        ] {
            let error = of(&text).unwrap_err();
            assert!(error.to_string().starts_with(says), "{error}");
            assert_eq!(error.exit().status(), 2);
        }
    }
}
