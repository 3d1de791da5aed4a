//! The part of FastCGI that a ping needs: one GET without a body to a responder.
//!
//! PHP-FPM answers its `ping.path` in a worker and without a script. So the answer shows that the pool has a free
//! worker, which an open port does not.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use registry_client::protocol::HealthPath;

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
/// The longest answer, in bytes. The answer to a ping has some hundred.
const MAX_ANSWER: usize = 64 * 1024;
/// How many characters of the server's error output are reported.
const MAX_TOLD: usize = 200;

/// Whether the server answers a GET of `path` with 2xx.
///
/// # Errors
/// Says, for a person, why it does not.
pub(super) async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    path: &HealthPath,
) -> Result<(), String> {
    stream.write_all(&request(path.as_str())).await.map_err(|error| error.to_string())?;
    let (mut output, mut complaints) = (Vec::new(), Vec::new());
    loop {
        let mut header = [0; 8];
        stream.read_exact(&mut header).await.map_err(|_| "what answers there does not speak FastCGI")?;
        let [VERSION, kind, _, _, high, low, padding, _] = header else {
            return Err("what answers there does not speak FastCGI".to_owned());
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let mut content = vec![0; length + usize::from(padding)];
        stream.read_exact(&mut content).await.map_err(|error| error.to_string())?;
        content.truncate(length);
        match kind {
            STDOUT => output.append(&mut content),
            STDERR => complaints.append(&mut content),
            END_REQUEST => return verdict(&content, &output, &complaints, path),
            _ => {}
        }
        if output.len() + complaints.len() > MAX_ANSWER {
            return Err("the answer is longer than any answer to a ping".to_owned());
        }
    }
}

/// All records of the request, whose id is 1.
fn request(path: &str) -> Vec<u8> {
    let params = [
        ("GATEWAY_INTERFACE", "FastCGI/1.0"),
        ("REQUEST_METHOD", "GET"),
        ("SCRIPT_NAME", path),
        ("SCRIPT_FILENAME", path),
        ("REQUEST_URI", path),
        ("QUERY_STRING", ""),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_SOFTWARE", "registry-sidecar"),
        ("REMOTE_ADDR", "127.0.0.1"),
    ];
    let mut encoded = Vec::new();
    for (name, value) in params {
        // The names are short; only a value may need the long form of the length.
        encoded.push(name.len() as u8);
        match u8::try_from(value.len()) {
            Ok(length @ 0..=127) => encoded.push(length),
            _ => encoded.extend((value.len() as u32 | 1 << 31).to_be_bytes()),
        }
        encoded.extend(name.as_bytes());
        encoded.extend(value.as_bytes());
    }
    // The role is responder (1), and the flags ask for no keep-alive.
    let mut records = record(BEGIN_REQUEST, &[0, 1, 0, 0, 0, 0, 0, 0]);
    for (kind, content) in [(PARAMS, &encoded[..]), (PARAMS, &[]), (STDIN, &[])] {
        records.extend(record(kind, content));
    }
    records
}

/// One record. `content` holds a path and constants, far below the limit of 65,535 bytes.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = (content.len() as u16).to_be_bytes();
    let mut record = vec![VERSION, kind, 0, 1, high, low, 0, 0];
    record.extend(content);
    record
}

fn verdict(end: &[u8], output: &[u8], complaints: &[u8], path: &HealthPath) -> Result<(), String> {
    let told = String::from_utf8_lossy(complaints).trim().chars().take(MAX_TOLD).collect::<String>();
    match end.get(4) {
        Some(0) => {}
        Some(2) => return Err("the server is overloaded".to_owned()),
        _ => return Err(format!("the server refused the request: {told}")),
    }
    let output = String::from_utf8_lossy(output);
    let head = output.split("\r\n\r\n").next().unwrap_or_default();
    let status = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("status").then(|| value.trim().get(..3)?.parse::<u16>().ok()).flatten()
    });
    match status.unwrap_or(200) {
        200..=299 => Ok(()),
        404 => Err(format!("status 404: is ping.path = {path} set in the pool's configuration? {told}")),
        status => Err(format!("status {status}: {told}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(records: Vec<Vec<u8>>) -> Result<(), String> {
        let (ours, mut theirs) = tokio::io::duplex(64 * 1024);
        let server = tokio::spawn(async move {
            let mut begin = [0; 16];
            theirs.read_exact(&mut begin).await.unwrap();
            assert_eq!(begin, [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            for record in records {
                theirs.write_all(&record).await.unwrap();
            }
        });
        let verdict = get(ours, &"/ping".parse().unwrap()).await;
        server.await.unwrap();
        verdict
    }

    fn end(status: u8) -> Vec<u8> {
        record(END_REQUEST, &[0, 0, 0, 0, status, 0, 0, 0])
    }

    #[tokio::test]
    async fn a_pong_passes_however_it_is_cut_into_records() {
        let pong = b"Content-Type: text/plain\r\n\r\npong";
        answered(vec![record(STDOUT, pong), end(0)]).await.unwrap();
        let mut padded = record(STDOUT, &pong[..10]);
        padded[6] = 3;
        padded.extend([0; 3]);
        answered(vec![padded, record(STDOUT, &pong[10..]), record(STDOUT, b""), end(0)]).await.unwrap();
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_named() {
        let missing = record(STDOUT, b"Status: 404 Not Found\r\n\r\nFile not found.\n");
        for (records, reason) in [
            (vec![missing, end(0)], "ping.path = /ping"),
            (
                vec![
                    record(STDERR, b"Primary script unknown"),
                    record(STDOUT, b"Status: 500\r\n\r\n"),
                    end(0),
                ],
                "Primary",
            ),
            (vec![end(2)], "overloaded"),
            (vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()], "does not speak FastCGI"),
            (vec![], "does not speak FastCGI"),
            (vec![record(STDOUT, &[b'x'; 40_000]), record(STDOUT, &[b'x'; 40_000])], "longer than any"),
        ] {
            let refused = answered(records).await.unwrap_err();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    #[test]
    fn a_long_path_has_a_long_length() {
        let path = format!("/{}", "x".repeat(300));
        let encoded = request(&path);
        let at = encoded.windows(11).position(|window| window == b"SCRIPT_NAME").unwrap();
        assert_eq!(encoded[at - 4..at], (301u32 | 1 << 31).to_be_bytes());
    }
}
