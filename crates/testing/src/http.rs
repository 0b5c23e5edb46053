//! As much of HTTP/1.1 as servers of tests need (RFC 9112).

use std::io::{self, BufRead, Read, Write};

/// A head longer than that is refused.
const LONGEST_HEAD: u64 = 64 << 10;

/// The request line and the header fields of a request.
#[derive(Debug)]
pub struct Head {
    /// `GET`, `HEAD` and so on.
    pub method: String,
    /// The path with the query, as sent.
    pub target: String,
    /// True if another request may follow on the connection.
    pub keep_alive: bool,
    fields: Vec<(String, String)>,
}

impl Head {
    /// Reads a head; none where the connection ends before one.
    pub fn read(input: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut input = input.take(LONGEST_HEAD);
        let Some(first) = line(&mut input)? else { return Ok(None) };
        let mut words = first.split(' ');
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(malformed("request line"));
        };
        let mut head =
            Self { method: method.to_owned(), target: target.to_owned(), keep_alive: false, fields: Vec::new() };
        loop {
            let field = line(&mut input)?.ok_or(io::ErrorKind::UnexpectedEof)?;
            if field.is_empty() {
                break;
            }
            let (name, value) = field.split_once(':').ok_or_else(|| malformed("header field"))?;
            head.fields.push((name.to_owned(), value.trim().to_owned()));
        }
        let close = head.field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        head.keep_alive = version == "HTTP/1.1" && !close;
        Ok(Some(head))
    }

    /// The value of a header field, by its name in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The path without the query, decoded.
    pub fn path(&self) -> String {
        percent_decoded(self.target.split('?').next().unwrap_or_default())
    }

    /// The parameters of the query, decoded.
    pub fn query(&self) -> Vec<(String, String)> {
        form(self.target.split_once('?').map_or("", |(_, query)| query))
    }

    /// The first parameter of the query with this name, decoded.
    pub fn parameter(&self, name: &str) -> Option<String> {
        self.query().into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    /// Returns true if the client waits for leave to send the body.
    pub fn expects_continue(&self) -> bool {
        self.field("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }
}

/// The body of a request, out of its framing.
#[derive(Debug)]
pub struct Incoming<'a, R> {
    input: &'a mut R,
    /// Bytes left of the body, or of the present chunk.
    left: u64,
    chunks: Chunks,
}

#[derive(Debug, PartialEq, Eq)]
enum Chunks {
    /// The length was announced, or the last chunk was read.
    Over,
    BeforeFirst,
    Within,
}

impl<'a, R: BufRead> Incoming<'a, R> {
    /// The body that follows a head.
    pub fn after(head: &Head, input: &'a mut R) -> io::Result<Self> {
        if head.field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            return Ok(Self { input, left: 0, chunks: Chunks::BeforeFirst });
        }
        let length = head.field("content-length").unwrap_or("0");
        let left = length.parse().map_err(|_| malformed("Content-Length"))?;
        Ok(Self { input, left, chunks: Chunks::Over })
    }

    fn next_chunk(&mut self) -> io::Result<()> {
        let mut next = || line(&mut self.input)?.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof));
        if self.chunks == Chunks::Within {
            next()?;
        }
        let size = next()?;
        let size = size.split(';').next().unwrap_or_default().trim();
        self.left = u64::from_str_radix(size, 16).map_err(|_| malformed("chunk size"))?;
        self.chunks = Chunks::Within;
        if self.left == 0 {
            while !next()?.is_empty() {}
            self.chunks = Chunks::Over;
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Incoming<'_, R> {
    /// Reads some of the body; an end before the announced one is `UnexpectedEof`.
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.chunks != Chunks::Over {
            self.next_chunk()?;
        }
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let count = self.input.read(&mut out[..most])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}

/// An answer to a request.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields, except the length of the body.
    pub fields: Vec<(&'static str, String)>,
    /// Sent unless the request was `HEAD`; its length is sent in any case.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self { status, fields: Vec::new(), body: Vec::new() }
    }

    /// Adds a header field.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.fields.push((name, value.to_string()));
        self
    }

    /// Sets a body that is JSON.
    pub fn json(self, document: &serde_json::Value) -> Self {
        self.body("application/json", document.to_string().into_bytes())
    }

    /// Sets the body.
    pub fn body(self, media_type: &str, body: Vec<u8>) -> Self {
        Self { body, ..self.with("Content-Type", media_type) }
    }

    /// Replaces the value of a header field, if it is there.
    pub fn replace(&mut self, name: &str, value: impl ToString) {
        for (_, old) in self.fields.iter_mut().filter(|(field, _)| *field == name) {
            *old = value.to_string();
        }
    }

    /// Puts another scheme, host and port into the `Location`, if there is one.
    pub fn relocate(&mut self, address: &str) {
        for (_, old) in self.fields.iter_mut().filter(|(field, _)| *field == "Location") {
            let path = old.split_once("://").map_or(old.as_str(), |(_, rest)| rest);
            let path = path.find('/').map_or("", |at| &path[at..]);
            *old = format!("{address}{path}");
        }
    }

    /// Writes the status line and the header fields, for a body in chunked transfer encoding or of the length it has.
    pub fn write_head(&self, out: &mut impl Write, chunked: bool) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.fields {
            head += &format!("{name}: {value}\r\n");
        }
        if chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if self.may_have_body() {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        out.write_all(format!("{head}\r\n").as_bytes())
    }

    /// Returns true if HTTP lets an answer of this status have a body (RFC 9110, section 6.4.1).
    pub fn may_have_body(&self) -> bool {
        self.status >= 200 && self.status != 204 && self.status != 304
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unnamed",
    }
}

/// Reads a line without its end; none where the input ends before one.
fn line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| malformed("line"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("malformed {what}"))
}

/// The pairs of `application/x-www-form-urlencoded`, decoded.
pub fn form(text: &str) -> Vec<(String, String)> {
    let decoded = |part: &str| percent_decoded(&part.replace('+', " "));
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decoded(k), decoded(v))).collect()
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match code.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(decoded) if byte == b'%' => {
                out.push(decoded);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
