//! The operators' page: one document without outside parts, and the headers that keep it so.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{
    CONTENT_SECURITY_POLICY, HeaderName, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use sha2::{Digest, Sha256};

/// The document, with its style and its script in it.
pub(super) const PAGE: &str = include_str!("page.html");

/// The browser runs this style and this script alone, asks nobody but us, and shows the page in no frame.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let (style, script) = (hash("style")?, hash("script")?);
    let policy = format!(
        "default-src 'none'; style-src {style}; script-src {script}; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).ok()
});

/// Adds the headers that go with the document.
pub(super) fn protect(headers: &mut HeaderMap) {
    // Without a policy the script would have to be trusted: rather none runs.
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone().unwrap_or(nothing));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    headers.insert(opener, HeaderValue::from_static("same-origin"));
    let resource = HeaderName::from_static("cross-origin-resource-policy");
    headers.insert(resource, HeaderValue::from_static("same-origin"));
}

/// The hash of the element's text, as a policy names it.
fn hash(element: &str) -> Option<String> {
    let (_, rest) = PAGE.split_once(&format!("<{element}>"))?;
    let (text, _) = rest.split_once(&format!("</{element}>"))?;
    Some(format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_one_style_and_one_script_and_names_nobody_else() {
        assert!(POLICY.is_some());
        for element in ["<style", "<script"] {
            assert_eq!(PAGE.matches(element).count(), 1, "{element}");
        }
        for outside in [
            "src=",
            "@import",
            "url(",
            "style=",
            "innerHTML",
            "insertAdjacentHTML",
            "outerHTML",
            "document.write",
            "eval(",
        ] {
            assert!(!PAGE.contains(outside), "{outside}");
        }
        let allowed = ["http://www.w3.org/2000/svg", "http://10.2.2.9:8080"];
        let rest = allowed.iter().fold(PAGE.to_owned(), |page, known| page.replace(known, ""));
        assert!(!rest.contains("http://") && !rest.contains("https://"));
    }
}
