//! A server of the built-in model, and a client that can also send what no client should.
//!
//! The client is a socket: each request goes in a connection of its own unless a test keeps one, and an
//! answer is what came until the length, the last chunk or the end of the connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that anything may take, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running `gust serve`. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// What it has said so far.
    said: Arc<Mutex<String>>,
}

impl Server {
    /// Starts one with little context and one thread, and waits until it can answer.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let server = Self::loading(flags);
        let start = Instant::now();
        while server.get("/health").status != 200 {
            assert!(start.elapsed() < PATIENCE, "not ready: {}", server.said());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    /// Starts one and waits until its port is open.
    pub(crate) fn loading(flags: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gust"))
            .args(["serve", "--port", "0", "--ctx", "2048", "-t", "1"])
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut text = String::new();
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended: {text}");
            text.push_str(&line);
            if let Some(rest) = line.split_once("listening on http://").map(|(_, rest)| rest) {
                break rest.split('/').next().unwrap().parse().unwrap();
            }
        };
        let said = Arc::new(Mutex::new(text));
        listen(stderr, Arc::clone(&said));
        Self { child, address, said }
    }

    /// What it has said on stderr.
    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// Its process's number.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Connection { reader: BufReader::new(stream) }
    }

    /// Sends bytes as they are and reads one answer.
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        let mut connection = self.connect();
        connection.send(bytes);
        connection.answer()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    /// Sends a request with these headers beside the usual.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut connection = self.connect();
        connection.send(self.request(method, path, headers, body).as_bytes());
        connection.answer_to(method)
    }

    /// The bytes of a request.
    pub(crate) fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> String {
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            text.push_str(&format!("host: {}\r\n", self.address));
        }
        for (name, value) in headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || method == "POST" {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        text
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(mut stderr: BufReader<ChildStderr>, said: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut line = String::new();
        while stderr.read_line(&mut line).is_ok_and(|n| n > 0) {
            said.lock().unwrap().push_str(&line);
            line.clear();
        }
    });
}

/// A socket with an answer or several to come.
#[derive(Debug)]
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
}

impl Connection {
    /// Sends bytes. Whoever is refused early may not get to send them all.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Says that nothing more will be sent.
    pub(crate) fn half_close(&self) {
        self.reader.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// A line without its end; `None` at the end of the connection.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(n) if n > 0 => Some(line.trim_end().to_owned()),
            _ => None,
        }
    }

    /// Whether the server has closed it.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.reader.fill_buf().is_ok_and(<[u8]>::is_empty)
    }

    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    /// Reads an answer, whose status is 0 if there is none.
    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        let mut answer = Answer::default();
        loop {
            let Some(line) = self.line() else { return answer };
            answer.status = line.split(' ').nth(1).unwrap_or("0").parse().unwrap_or(0);
            while let Some(line) = self.line().filter(|line| !line.is_empty()) {
                let (name, value) = line.split_once(':').unwrap();
                answer.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            if answer.status != 100 {
                break;
            }
            answer.headers.clear();
        }
        let length = answer.header("content-length").and_then(|n| n.parse::<usize>().ok());
        if method == "HEAD" || matches!(answer.status, 204 | 304) {
        } else if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk() {
                answer.body.extend(chunk);
            }
        } else if let Some(length) = length {
            answer.body = vec![0; length];
            self.reader.read_exact(&mut answer.body).unwrap();
        } else {
            let _ = self.reader.read_to_end(&mut answer.body);
        }
        answer
    }

    /// The next chunk of a body; `None` after the last, or if it breaks off.
    pub(crate) fn chunk(&mut self) -> Option<Vec<u8>> {
        let n = usize::from_str_radix(&self.line()?, 16).unwrap();
        let mut chunk = vec![0; n];
        self.reader.read_exact(&mut chunk).ok()?;
        self.line()?;
        (n > 0).then_some(chunk)
    }
}

/// What the server said to a request.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// A stream's events, each of which is checked to have its type as its name.
    #[track_caller]
    pub(crate) fn events(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{self:?}");
        assert!(self.header("content-type").unwrap().starts_with("text/event-stream"));
        let mut events = Vec::new();
        for event in self.text().split_terminator("\n\n").filter(|event| !event.starts_with(':')) {
            let (name, data) = event.split_once('\n').unwrap();
            let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
            assert_eq!(name.strip_prefix("event: "), data["type"].as_str());
            events.push(data);
        }
        events
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// The types of events in order; of deltas in a row only the first.
pub(crate) fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}
