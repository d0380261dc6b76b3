//! A server whose answers a test writes: real sockets, no protocol beyond what a client of ours needs.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// A request as it came in.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    /// The lines of the head, lower case up to the colon.
    pub headers: Vec<(String, String)>,
    pub body: Value,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(there, _)| there == name)?;
        Some(&found.1)
    }
}

/// What the server does with a request.
pub enum Reply {
    Json(u16, Value),
    /// Status, further lines of the head, and a body.
    Raw(u16, String, String),
    /// A body that is announced as longer than it is.
    CutOff(String),
    /// The connection closes without a word.
    Hangup,
}

/// A running server; its threads end with the process.
pub struct Server {
    address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl Server {
    /// `answer` gets each request with its number, perhaps several at once.
    pub fn start(answer: impl Fn(usize, &Received) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let received = Arc::new(Mutex::new(Vec::new()));
        let (answer, all) = (Arc::new(answer), received.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, all) = (answer.clone(), all.clone());
                std::thread::spawn(move || {
                    // A client that gives up is part of some tests.
                    let _ = serve(&stream, &all, &*answer);
                });
            }
        });
        Self { address, received }
    }

    /// The URL without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn received(&self) -> Vec<Received> {
        self.received
            .lock()
            .expect("no test panics while it holds this")
            .clone()
    }
}

fn serve(
    mut stream: &TcpStream,
    all: &Mutex<Vec<Received>>,
    answer: &dyn Fn(usize, &Received) -> Reply,
) -> std::io::Result<()> {
    let request = read(stream)?;
    let number = {
        let mut all = all.lock().expect("no test panics while it holds this");
        all.push(request.clone());
        all.len() - 1
    };
    let (status, head, body, len) = match answer(number, &request) {
        Reply::Json(status, body) => (status, String::new(), body.to_string(), None),
        Reply::Raw(status, head, body) => (status, head, body, None),
        Reply::CutOff(body) => {
            let len = body.len() + 1000;
            (200, String::new(), body, Some(len))
        }
        Reply::Hangup => return Ok(()),
    };
    let length = match head.to_lowercase().contains("content-length") {
        true => String::new(),
        false => format!("Content-Length: {}\r\n", len.unwrap_or(body.len())),
    };
    write!(
        stream,
        "HTTP/1.1 {status} Said\r\n{head}{length}Connection: close\r\n\r\n{body}"
    )?;
    stream.flush()
}

fn read(stream: &TcpStream) -> std::io::Result<Received> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Received {
        path,
        headers,
        body: Value::Null,
    };
    let len = request
        .header("content-length")
        .and_then(|len| len.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    request.body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(request)
}
