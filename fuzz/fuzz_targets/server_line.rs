//! A line as a client reads it: never a panic, and what is accepted has one meaning.
#![no_main]

use libfuzzer_sys::fuzz_target;
use registry_client::protocol::ServerLine;

fuzz_target!(|line: &str| match ServerLine::parse(line) {
    Ok(read) => {
        // An error's text may have to be made fit for a line once.
        let written = read.encode();
        let again = ServerLine::parse(&written).map(|line| line.encode());
        assert_eq!(again.as_ref(), Ok(&written));
        let _ = read.redacted();
    }
    Err(error) => assert!(error.to_string().len() < 1_000),
});
