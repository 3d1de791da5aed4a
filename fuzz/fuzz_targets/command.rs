//! A line as a server reads it: never a panic; what is accepted has one meaning, and what is refused is
//! refused in one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_client::protocol::{Command, is_field_safe};

fuzz_target!(|line: &str| match Command::parse(line) {
    Ok(command) => {
        let written = command.encode();
        // Only what the codec lets through can come from a peer.
        if !line.contains(['\n', '\r', '\0']) {
            assert!(!written.contains(['\n', '\r', '\0']), "{written:?}");
        }
        assert_eq!(Command::parse(&written).as_ref(), Ok(&command));
        let _ = command.redacted();
    }
    Err(refusal) => {
        let text = refusal.text();
        assert!(is_field_safe(&text) && text.chars().count() <= 500, "{text:?}");
    }
});
