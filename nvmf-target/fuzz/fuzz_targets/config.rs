//! Any text: it is a configuration that is printed and read again, or refused with a line that it has, and never a panic.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use oriel_nvmf_target::config::{Changes, Config, ConfigError};

/// Where it is not the configuration's own folder that is put in front of paths.
const FILE: &str = "orield.toml";

fuzz_target!(|text: &str| {
    match Config::parse(Path::new(FILE), text) {
        Ok(config) => {
            let printed = config.text();
            let again = Config::parse(Path::new(FILE), &printed);
            let again = again.unwrap_or_else(|error| panic!("{error}:\n{printed}"));
            assert_eq!(again, config, "{printed}");
            assert_eq!(config.changes_to(&again).ok(), Some(Changes::default()));
        }
        Err(ConfigError::Wrong { line, what, .. }) => {
            let lines = 1 + text.matches('\n').count();
            assert!((1..=lines).contains(&line), "line {line} of {lines}: {what}");
            assert!(!what.is_empty());
        }
        Err(other) => panic!("nothing but the text was to be looked at: {other}"),
    }
});
