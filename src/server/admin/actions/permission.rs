//! Whether a request may change anything (pure).

use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, ORIGIN};
use http::{HeaderMap, StatusCode};

use crate::server::registry::Token;

/// Why a request may not change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("nobody may change anything here: ADMIN_TOKEN is not set at the server")]
    NoToken,
    #[error("another site's page may not ask for this")]
    OtherOrigin,
    #[error("an order is application/json")]
    NoJson,
    #[error("the ADMIN_TOKEN is missing: Authorization: Bearer TOKEN")]
    MissingToken,
    #[error("this is not the ADMIN_TOKEN")]
    WrongToken,
}

impl Refused {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Refused::NoToken | Refused::OtherOrigin => StatusCode::FORBIDDEN,
            Refused::NoJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Refused::MissingToken | Refused::WrongToken => StatusCode::UNAUTHORIZED,
        }
    }
}

/// Whether a request with these headers comes from an operator, and from no page of another site. A browser sends Origin
/// with every POST, and lets no page of another site set Authorization.
pub(super) fn check(headers: &HeaderMap, token: Option<&Token>) -> Result<(), Refused> {
    let token = token.ok_or(Refused::NoToken)?;
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let site = headers.get("sec-fetch-site").map(|value| value.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return Err(Refused::OtherOrigin);
    }
    if let Some(origin) = text(ORIGIN) {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        if authority.is_none() || authority != text(HOST) {
            return Err(Refused::OtherOrigin);
        }
    }
    let content = text(CONTENT_TYPE).unwrap_or_default();
    let content = content.split(';').next().unwrap_or_default().trim();
    if !content.eq_ignore_ascii_case("application/json") {
        return Err(Refused::NoJson);
    }
    let (scheme, given) =
        text(AUTHORIZATION).and_then(|value| value.split_once(' ')).ok_or(Refused::MissingToken)?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(Refused::MissingToken);
    }
    if token.is(given.trim()) { Ok(()) } else { Err(Refused::WrongToken) }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn asked(more: &[(&'static str, &'static str)]) -> Result<(), Refused> {
        let mut headers = HeaderMap::new();
        let usual = [
            ("host", "proxy:8081"),
            ("content-type", "application/json; charset=utf-8"),
            ("authorization", "Bearer right"),
        ];
        for (name, value) in usual.iter().chain(more) {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        check(&headers, Some(&Token::new("right")))
    }

    #[test]
    fn the_token_opens_and_nothing_else_does() {
        assert_eq!(asked(&[]), Ok(()));
        assert_eq!(asked(&[("authorization", "bearer right")]), Ok(()));
        for wrong in ["Bearer wrong", "Bearer rightly", "Bearer righ", "Bearer "] {
            assert_eq!(asked(&[("authorization", wrong)]), Err(Refused::WrongToken), "{wrong}");
        }
        for missing in ["right", "Basic cmlnaHQ=", "Digest right"] {
            assert_eq!(asked(&[("authorization", missing)]), Err(Refused::MissingToken), "{missing}");
        }
        assert_eq!(check(&HeaderMap::new(), None), Err(Refused::NoToken));
    }

    #[test]
    fn a_page_of_another_site_is_refused_even_with_the_token() {
        for origin in ["http://proxy:8081", "https://proxy:8081"] {
            assert_eq!(asked(&[("origin", origin)]), Ok(()), "{origin}");
        }
        for origin in
            ["null", "http://evil.example", "http://proxy", "http://proxy:80811", "http://x.proxy:8081", ""]
        {
            assert_eq!(asked(&[("origin", origin)]), Err(Refused::OtherOrigin), "{origin}");
        }
        for site in ["cross-site", "same-site"] {
            assert_eq!(asked(&[("sec-fetch-site", site)]), Err(Refused::OtherOrigin), "{site}");
        }
        for form in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""] {
            assert_eq!(asked(&[("content-type", form)]), Err(Refused::NoJson), "{form}");
        }
    }
}
