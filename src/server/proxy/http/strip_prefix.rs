//! Takes a route's path off the target of a request. Pure.

use http::uri::PathAndQuery;

use crate::server::routing::normalise;

/// The target without the route's path; `None` if there is nothing to take off.
///
/// The rest stays as the client wrote it. Where the client wrote the route's path in another spelling (`/a/../api`,
/// `/%61pi`), the path is brought into its normal form first, in which it was matched.
pub(crate) fn stripped(target: &PathAndQuery, prefix: &str) -> Option<PathAndQuery> {
    let prefix = prefix.trim_end_matches('/');
    if prefix.is_empty() || !target.as_str().starts_with('/') {
        return None;
    }
    let normal;
    let rest = match rest(target.path(), prefix) {
        // A dot segment behind the prefix could lead out of it again.
        Some(rest) if !has_dot_segment(rest) => rest,
        _ => {
            normal = normalise(target.path()).ok()?;
            self::rest(&normal, prefix)?
        }
    };
    let path = if rest.is_empty() { "/" } else { rest };
    match target.query() {
        Some(query) => format!("{path}?{query}").parse().ok(),
        None => path.parse().ok(),
    }
}

fn rest<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn has_dot_segment(path: &str) -> bool {
    path.split('/').any(|segment| {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        plain == "." || plain == ".."
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_stays_as_it_was_written() {
        let after = |target: &str, prefix: &str| {
            stripped(&target.parse().unwrap(), prefix).map(|target| target.to_string())
        };
        for (target, prefix, rest) in [
            ("/api", "/api", Some("/")),
            ("/api/", "/api/", Some("/")),
            ("/api?a=/api", "/api", Some("/?a=/api")),
            ("/api/a%2fb%41?c=d", "/api", Some("/a%2fb%41?c=d")),
            ("/api//x", "/api", Some("//x")),
            ("/%61pi/x", "/api", Some("/x")),
            ("/a/../api/x?q", "/api", Some("/x?q")),
            ("/api/y/../x", "/api", Some("/x")),
            ("/api/../api/x", "/api", Some("/x")),
            ("/k%c3%a4se/x", "/k%C3%A4se", Some("/x")),
            ("/apixyz", "/api", None),
            ("/api/x", "/", None),
            ("*", "/api", None),
        ] {
            assert_eq!(after(target, prefix).as_deref(), rest, "{target} without {prefix}");
        }
    }
}
