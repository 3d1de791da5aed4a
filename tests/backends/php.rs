//! PHP-FPM behind nginx, which cannot tell `X_Real_IP` from `X-Real-IP`.

use super::*;

const SCRIPT: &str = r#"<?php
setcookie('one', '1'); setcookie('two', '2');
foreach (['HTTP_HOST', 'HTTP_X_FORWARDED_FOR', 'HTTP_X_FORWARDED_PROTO', 'HTTP_X_FORWARDED_HOST', 'HTTP_X_REAL_IP',
          'HTTP_FORWARDED', 'HTTP_CF_CONNECTING_IP', 'REQUEST_URI', 'REQUEST_METHOD'] as $name)
    echo $name, '=', $_SERVER[$name] ?? '', "\n";
echo 'body=', strlen(file_get_contents('php://input')), "\n";
"#;

struct Php {
    fpm: Program,
    _nginx: Program,
    address: SocketAddr,
}

impl Drop for Php {
    fn drop(&mut self) {
        // Its master takes its workers along.
        self.fpm.signal("TERM");
        self.fpm.wait();
    }
}

/// `None`: it is not installed.
fn php(folder: &Path) -> Option<Php> {
    let fpm =
        std::fs::read_dir("/usr/sbin").unwrap().flatten().map(|entry| entry.path()).find(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"))
        })?;
    let (address, pool) = (free_address(), free_address());
    std::fs::write(folder.join("index.php"), SCRIPT).unwrap();
    let file = folder.join("fpm.conf");
    let text = format!(
        "[global]\nerror_log = {}\ndaemonize = no\n[www]\nlisten = {pool}\npm = static\npm.max_children = 2\n\
         user = root\ngroup = root\n",
        folder.join("fpm.log").display()
    );
    std::fs::write(&file, text).unwrap();
    let args = ["-F", "-n", "-R", "-y", file.to_str().unwrap()];
    let fpm = Program::start("php-fpm", fpm.to_str().unwrap(), &args, &[]);
    wait_until("php-fpm listens", || TcpStream::connect(pool).is_ok());
    let parameters = ["REQUEST_METHOD", "REQUEST_URI", "QUERY_STRING", "CONTENT_TYPE", "CONTENT_LENGTH"];
    let parameters: String =
        parameters.map(|name| format!("fastcgi_param {name} ${};\n", name.to_lowercase())).concat();
    let pass = format!(
        "underscores_in_headers on; client_max_body_size 10m;\n\
         location / {{ fastcgi_pass {pool}; fastcgi_param SCRIPT_FILENAME {}/index.php; {parameters} }}",
        folder.display()
    );
    Some(Php { fpm, _nginx: nginx(folder, address, &pass), address })
}

#[test]
fn php_hears_from_the_proxy_who_asks_and_the_client_cannot_lie_in_any_spelling() {
    let mut world = World::new();
    let Some(php) = php(world.path()) else { return println!("not run: there is no php-fpm here") };
    world.route(&format!("http://{}", php.address), &[]);
    let lies = [
        "X-Forwarded-For: 6.6.6.6",
        "X_Forwarded_For: 6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X_Real_IP: 6.6.6.6",
        "X_Real-IP: 6.6.6.6",
        "Forwarded: for=6.6.6.6",
        "CF-Connecting-IP: 6.6.6.6",
        "CF_Connecting_IP: 6.6.6.6",
        "X-Forwarded-Proto: https",
        "X_Forwarded_Proto: https",
        "X_FORWARDED_HOST: evil.example",
    ];
    let mut args: Vec<&str> = lies.iter().flat_map(|lie| ["--header", lie]).collect();
    let upload = world.path().join("upload");
    std::fs::write(&upload, "y".repeat(300_000)).unwrap();
    let body = format!("@{}", upload.display());
    args.extend(["--header", "Transfer-Encoding: chunked", "--data-binary", &body]);
    let answer = world.curl("/a//b/../c%2Fd?e=%2e", &args);
    let host = format!("{HOST}:{}", world.server.http.port());
    let expected = format!(
        "HTTP_HOST={host}\nHTTP_X_FORWARDED_FOR=127.0.0.1\nHTTP_X_FORWARDED_PROTO=http\n\
         HTTP_X_FORWARDED_HOST={host}\nHTTP_X_REAL_IP=127.0.0.1\n\
         HTTP_FORWARDED=for=127.0.0.1;host=\"{host}\";proto=http\nHTTP_CF_CONNECTING_IP=\n"
    );
    assert!(answer.text().starts_with(&expected), "{}", answer.text());
    assert!(answer.text().ends_with("REQUEST_METHOD=POST\nbody=300000"), "{}", answer.text());
    assert_eq!(answer.head.to_lowercase().matches("set-cookie:").count(), 2, "{}", answer.head);
}

#[test]
fn a_client_that_is_behind_a_trusted_proxy_is_php_s_client() {
    let mut world = World::with(&[("TRUSTED_PROXIES", "127.0.0.0/8")]);
    let Some(php) = php(world.path()) else { return println!("not run: there is no php-fpm here") };
    world.route(&format!("http://{}", php.address), &["RATELIMIT_SET||r1|2|1h"]);
    let ask = |client: &str| {
        let (client, proto) = (format!("X-Forwarded-For: {client}"), "X-Forwarded-Proto: https");
        world.curl("/", &["--header", &client, "--header", proto])
    };
    let answer = ask("198.51.100.7");
    assert!(answer.text().contains("HTTP_X_REAL_IP=198.51.100.7\n"), "{}", answer.text());
    assert!(answer.text().contains("HTTP_X_FORWARDED_FOR=198.51.100.7, 127.0.0.1\n"), "{}", answer.text());
    assert!(answer.text().contains("HTTP_X_FORWARDED_PROTO=https\n"), "{}", answer.text());
    assert_eq!(ask("198.51.100.7").status, 200);
    let refused = ask("198.51.100.7");
    assert_eq!((refused.status, refused.field("retry-after")), (429, Some("1800")));
    assert_eq!(ask("198.51.100.8").status, 200, "another client");
}
