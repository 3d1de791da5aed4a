//! Which signals stop the wrapped command, which are passed on, and as what (SEMANTICS section 10, "Stop"). Pure.

use rustix::process::Signal;
use signal_hook::consts::signal::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGURG, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH, SIGXCPU,
};
use signal_hook::low_level::signal_name;

/// The signals that the wrapper listens to. SIGTTIN and SIGTTOU are not among them: they would stop this process when
/// it uses the terminal, which the command has now, so they are blocked.
pub(crate) const LISTENED: [i32; 15] = [
    SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGTSTP, SIGALRM, SIGVTALRM,
    SIGPROF, SIGIO, SIGURG, SIGXCPU,
];

/// What to do about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalAction {
    /// Begin the orderly stop, or its next stage.
    Stop,
    /// Pass it on to the command.
    Forward(Signal),
}

/// What to do about `signal` while the command's stop signal is `stop`. The engine sends the stop signal that the
/// image names, without knowing of this process, so that one asks for the stop too.
pub(crate) fn action(signal: Signal, stop: Signal) -> SignalAction {
    if signal == Signal::TERM || signal == Signal::INT || signal == stop {
        SignalAction::Stop
    } else {
        SignalAction::Forward(signal)
    }
}

/// The signal on which a program finishes its requests, by the beginning of its name. On SIGTERM these programs drop
/// requests in flight.
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

/// The signal's name, such as `SIGTERM`.
pub(crate) fn name(signal: Signal) -> &'static str {
    signal_name(signal.as_raw()).unwrap_or("a signal")
}

/// The signal to send instead of `signal`, by the first rule of SIGNAL_REWRITE that fits.
pub(crate) fn rewritten(signal: Signal, rules: &[(Signal, Signal)]) -> Signal {
    rules.iter().find(|(from, _)| *from == signal).map_or(signal, |(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_is_listened_to_has_a_name() {
        assert!(LISTENED.iter().all(|number| Signal::from_named_raw(*number).is_some()));
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
        assert_eq!(action(Signal::QUIT, Signal::QUIT), SignalAction::Stop);
        assert_eq!(action(Signal::QUIT, Signal::TERM), SignalAction::Forward(Signal::QUIT));
        assert_eq!(action(Signal::WINCH, Signal::QUIT), SignalAction::Forward(Signal::WINCH));
        assert_eq!(action(Signal::INT, Signal::QUIT), SignalAction::Stop);
        assert_eq!(action(Signal::HUP, Signal::TERM), SignalAction::Forward(Signal::HUP));
    }

    #[test]
    fn the_first_rule_that_fits_rewrites() {
        let rules = [(Signal::TERM, Signal::QUIT), (Signal::QUIT, Signal::HUP)];
        assert_eq!(rewritten(Signal::TERM, &rules), Signal::QUIT);
        assert_eq!(rewritten(Signal::USR1, &rules), Signal::USR1);
    }
}
