//! The body of a message in each form (pure).

use std::time::SystemTime;

use serde_json::{Value, json};

use crate::server::webhook::Form;

use super::outbox::{Alert, Batch, Subject};

/// Discord takes 2000 characters.
const LONGEST: usize = 1900;

/// The body of a message, in JSON.
pub(super) fn body(form: Form, host: &str, batch: &Batch) -> String {
    let body = match form {
        Form::Generic => json!({
            "source": "registry-server",
            "host": host,
            "text": text(host, batch, &str::to_owned),
            "alerts": batch.alerts.values().map(alert).collect::<Vec<_>>(),
            "more": batch.more,
        }),
        Form::Slack => json!({ "text": text(host, batch, &for_slack) }),
        // Nobody is called by a name that a service chose.
        Form::Discord => json!({
            "content": text(host, batch, &for_discord),
            "allowed_mentions": { "parse": [] },
        }),
    };
    body.to_string()
}

fn alert(alert: &Alert) -> Value {
    let (kind, name) = match &alert.subject {
        Subject::Store => ("store", None),
        Subject::Service(name) => ("service", Some(name)),
        Subject::Certificate(name) => ("certificate", Some(name)),
    };
    json!({
        "kind": kind,
        "name": name,
        "state": if alert.ended.is_some() { "resolved" } else { "firing" },
        "text": alert.text,
        "began": alert.began.map(moment),
        "ended": alert.ended.map(moment),
    })
}

/// A line for each alert, and how many more there were.
fn text(host: &str, batch: &Batch, escape: &dyn Fn(&str) -> String) -> String {
    let mut lines = String::new();
    let mut left = batch.more;
    for alert in batch.alerts.values() {
        let sign = if alert.ended.is_some() { "✅" } else { "🔴" };
        let lasted = match (alert.began, alert.ended) {
            (Some(began), Some(ended)) => {
                let seconds = ended.duration_since(began).unwrap_or_default().as_secs();
                format!(" (it lasted {seconds} s)")
            }
            _ => String::new(),
        };
        let line = format!("{sign} {}: {}{lasted}", escape(host), escape(&one_line(&alert.text)));
        match lines.chars().count() + line.chars().count() < LONGEST {
            true => lines = lines + &line + "\n",
            false => left += 1,
        }
    }
    if left > 0 {
        lines += &format!("and {left} more\n");
    }
    lines.trim_end().to_owned()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn for_discord(text: &str) -> String {
    text.chars().flat_map(|c| "\\*_~`|>#[]()<@:".contains(c).then_some('\\').into_iter().chain([c])).collect()
}

fn moment(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).and_then(|at| at.round(jiff::Unit::Second));
    at.map(|at| at.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn batch(texts: &[&str]) -> Batch {
        let began = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        let alert = |(number, text): (usize, &&str)| Alert {
            subject: Subject::Service(number.to_string()),
            text: (*text).to_owned(),
            began,
            ended: None,
        };
        let alerts = texts.iter().enumerate().map(alert).map(|alert| (alert.subject.clone(), alert));
        Batch { alerts: alerts.collect(), more: 0 }
    }

    fn parsed(form: Form, batch: &Batch) -> Value {
        serde_json::from_str(&body(form, "proxy", batch)).unwrap()
    }

    #[test]
    fn each_form_says_the_same_and_no_name_means_anything_to_the_receiver() {
        let evil = batch(&["<!channel> @everyone *web*\nis lost"]);
        let generic = parsed(Form::Generic, &evil);
        assert_eq!(generic["alerts"][0]["state"], "firing");
        assert_eq!(generic["alerts"][0]["began"], "1970-01-01T00:01:00Z");
        let slack = parsed(Form::Slack, &evil);
        assert_eq!(slack["text"], "🔴 proxy: &lt;!channel&gt; @everyone *web* is lost");
        let discord = parsed(Form::Discord, &evil);
        assert_eq!(discord["content"], "🔴 proxy: \\<!channel\\> \\@everyone \\*web\\* is lost");
        assert_eq!(discord["allowed_mentions"]["parse"], json!([]));
    }

    #[test]
    fn a_long_message_is_cut_and_says_so() {
        let texts = vec!["x".repeat(100); 50];
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let content = parsed(Form::Discord, &batch(&texts))["content"].as_str().unwrap().to_owned();
        assert!(content.chars().count() < 2000 && content.contains("more"), "{content}");
    }
}
