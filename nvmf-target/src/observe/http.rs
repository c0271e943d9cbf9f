//! The little of HTTP/1.1 (RFC 9112) that is spoken: one GET of a known path, and its answer.

/// Bytes of a request at most, headers included.
pub(super) const REQUEST_MAX: usize = 8 << 10;

/// What is asked for.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Request {
    Metrics,
    Status,
    /// Something else, and what is said to that.
    Wrong(Answer),
}

/// A request as it comes in.
pub(super) struct Asked {
    bytes: Box<[u8; REQUEST_MAX]>,
    count: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            bytes: Box::new([0; REQUEST_MAX]),
            count: 0,
        }
    }
}

impl Asked {
    /// Where the next bytes go. There is some room until there is a request.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.count..]
    }

    /// So many bytes came.
    pub(super) fn add(&mut self, count: usize) {
        self.count += count;
    }

    /// The request, when it is there as a whole, or is none however it goes on.
    pub(super) fn request(&self) -> Option<Request> {
        let bytes = &self.bytes[..self.count];
        let ends = |end: &[u8]| bytes.windows(end.len()).any(|window| window == end);
        if ends(b"\r\n\r\n") || ends(b"\n\n") {
            return Some(parse(bytes));
        }
        let is_full = self.count == REQUEST_MAX;
        is_full.then(|| Request::Wrong(Answer::plain("431 Request Header Fields Too Large", "")))
    }
}

fn parse(bytes: &[u8]) -> Request {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let words = std::str::from_utf8(line).unwrap_or_default();
    let mut words = words.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Request::Wrong(Answer::plain("400 Bad Request", ""));
    };
    if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
        return Request::Wrong(Answer::plain("400 Bad Request", ""));
    }
    if method != "GET" {
        return Request::Wrong(Answer::plain("405 Method Not Allowed", "Allow: GET\r\n"));
    }
    match target.split('?').next() {
        Some("/metrics") => Request::Metrics,
        Some("/status") => Request::Status,
        _ => Request::Wrong(Answer::plain("404 Not Found", "")),
    }
}

/// What is answered.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Answer {
    status: &'static str,
    headers: &'static str,
    kind: &'static str,
    body: String,
}

const PLAIN: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(super) fn good(kind: &'static str, body: String) -> Self {
        Self {
            status: "200 OK",
            headers: "",
            kind,
            body,
        }
    }

    fn plain(status: &'static str, headers: &'static str) -> Self {
        Self {
            status,
            headers,
            kind: PLAIN,
            body: format!("{status}: GET /metrics or /status\n"),
        }
    }

    /// Not now.
    pub(super) fn busy(why: &str) -> Self {
        Self {
            status: "503 Service Unavailable",
            headers: "Retry-After: 1\r\n",
            kind: PLAIN,
            body: format!("{why}: try again\n"),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let Self {
            status,
            headers,
            kind,
            body,
        } = self;
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n{headers}\r\n{body}",
            body.len()
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(bytes: &[u8]) -> Option<Request> {
        let mut asked = Asked::default();
        asked.room()[..bytes.len()].copy_from_slice(bytes);
        asked.add(bytes.len());
        asked.request()
    }

    #[test]
    fn a_request_is_what_its_first_line_says() {
        let status = |bytes: &[u8]| match asked(bytes) {
            Some(Request::Wrong(answer)) => answer.status[..3].to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(
            status(b"GET /metrics HTTP/1.1\r\nHost: n\r\n\r\n"),
            "Some(Metrics)"
        );
        assert_eq!(
            status(b"GET /status?pretty HTTP/1.0\r\n\r\n"),
            "Some(Status)"
        );
        assert_eq!(status(b"GET /status HTTP/1.1\n\n"), "Some(Status)");
        assert_eq!(status(b"GET /metrics HTTP/1.1\r\nHost: n\r\n"), "None");
        assert_eq!(status(b""), "None");
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"GET /metrics/../status HTTP/1.1\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"get /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"GET  /metrics HTTP/1.1\r\n\r\n", "400"),
            (b"GET /metrics HTTP/2\r\n\r\n", "400"),
            (b"GET metrics HTTP/1.1\r\n\r\n", "400"),
            (b"\r\n\r\n", "400"),
            (b"\xff\xfe /metrics HTTP/1.1\r\n\r\n", "400"),
            (b"\x16\x03\x01\x02\0\x01\n\n", "400"),
        ] {
            assert_eq!(
                status(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
        assert_eq!(status(&[b'a'; REQUEST_MAX]), "431");
        assert_eq!(status(&[b'a'; REQUEST_MAX - 1]), "None");
    }

    #[test]
    fn an_answer_says_how_long_it_is() {
        let text = Answer::good("a/b", "körper".into()).bytes();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 7\r\n"));
        assert!(text.ends_with("\r\n\r\nkörper"), "{text}");
        let text = Answer::busy("later").bytes();
        assert!(text.starts_with(b"HTTP/1.1 503 "));
    }
}
