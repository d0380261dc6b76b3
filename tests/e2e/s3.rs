//! A real S3 server on loopback for the tests, if there is one (`scripts/setup-s3.sh`), and calls to remotes as processes
//! of their own: credentials come from the environment, and a process can be killed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use volvelle::digest::{ContentKey, Digest};
use volvelle::remote::{Content, Meter, RemoteClaim, RemoteError, RemoteGc, objects};
use volvelle::settings::RemoteSettings;
use volvelle::store::{Artifact, Owner, Store};

/// The secret of the key that may write. It must never be found in anything that is written or printed.
pub const WRITER_SECRET: &str = "canary0writer0secret";
const READER_SECRET: &str = "canary0reader0secret";

/// A running server; one for all tests, which have a bucket each.
#[derive(Debug)]
pub struct S3 {
    address: SocketAddr,
    filer: SocketAddr,
    // The server ends when this pipe does, and that is when this process ends, however it does.
    _guard: Child,
    _folder: tempfile::TempDir,
}

impl S3 {
    /// Returns the server of all tests; none where there is none to be had, which is told.
    pub fn get() -> Option<&'static S3> {
        static SERVER: OnceLock<Option<S3>> = OnceLock::new();
        let server = SERVER.get_or_init(|| Some(S3::start(&binary()?)));
        if server.is_none() {
            eprintln!("skipped: there is no S3 server; scripts/setup-s3.sh gets one");
        }
        server.as_ref()
    }

    fn start(binary: &Path) -> S3 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let identity = |name: &str, secret: &str, actions: &str| {
            format!(
                r#"{{"name":"{name}","credentials":[{{"accessKey":"{name}","secretKey":"{secret}"}}],"actions":{actions}}}"#
            )
        };
        let identities = [
            identity("WRITER", WRITER_SECRET, r#"["Admin","Read","Write","List","Tagging"]"#),
            identity("READER", READER_SECRET, r#"["Read","List"]"#),
        ];
        let config = folder.path().join("identities.json");
        std::fs::write(&config, format!(r#"{{"identities":[{}]}}"#, identities.join(","))).expect("a file");
        std::fs::create_dir(folder.path().join("data")).expect("a folder");
        let base = free_ports();
        // The pipe is what ends it: a server must not outlive the tests, whatever becomes of them.
        let script = r#""$0" "$@" </dev/null >log 2>&1 & read -r _; kill -9 $!"#;
        let port = |name: &str, offset: u16| format!("-{name}={}", base + offset);
        let guard = Command::new("sh")
            .args(["-c", script])
            .arg(binary)
            .args([
                "server",
                "-dir=data",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                "-filer",
                "-s3",
            ])
            .args([
                port("master.port", 0),
                port("volume.port", 1),
                port("filer.port", 2),
                port("s3.port", 3),
            ])
            .arg(format!("-s3.config={}", config.display()))
            .args([
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
                "-metricsPort=0",
            ])
            .args(["-master.volumeSizeLimitMB=256", "-volume.max=40"])
            .current_dir(folder.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("a shell");
        let at = |offset: u16| SocketAddr::from(([127, 0, 0, 1], base + offset));
        let server = S3 {
            address: at(3),
            filer: at(2),
            _guard: guard,
            _folder: folder,
        };
        wait_for("the S3 server", || {
            http(server.address, "GET", "/healthz").is_some_and(|status| status == 200)
        });
        server
    }

    /// Returns where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes a bucket that nobody else uses, and returns its name.
    pub fn bucket(&self) -> String {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("bucket{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let path = format!("/buckets/{name}/");
        wait_for("a bucket", || {
            http(self.filer, "POST", &path).is_some_and(|status| status < 300)
        });
        // The first write waits until the server's parts have found each other.
        wait_for("a writable bucket", || {
            http(self.filer, "PUT", &format!("{path}.first")).is_some_and(|status| status < 300)
        });
        name
    }
}

fn binary() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let found = std::fs::read_dir(cache.join("volvelle-tests")).ok()?.flatten();
    let is_server = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("weed-"))
    };
    found.map(|entry| entry.path()).find(is_server)
}

/// Returns the first of four free ports, whose twins 10000 above are free too.
fn free_ports() -> u16 {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    // Spread, so that two runs of the tests at once seldom try the same.
    let first = 13_000 + (std::process::id() % 500) as u16 * 10;
    let bases = (first..18_990).chain(13_000..first).step_by(10);
    let mut free = bases.filter(|base| (0..4).all(|offset| is_free(base + offset) && is_free(base + offset + 10_000)));
    free.next().expect("some ports are free")
}

fn wait_for(what: &str, mut is_done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_done() {
        assert!(started.elapsed() < Duration::from_secs(90), "{what} did not come");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends a request without content and returns the status of the answer.
fn http(address: SocketAddr, method: &str, path: &str) -> Option<u16> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

/// A call to a remote by a process of its own.
#[derive(Clone, Debug)]
pub struct Call {
    url: String,
    endpoint: String,
    cache: PathBuf,
    key: (String, String),
    timeout: Duration,
    parallel: u32,
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    /// What moved over the wire as content, or what else was asked for; or what the error says.
    pub result: Result<String, String>,
    /// All that the process printed.
    pub printed: String,
    /// The most memory that it had, in bytes.
    pub peak_bytes: u64,
}

impl Outcome {
    /// Returns the bytes that went over the wire.
    pub fn wire_bytes(&self) -> u64 {
        let text = self.result.as_ref().expect("the call went well");
        text.parse().expect("a number of bytes")
    }
}

impl Call {
    /// Returns calls to a bucket by the key that may write.
    pub fn to(address: SocketAddr, bucket: &str, cache: &Path) -> Call {
        Call {
            url: format!("s3://{bucket}/team"),
            endpoint: format!("http://{address}"),
            cache: cache.to_path_buf(),
            key: ("WRITER".to_owned(), WRITER_SECRET.to_owned()),
            timeout: Duration::from_secs(10),
            parallel: 16,
        }
    }

    /// The same with another key.
    pub fn with_key(mut self, id: &str, secret: &str) -> Call {
        self.key = (id.to_owned(), secret.to_owned());
        self
    }

    /// The same with the key that may only read.
    pub fn reading(self) -> Call {
        self.with_key("READER", READER_SECRET)
    }

    /// The same with another limit on the time of a request.
    pub fn with_timeout(mut self, timeout: Duration) -> Call {
        self.timeout = timeout;
        self
    }

    /// The same with so many transfers at once.
    pub fn with_parallel(mut self, parallel: u32) -> Call {
        self.parallel = parallel;
        self
    }

    /// Starts a process that does it.
    pub fn start(&self, what: &str, content: &str) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("this is a program"));
        command
            .args(["--exact", "s3::a_call", "--ignored", "--nocapture"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", &self.cache)
            .env("CALL", format!("{what} {content}"))
            .env("CALL_CACHE", &self.cache)
            .env("CALL_URL", &self.url)
            .env("CALL_ENDPOINT", &self.endpoint)
            .env("CALL_TIMEOUT_MS", self.timeout.as_millis().to_string())
            .env("CALL_PARALLEL", self.parallel.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !self.key.0.is_empty() {
            command.env("AWS_ACCESS_KEY_ID", &self.key.0);
            command.env("AWS_SECRET_ACCESS_KEY", &self.key.1);
        }
        command.spawn().expect("this program starts")
    }

    /// Does it and waits.
    pub fn run(&self, what: &str, content: &str) -> Outcome {
        let output = self.start(what, content).wait_with_output().expect("it ends");
        let printed = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let line = |start: &str| {
            printed
                .lines()
                .find_map(|line| line.strip_prefix(start))
                .map(str::to_owned)
        };
        let result = match (line("OK "), line("ERROR ")) {
            (Some(done), _) => Ok(done),
            (_, Some(error)) => Err(error),
            _ => panic!("no result: {printed}"),
        };
        let peak = line("PEAK ").and_then(|peak| peak.parse::<u64>().ok());
        Outcome {
            result,
            peak_bytes: peak.unwrap_or_default() * 1024,
            printed,
        }
    }

    /// Pushes an artifact.
    pub fn push(&self, artifact: &Artifact) -> Outcome {
        self.run("push", &name(artifact))
    }

    /// Fetches an artifact.
    pub fn fetch(&self, artifact: &Artifact) -> Outcome {
        self.run("fetch", &name(artifact))
    }
}

/// Returns how a call names an artifact.
pub fn name(artifact: &Artifact) -> String {
    match artifact.manifest {
        Some(manifest) => format!("{} {manifest}", artifact.digest),
        None => artifact.digest.to_string(),
    }
}

/// The other side of [`Call`]; no test.
#[test]
#[ignore = "a process that other tests start"]
fn a_call() {
    let variable = |name: &str| std::env::var(name).expect("whoever starts it sets it");
    // Everything that anybody would tell, so that a test sees that no secret is in it.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(std::io::stderr)
        .init();
    let call = variable("CALL");
    let words: Vec<&str> = call.split_whitespace().collect();
    let cache = PathBuf::from(variable("CALL_CACHE"));
    let mut settings = RemoteSettings::at(&variable("CALL_URL"));
    settings.endpoint = Some(variable("CALL_ENDPOINT"));
    let timeout = variable("CALL_TIMEOUT_MS").parse().expect("a number");
    settings.timeout = Some(Duration::from_millis(timeout));
    settings.parallel = Some(variable("CALL_PARALLEL").parse().expect("a number"));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let answer = runtime.block_on(answer(&words, &cache, &settings));
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    println!("\nPEAK {}", peak.unwrap_or_default().trim().trim_end_matches(" kB"));
    match answer {
        Ok(done) => println!("\nOK {done}"),
        Err(error) => println!("\nERROR {error:?} {error}"),
    }
}

async fn answer(words: &[&str], cache: &Path, settings: &RemoteSettings) -> Result<String, RemoteError> {
    let remote = objects::open(settings, cache)?;
    println!("{remote:?} {}", remote.address());
    let store = Arc::new(Store::open(cache)?);
    let digest = |word: &str| word.parse::<Digest>().expect("a digest");
    let content = || Content {
        digest: digest(words[1]),
        manifest: words.get(2).map(|word| digest(word)),
    };
    let meter = Meter::default();
    Ok(match words[0] {
        "push" => remote.push(&store, content(), &meter).await?.wire_bytes.to_string(),
        "fetch" => remote
            .fetch(&store, content(), None, &meter)
            .await?
            .wire_bytes
            .to_string(),
        "status" => format!("{:?}", remote.status().await?),
        "claim" => match remote.claim(ContentKey(digest(words[1])), &Owner::current()).await? {
            RemoteClaim::Held(_) => "held".to_owned(),
            RemoteClaim::Taken { owner, .. } => format!("taken by {}", owner.is_some()),
        },
        "collect" => {
            let all = RemoteGc {
                grace: Some(Duration::ZERO),
                ..RemoteGc::default()
            };
            format!("{:?}", remote.collect(all).await?)
        }
        other => panic!("no such call: {other}"),
    })
}
