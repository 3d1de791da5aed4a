//! nginx with files: what browsers and download managers do with them.

use std::io::Read;

use super::*;

/// Text that compresses, and is not the same twice.
fn style(lines: usize) -> String {
    (0..lines).map(|n| format!(".class-{n} {{ margin: {}px; }}\n", n % 97)).collect()
}

fn unzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_large_file_arrives_whole_and_in_parts() {
    let mut world = World::new();
    let backend = free_address();
    let bytes: Vec<u8> = (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(world.path().join("large.png"), &bytes).unwrap();
    let _nginx = nginx(world.path(), backend, "");
    world.route(&format!("http://{backend}"), &["OPTIONS_SET||r1|compression|true"]);
    let whole = world.curl("/large.png", &["--compressed"]);
    assert_eq!((whole.status, whole.exit), (200, 0));
    assert!(whole.body == bytes);
    let part = world.curl("/large.png", &["--range", "1000-1999"]);
    assert_eq!((part.status, part.field("content-range")), (206, Some("bytes 1000-1999/8000000")));
    assert!(part.body == bytes[1000..2000]);
    let none = world.curl("/large.png", &["--range", "9000000-"]);
    assert_eq!(none.status, 416);
    let head = world.curl("/large.png", &["--head"]);
    assert_eq!((head.status, head.field("content-length")), (200, Some("8000000")));
}

#[test]
fn what_is_compressed_is_revalidated_with_what_was_given() {
    let mut world = World::new();
    let backend = free_address();
    let text = style(2000);
    std::fs::write(world.path().join("style.css"), &text).unwrap();
    let _nginx = nginx(world.path(), backend, "");
    world.route(&format!("http://{backend}"), &["OPTIONS_SET||ALL|compression|true"]);
    let answer = world.curl("/style.css", &["--header", "Accept-Encoding: gzip"]);
    assert_eq!(
        (answer.field("content-encoding"), answer.field("vary")),
        (Some("gzip"), Some("Accept-Encoding"))
    );
    assert_eq!(unzip(&answer.body), text);
    let etag = answer.field("etag").unwrap().to_owned();
    assert!(etag.starts_with("W/\""), "{etag}");
    let condition = format!("If-None-Match: {etag}");
    let again = world.curl("/style.css", &["--header", "Accept-Encoding: gzip", "--header", &condition]);
    assert_eq!((again.status, again.body.len()), (304, 0));
    // A part is one of the file as it is.
    let range = ["--header", "Accept-Encoding: gzip", "--range", "0-99"];
    let part = world.curl("/style.css", &range);
    assert_eq!(
        (part.status, part.field("content-encoding"), part.text()),
        (206, None, text[..100].trim().into())
    );
    for coding in ["br", "zstd", "gzip, deflate, br, zstd"] {
        let answer = world.curl("/style.css", &["--header", &format!("Accept-Encoding: {coding}")]);
        assert!(answer.field("content-encoding").is_some() && answer.body.len() < text.len() / 4, "{coding}");
        assert_eq!(answer.field("content-length"), None, "{coding}");
    }
}

#[test]
fn what_nginx_has_compressed_is_left_alone() {
    let mut world = World::new();
    let backend = free_address();
    let text = style(2000);
    std::fs::write(world.path().join("style.css"), &text).unwrap();
    let _nginx =
        nginx(world.path(), backend, "gzip on; gzip_proxied any; gzip_types text/css; gzip_vary on;");
    world.route(&format!("http://{backend}"), &["OPTIONS_SET||r1|compression|true"]);
    let answer = world.curl("/style.css", &["--header", "Accept-Encoding: br, gzip"]);
    assert_eq!(answer.field("content-encoding"), Some("gzip"), "nginx knows no brotli, and was first");
    assert_eq!(unzip(&answer.body), text);
    assert_eq!(answer.head.to_lowercase().matches("content-encoding").count(), 1, "{}", answer.head);
}

#[test]
fn an_upload_that_nginx_refuses_is_refused_with_its_words() {
    let mut world = World::new();
    let (backend, upload) = (free_address(), world.path().join("upload"));
    std::fs::write(&upload, vec![b'x'; 20_000_000]).unwrap();
    let _nginx = nginx(
        world.path(),
        backend,
        "client_max_body_size 1m; error_page 413 @big; location @big { return 413 'no more than that'; }",
    );
    world.route(&format!("http://{backend}"), &[]);
    let file = format!("@{}", upload.display());
    for expect in ["Expect: 100-continue", "Expect:"] {
        let answer = world.curl("/", &["--data-binary", &file, "--header", expect]);
        assert_eq!((answer.status, answer.text().as_str()), (413, "no more than that"), "{expect}");
    }
}

#[test]
fn headers_of_the_route_take_the_place_of_nginxs() {
    let mut world = World::new();
    let backend = free_address();
    std::fs::write(world.path().join("index.html"), "hello").unwrap();
    let _nginx = nginx(world.path(), backend, "add_header X-Frame-Options DENY; add_header X-Kept 1;");
    world.route(
        &format!("http://{backend}"),
        &["HEADERS_SET||r1|X-Frame-Options|SAMEORIGIN", "HEADERS_SET||ALL|Server|shop"],
    );
    let answer = world.curl("/", &[]);
    assert_eq!((answer.status, answer.field("x-frame-options")), (200, Some("SAMEORIGIN")));
    assert_eq!((answer.field("server"), answer.field("x-kept")), (Some("shop"), Some("1")));
    assert_eq!(answer.head.to_lowercase().matches("server:").count(), 1, "{}", answer.head);
}
