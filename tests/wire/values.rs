//! Every value: read back from its own text, and refused where it is none (PROTOCOL section 5).

use std::fmt::{Debug, Display};
use std::str::FromStr;

use proptest::prelude::*;
use registry_client::protocol::{
    BackendUrl, Domain, EventKind, GoDuration, HeaderName, HeaderValue, HealthPath, Host, InstanceName,
    Invalid, Metadata, OptionKey, PathPrefix, Refusal, RouteId, RouteOption, Scheme, Scope, ServiceName,
    SessionId, Target, TargetItem, is_field_safe, parse_bool,
};

use super::strategies;

fn read_back<T: FromStr<Err = Invalid> + Display + PartialEq + Debug>(value: T) {
    let text = value.to_string();
    assert!(!text.contains(['\n', '\r', '\0']));
    assert_eq!(text.parse(), Ok(value), "{text:?}");
}

/// Accepts or refuses, never panics; what is accepted has a text that is read back.
fn stable<T: FromStr<Err = Invalid> + Display + PartialEq + Debug>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => read_back(value),
        Err(error) => {
            assert!(error.value.chars().count() <= 100 && !error.reason.is_empty());
            error
                .example
                .parse::<T>()
                .unwrap_or_else(|_| panic!("the example {:?} is refused", error.example));
        }
    }
}

fn all_stable(text: &str) {
    stable::<BackendUrl>(text);
    stable::<Domain>(text);
    stable::<EventKind>(text);
    stable::<GoDuration>(text);
    stable::<HeaderName>(text);
    stable::<HeaderValue>(text);
    stable::<HealthPath>(text);
    stable::<Host>(text);
    stable::<InstanceName>(text);
    stable::<OptionKey>(text);
    stable::<PathPrefix>(text);
    stable::<RouteId>(text);
    stable::<Scheme>(text);
    stable::<Scope>(text);
    stable::<ServiceName>(text);
    stable::<Target>(text);
    stable::<TargetItem>(text);
    let _ = parse_bool("x", text);
    let _ = text.parse::<SessionId>().map(|id| assert_eq!(id.reveal(), text));
    let _ =
        Metadata::parse(text).map(|metadata| assert_eq!(Metadata::parse(&metadata.encode()), Ok(metadata)));
    for key in OptionKey::ALL {
        if let Ok(option) = RouteOption::parse(key, text) {
            assert_eq!(option.key(), key);
            assert_eq!(RouteOption::parse(key, &option.value_text()), Ok(option));
        }
    }
}

proptest! {
    #![proptest_config(strategies::cases(500))]

    #[test]
    fn every_value_is_read_back_from_its_text(
        (domain, path, backend, duration) in
            (strategies::domain(), strategies::path(), strategies::backend(), strategies::duration()),
        (service, instance, id, target) in
            (strategies::service(), strategies::instance(), strategies::route_id(), strategies::target()),
        (name, value, health) in
            (strategies::header_name(), strategies::header_value(), strategies::health_path()),
        (key, kind, option) in
            (strategies::option_key(), strategies::event_kind(), strategies::route_option()),
        metadata in strategies::metadata(),
    ) {
        read_back(domain);
        read_back(path);
        read_back(backend.host().clone());
        read_back(backend.scheme());
        read_back(backend);
        read_back(duration);
        read_back(service);
        read_back(instance);
        read_back(id);
        read_back(target);
        read_back(name);
        read_back(value);
        read_back(health);
        read_back(key);
        read_back(kind);
        prop_assert_eq!(RouteOption::parse(option.key(), &option.value_text()), Ok(option));
        prop_assert!(is_field_safe(&metadata.encode()));
        prop_assert_eq!(Metadata::parse(&metadata.encode()), Ok(metadata));
    }

    #[test]
    fn any_text_is_a_value_with_one_meaning_or_refused(
        anything in any::<String>(),
        likely in "[a-z0-9A-Z*._:/@|,%{}\\[\\]µ -]{0,24}",
        url in strategies::mutated(strategies::backend().prop_map(|url| url.to_string())),
        duration in strategies::mutated(strategies::duration().prop_map(|duration| duration.to_string())),
        target in strategies::mutated(strategies::target().prop_map(|target| target.to_string())),
    ) {
        for text in [anything, likely, url, duration, target] {
            all_stable(&text);
        }
    }

    // Go's own arithmetic: the parts of a duration add up.
    #[test]
    fn a_duration_is_the_sum_of_its_parts(
        hours in 0..1_000u64, minutes in 0..1_000u64, seconds in 0..1_000u64, millis in 0..5_000u64,
    ) {
        let duration: GoDuration = format!("{hours}h{minutes}m{seconds}s{millis}ms").parse().unwrap();
        let whole = hours * 3_600 + minutes * 60 + seconds;
        prop_assert_eq!(u128::from(whole) * 1_000 + u128::from(millis), duration.get().as_millis());
        let bare: GoDuration = whole.to_string().parse().unwrap();
        prop_assert_eq!(bare.get().as_secs(), whole);
    }
}

#[test]
fn texts_at_their_limits_have_one_meaning_or_are_refused() {
    let label = "a".repeat(63);
    for text in [
        format!("{label}.{label}.{label}.{}", &label[..61]),
        format!("*.{label}.{label}.{label}.{}", &label[..59]),
        format!("{label}.{label}.{label}.{}", &label[..62]),
        format!("/{}", "a".repeat(1_023)),
        format!("/{}", "a".repeat(1_024)),
        format!("http://h/{}", "a".repeat(1_023)),
        format!("http://h/{}", "a".repeat(2_039)),
        format!("ws://h/{}", "a".repeat(2_041)),
        format!("http://h{}", "/".repeat(2_040)),
        "x".repeat(255),
        "x".repeat(256),
        "9223372036s".to_owned(),
        "9223372036.854775807s".to_owned(),
        "9223372036.854775808s".to_owned(),
        "2562047h47m16.854775807s".to_owned(),
        "r4294967295".to_owned(),
        "r4294967296".to_owned(),
    ] {
        all_stable(&text);
    }
    assert!("9223372036.854775807s".parse::<GoDuration>().is_ok(), "Go's longest duration");
    assert!("9223372036.854775808s".parse::<GoDuration>().is_err());
}

fn refused<T: FromStr<Err = Invalid> + Debug>(texts: &[&str]) {
    for text in texts {
        let error = text.parse::<T>().expect_err(text);
        let message = error.to_string();
        // The kind, what is wrong, what would be right; the value only where it is no secret.
        assert!(message.starts_with(&format!("invalid {} ", error.kind)), "{message}");
        assert!(message.contains("(for example: "), "{message}");
        assert!(is_field_safe(&Refusal::from(error).text()), "{message}");
    }
}

#[test]
fn each_value_has_refused_examples_that_say_why() {
    refused::<ServiceName>(&["", " ", "a|b", "a\nb", "a\rb", "a\0b", "a\u{85}b"]);
    refused::<InstanceName>(&["", "\t", "a|b"]);
    refused::<SessionId>(&["", "a|b", "a\nb"]);
    refused::<Domain>(&[
        "",
        "*",
        "*.",
        "a..b",
        "a b",
        "exämple.com",
        "http://a.de",
        "a.de:80",
        "a.de/x",
        "-a.de",
        "a-.de",
    ]);
    refused::<PathPrefix>(&[
        "", "api", "/a b", "/a?b", "/a#b", "/ä", "/a/./b", "/a/../b", "/..", "/a//b", "//a",
    ]);
    refused::<BackendUrl>(&[
        "",
        "10.2.2.7:80",
        "tcp://h:80",
        "http://",
        "http://h:x",
        "http://u@h",
        "http://h?q",
        "http://[::1",
    ]);
    refused::<Host>(&["", "a b", "a..b", "300.1.1.1", "[::1", "[x]", "a/b"]);
    refused::<Scheme>(&["", "ftp", "http:", "unix"]);
    refused::<GoDuration>(&[
        "", "-1s", "-5", "1.5", "soon", "1d", "1 s", "1s ", "1h-1m", "1e3s", "١s", "292y", "2562048h",
    ]);
    refused::<RouteId>(&["", "r", "r0", "r01", "R1", "1", "r1x", "r-1", "r4294967296"]);
    refused::<Target>(&["", ",", "r1,", ",r1", "r1,,r2", "a b", "/a b", "*"]);
    refused::<OptionKey>(&["", "Timeout", "colour"]);
    refused::<Scope>(&["", "Routes", "all"]);
    refused::<EventKind>(&["", "ALL", "backend_health"]);
    refused::<HeaderName>(&["", "a b", "a:", "ä", "a\n"]);
    refused::<HeaderValue>(&["a\nb", "a\rb", "a\0", "ä", "\u{7f}"]);
    refused::<HealthPath>(&["", "health", "/a b", "/a|b", "/a#b", "/ä"]);
    for text in ["", "[]", "1", "\"x\"", "{", "{} {}", "{\"a\":}"].into_iter().filter(|text| !text.is_empty())
    {
        assert_eq!(Metadata::parse(text), Err(Refusal::InvalidMetadataJson), "{text}");
    }
}

#[test]
fn the_kinds_of_value_that_have_a_text_of_their_own_are_refused_by_it() {
    let refusal = |error: Invalid| Refusal::from(error).text().into_owned();
    assert_eq!(refusal("-1s".parse::<GoDuration>().unwrap_err()), "invalid duration: -1s");
    assert_eq!(refusal("h:80".parse::<BackendUrl>().unwrap_err()), "invalid backend url format");
    assert_eq!(refusal("a b".parse::<Target>().unwrap_err()), "unknown target: a b");
    assert_eq!(refusal("".parse::<PathPrefix>().unwrap_err()), "path cannot be empty");
    assert_eq!(refusal("".parse::<Domain>().unwrap_err()), "no domains specified");
    assert_eq!(
        refusal("a_b c.de".parse::<Domain>().unwrap_err()),
        "invalid domain \"a_b c.de\": only letters, digits, '-', '_' and '.' may stand in it (for example: app.example.com)"
    );
}

#[test]
fn deep_json_is_refused_and_does_not_exhaust_the_stack() {
    let deep = "[".repeat(60_000);
    assert_eq!(Metadata::parse(&format!("{{\"a\":{deep}")), Err(Refusal::InvalidMetadataJson));
}
