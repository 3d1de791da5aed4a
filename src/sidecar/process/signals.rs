//! Which signal means what: to us, and to the program that is wrapped (SEMANTICS section 10, "Stop"). Pure.

use rustix::process::Signal;
use signal_hook::consts::signal::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGURG, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH, SIGXCPU,
};
use signal_hook::low_level::signal_name;

/// The signals that are listened to. SIGTTIN and SIGTTOU are not among them: they would stop us for using
/// the terminal that the command has now, and are ignored, as tini does.
pub(crate) const HEARD: [i32; 15] = [
    SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP, SIGALRM, SIGVTALRM,
    SIGPROF, SIGIO, SIGURG, SIGXCPU,
];

/// What to do about a signal that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The ordered stop, or the next stage of it.
    Stop,
    /// It is for the command.
    Forward(Signal),
}

/// What `signal` asks for while the command's stop signal is `stop`: the engine sends the one that the image
/// names, and knows nothing of us.
pub(crate) fn meaning(signal: Signal, stop: Signal) -> Meaning {
    if signal == Signal::TERM || signal == Signal::INT || signal == stop {
        Meaning::Stop
    } else {
        Meaning::Forward(signal)
    }
}

/// The stop signal of a program, by the beginning of its name: on SIGTERM these drop requests in flight.
pub(crate) fn stop_signal_of(program: &str) -> Signal {
    const KNOWN: [(&str, Signal); 4] = [
        ("php-fpm", Signal::QUIT),
        ("nginx", Signal::QUIT),
        ("apache2", Signal::WINCH),
        ("httpd", Signal::WINCH),
    ];
    let known = KNOWN.iter().find(|(beginning, _)| program.starts_with(beginning));
    known.map_or(Signal::TERM, |(_, signal)| *signal)
}

/// Its name: `SIGTERM`.
pub(crate) fn name(signal: Signal) -> &'static str {
    signal_name(signal.as_raw()).unwrap_or("a signal")
}

/// What is sent instead of `signal` by the rules of SIGNAL_REWRITE, of which the first that fits counts.
pub(crate) fn rewritten(signal: Signal, rules: &[(Signal, Signal)]) -> Signal {
    rules.iter().find(|(from, _)| *from == signal).map_or(signal, |(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_is_listened_to_has_a_name() {
        assert!(HEARD.iter().all(|number| Signal::from_named_raw(*number).is_some()));
        assert_eq!(name(Signal::WINCH), "SIGWINCH");
    }

    #[test]
    fn programs_that_drop_requests_on_term_get_what_they_finish_on() {
        let of = |program| name(stop_signal_of(program));
        assert_eq!((of("php-fpm8.2"), of("php-fpm"), of("nginx")), ("SIGQUIT", "SIGQUIT", "SIGQUIT"));
        assert_eq!((of("apache2"), of("httpd")), ("SIGWINCH", "SIGWINCH"));
        assert_eq!((of("node"), of("php"), of("nginx-exporter")), ("SIGTERM", "SIGTERM", "SIGQUIT"));
    }

    #[test]
    fn the_commands_own_stop_signal_starts_the_stop_and_others_are_passed_on() {
        assert_eq!(meaning(Signal::QUIT, Signal::QUIT), Meaning::Stop);
        assert_eq!(meaning(Signal::QUIT, Signal::TERM), Meaning::Forward(Signal::QUIT));
        assert_eq!(meaning(Signal::WINCH, Signal::QUIT), Meaning::Forward(Signal::WINCH));
        assert_eq!(meaning(Signal::INT, Signal::QUIT), Meaning::Stop);
        assert_eq!(meaning(Signal::HUP, Signal::TERM), Meaning::Forward(Signal::HUP));
    }

    #[test]
    fn the_first_rule_that_fits_rewrites() {
        let rules = [(Signal::TERM, Signal::QUIT), (Signal::QUIT, Signal::HUP)];
        assert_eq!(rewritten(Signal::TERM, &rules), Signal::QUIT);
        assert_eq!(rewritten(Signal::USR1, &rules), Signal::USR1);
    }
}
