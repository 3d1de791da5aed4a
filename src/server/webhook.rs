//! The address of a webhook, which is a secret: whoever knows it may write there. It is shown by its host alone.

use std::fmt;

use http::Uri;

use registry_client::protocol::Invalid;

/// Where alerts are sent, and in which form.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    form: Form,
    uri: Uri,
}

/// The form of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON with each alert.
    Generic,
    /// Slack's, which Mattermost and Rocket.Chat understand too.
    Slack,
    /// Discord's.
    Discord,
}

impl Webhook {
    /// Parses a URL. Slack and Discord are known by their hosts; `slack+` or `discord+` before it says it of others.
    ///
    /// # Errors
    /// If it is no URL of http or https with a host. The error does not show it.
    pub fn parse(text: &str) -> Result<Webhook, Invalid> {
        let refuse =
            |reason| Err(Invalid::new("webhook", "[redacted]", reason, "https://hooks.example.com/T0/B0"));
        let (form, url) = match text.split_once('+') {
            Some(("slack", url)) => (Some(Form::Slack), url),
            Some(("discord", url)) => (Some(Form::Discord), url),
            _ => (None, text),
        };
        let Ok(uri) = url.parse::<Uri>() else { return refuse("it is no URL") };
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return refuse("it is neither http:// nor https://");
        }
        match uri.authority() {
            Some(authority) if authority.as_str().contains('@') => return refuse("it has a user in it"),
            Some(authority) if !authority.host().is_empty() => {}
            _ => return refuse("it has no host"),
        }
        let form = form.unwrap_or_else(|| form_of(&uri));
        Ok(Webhook { form, uri })
    }

    /// The form of its messages.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Its host, without brackets, its port, and whether it is reached by TLS.
    pub fn place(&self) -> (&str, u16, bool) {
        let is_https = self.uri.scheme_str() == Some("https");
        let host = self.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        (host, self.uri.port_u16().unwrap_or(if is_https { 443 } else { 80 }), is_https)
    }

    /// What the request's head says: Host, and the target, which is the secret.
    pub fn request(&self) -> (&str, &str) {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        (authority, self.uri.path_and_query().map_or("/", |target| target.as_str()))
    }
}

fn form_of(uri: &Uri) -> Form {
    let is_at = |domain: &str| {
        let host = uri.host().unwrap_or_default();
        host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    };
    match () {
        () if is_at("slack.com") => Form::Slack,
        () if is_at("discord.com") || is_at("discordapp.com") => Form::Discord,
        () => Form::Generic,
    }
}

/// Its scheme and host.
impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/…", self.uri.scheme_str().unwrap_or_default(), self.request().0)
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_follows_from_the_host_and_the_secret_is_never_shown() {
        for (text, form) in [
            ("https://hooks.slack.com/services/T0/B0/secret", Form::Slack),
            ("https://discord.com/api/webhooks/1/secret", Form::Discord),
            ("https://slack.com.evil.example/secret", Form::Generic),
            ("http://10.0.0.7:9000/hook?key=secret", Form::Generic),
            ("slack+https://chat.example/hooks/secret", Form::Slack),
            ("discord+http://[::1]:81/secret", Form::Discord),
        ] {
            let webhook = Webhook::parse(text).unwrap();
            assert_eq!(webhook.form(), form, "{text}");
            assert!(!format!("{webhook} {webhook:?}").contains("secret"), "{webhook}");
        }
        assert_eq!(Webhook::parse("http://[::1]:81/x").unwrap().place(), ("::1", 81, false));
    }

    #[test]
    fn what_is_no_webhook_is_refused_without_showing_it() {
        for text in [
            "",
            "hooks.example/secret",
            "ftp://a/secret",
            "https:///secret",
            "https://u:secret@a/",
            "slack+secret",
        ] {
            let error = Webhook::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{text}: {error}");
        }
    }
}
