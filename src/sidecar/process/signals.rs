//! Which signals stop the wrapped command, which are passed on, and as what (SEMANTICS section 10, "Stop"). Pure.

use signal_hook::consts::signal::{
    SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGURG, SIGUSR1, SIGUSR2,
    SIGVTALRM, SIGWINCH, SIGXCPU,
};

use crate::sidecar::config::Signal;

/// The signals that the wrapper listens to, beside the realtime ones: as PID 1 it would lose those that it does not listen
/// to, and otherwise they would end it. SIGTTIN and SIGTTOU are not among them: they would stop this process when
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

/// The signal to send instead of `signal`, by the first rule of SIGNAL_REWRITE that fits; `None`: it is dropped.
pub(crate) fn rewritten(signal: Signal, rules: &[(Signal, Option<Signal>)]) -> Option<Signal> {
    rules.iter().find(|(from, _)| *from == signal).map_or(Some(signal), |(_, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_is_listened_to_is_one_that_may_be_sent() {
        assert!(LISTENED.iter().all(|number| Signal::from_number(*number).is_some()));
    }

    #[test]
    fn programs_that_drop_requests_on_term_get_what_they_finish_on() {
        let of = |program| stop_signal_of(program).to_string();
        assert_eq!([of("php-fpm8.2"), of("php-fpm"), of("nginx")], ["SIGQUIT", "SIGQUIT", "SIGQUIT"]);
        assert_eq!([of("apache2"), of("httpd")], ["SIGWINCH", "SIGWINCH"]);
        assert_eq!([of("node"), of("php"), of("nginx-exporter")], ["SIGTERM", "SIGTERM", "SIGQUIT"]);
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
        let rules =
            [(Signal::TERM, Some(Signal::QUIT)), (Signal::QUIT, Some(Signal::HUP)), (Signal::INT, None)];
        assert_eq!(rewritten(Signal::TERM, &rules), Some(Signal::QUIT));
        assert_eq!(rewritten(Signal::USR1, &rules), Some(Signal::USR1));
        assert_eq!(rewritten(Signal::INT, &rules), None);
    }
}
