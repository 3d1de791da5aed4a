//! What holds for every value and every input. A failure prints the smallest case it was shrunk to, and
//! keeps its seed in a file beside this one.

use std::collections::BTreeSet;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use registry_client::protocol::{
    Command, LineCodec, MAX_LINE, Registration, ServerLine, SessionRef, is_field_safe,
};
use serde_json::Value;
use tokio_util::codec::{Decoder, Encoder};

use super::strategies::cases;
use super::{strategies, variants};

/// What a peer reads of a line that was written: exactly one, the same.
fn over_the_wire(line: &str) -> String {
    let (mut codec, mut wire) = (LineCodec::new(usize::MAX - 1), BytesMut::new());
    codec.encode(line, &mut wire).unwrap();
    let read = codec.decode(&mut wire).unwrap();
    assert!(wire.is_empty() && codec.decode_eof(&mut wire).unwrap().is_none());
    match read {
        Some(registry_client::protocol::Line::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn every_command_is_read_back_as_it_was_written(command in strategies::command()) {
        prop_assert_eq!(Command::parse(&over_the_wire(&command.encode())), Ok(command));
    }

    #[test]
    fn every_line_of_a_server_is_read_back_as_it_was_written(line in strategies::server_line()) {
        prop_assert_eq!(ServerLine::parse(&over_the_wire(&line.encode())), Ok(line));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in any::<String>(), tail in "[|a-zA-Z0-9,./:*{}\\[\\]\" ]{0,60}") {
        for line in [&text, &tail] {
            let _ = Command::parse(line);
            let _ = ServerLine::parse(line);
        }
        for head in variants::COMMANDS {
            let _ = Command::parse(&format!("{head}|{text}"));
            let _ = Command::parse(&format!("{head}|S|{tail}"));
            let _ = ServerLine::parse(&format!("{head}_OK|{tail}"));
        }
    }

    // What is accepted stays what it is when it is passed on. Refusals keep to one line, and say no more
    // than they may.
    #[test]
    fn a_damaged_command_is_refused_or_has_one_meaning(
        line in strategies::mutated(strategies::command().prop_map(|command| command.encode())),
    ) {
        match Command::parse(&line) {
            Ok(command) => prop_assert_eq!(Command::parse(&command.encode()), Ok(command)),
            Err(refusal) => {
                let text = refusal.to_string();
                prop_assert!(is_field_safe(&text) && text.chars().count() <= 500, "{}", text);
            }
        }
    }

    #[test]
    fn a_damaged_line_of_a_server_is_refused_or_has_one_meaning(
        line in strategies::mutated(strategies::server_line().prop_map(|line| line.encode())),
    ) {
        match ServerLine::parse(&line) {
            Ok(read) => {
                // An error's text may have to be made fit for a line once.
                let written = read.encode();
                let again = ServerLine::parse(&written).map(|line| line.encode());
                prop_assert_eq!(again, Ok(written));
            }
            Err(error) => prop_assert!(error.to_string().len() < 1_000),
        }
    }

    #[test]
    fn nothing_shown_of_a_command_holds_its_secrets(
        request in strategies::request(),
        registration in strategies::registration(),
        secret in "[0-9a-f]{32}",
    ) {
        let id: registry_client::protocol::SessionId = format!("web-1-{secret}").parse().unwrap();
        let mut entries = registration.metadata.without_secrets();
        entries.insert("token".to_owned(), Value::from(secret.clone()));
        entries.insert("service_token".to_owned(), Value::from(vec![secret.clone()]));
        let metadata = registry_client::protocol::Metadata::new(entries);
        for command in [
            Command::Reconnect(id.clone()),
            Command::Request(SessionRef::Id(id.clone()), request),
            Command::Register(Registration { metadata, ..registration }),
        ] {
            prop_assert!(command.encode().contains(&secret));
            for shown in [command.redacted(), format!("{command:?}")] {
                prop_assert!(!shown.contains(&secret), "{}", shown);
                prop_assert!(!shown.contains('\n'));
            }
        }
    }

    #[test]
    fn nothing_shown_of_a_server_s_line_holds_its_secrets(
        info in strategies::session_info(),
        secret in "[0-9a-f]{32}",
    ) {
        let mut info = Box::new(info);
        info.session_id = format!("web-1-{secret}");
        info.metadata.insert("token".to_owned(), Value::from(secret.clone()));
        let acknowledged = ServerLine::parse(&format!("ACK|web-1-{secret}")).unwrap();
        for line in [acknowledged, registry_client::protocol::Reply::SessionInfo(info).into()] {
            prop_assert!(line.encode().contains(&secret));
            for shown in [line.redacted(), format!("{line:?}")] {
                prop_assert!(!shown.contains(&secret), "{}", shown);
            }
        }
    }

    #[test]
    fn a_redacted_line_has_the_fields_of_the_line(command in strategies::command()) {
        let fields = |line: &str| line.matches('|').count();
        prop_assert_eq!(fields(&command.redacted()), fields(&command.encode()));
    }
}

fn generated<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    name: impl Fn(&T) -> Vec<&'static str>,
) -> BTreeSet<&'static str> {
    let mut runner = TestRunner::deterministic();
    (0..6_000).flat_map(|_| name(&strategy.new_tree(&mut runner).unwrap().current())).collect()
}

#[test]
fn the_properties_are_tried_on_every_variant() {
    let commands = generated(strategies::command(), variants::inside);
    assert_eq!(commands, variants::all_inside().into_iter().collect());

    let lines = generated(strategies::server_line(), variants::inside_server_line);
    let all = [variants::REPLIES, variants::PUSHES, variants::REFUSALS].concat();
    assert_eq!(lines, all.into_iter().collect());
}

#[test]
fn the_damage_done_leaves_some_lines_readable_and_others_not() {
    let lines = strategies::mutated(strategies::command().prop_map(|command| command.encode()));
    let outcome = |line: &String| vec![if Command::parse(line).is_ok() { "read" } else { "refused" }];
    assert_eq!(generated(lines, outcome), BTreeSet::from(["read", "refused"]));
}

#[test]
fn no_line_of_the_properties_is_longer_than_a_peer_bears() {
    let mut runner = TestRunner::deterministic();
    for _ in 0..500 {
        let command = strategies::command().new_tree(&mut runner).unwrap().current();
        assert!(command.encode().len() <= MAX_LINE);
    }
}
