//! Workers, as a user meets them: the program on both sides, over loopback.
//!
//! A lost connection ends the client's process, so the clients here are processes: the program, or this test's
//! own binary told to be one. What cuts and counts stands between them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gust::ggml::{Backend, DType, Device, Graph, Scheduler, StoreBuilder, on_abort};
use gust::remote::{self, Key};
use rustix::process::Signal;

const KEY: &str = "a key for these tests";
/// Within this time every failure must be told.
const LIMIT: Duration = Duration::from_secs(10);

/// `gust worker` on a port of its own.
struct Worker {
    process: Child,
    stderr: BufReader<ChildStderr>,
    address: SocketAddr,
}

impl Worker {
    fn start(cache: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_gust"))
            .args(["worker", "--listen=127.0.0.1:0", "--threads=1", "--device=CPU", "--cache"])
            .arg(cache)
            .env("GUST_WORKER_KEY", KEY)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(process.stderr.take().unwrap());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut worker = Worker { process, stderr, address: any };
        let line = worker.line("listening on ");
        worker.address = line.trim_end().rsplit(' ').next().unwrap().parse().unwrap();
        worker
    }

    /// The next line that holds `words`.
    fn line(&mut self, words: &str) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "no {words:?} in {seen}");
            if line.contains(words) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    /// Ends it as a user does; how it ended.
    fn stop(mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        self.process.wait().unwrap().code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Passes one connection on, counts what the client sends, and can be cut.
struct Proxy {
    address: SocketAddr,
    n_bytes: Arc<AtomicU64>,
    is_cut: Arc<AtomicBool>,
}

impl Proxy {
    fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (n_bytes, is_cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, cut) = (n_bytes.clone(), is_cut.clone());
        thread::spawn(move || {
            let near = listener.accept().unwrap().0;
            let far = TcpStream::connect(to).unwrap();
            let (back, forth) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let other = cut.clone();
            thread::spawn(move || pass(far, back, &other, &AtomicU64::new(0)));
            pass(near, forth, &cut, &counted);
        });
        Proxy { address, n_bytes, is_cut }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_cut: &AtomicBool, n_bytes: &AtomicU64) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        while is_cut.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        n_bytes.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn gust(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gust"));
    command.args(args).env("GUST_WORKER_KEY", KEY).stdin(Stdio::null());
    command
}

/// This binary as a client, which computes `n_runs` times.
fn client(address: SocketAddr, n_runs: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "remote::what_the_clients_of_other_tests_do", "--nocapture"])
        .env(CLIENT, format!("{address} {n_runs}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

const CLIENT: &str = "GUST_TEST_CLIENT_OF_WORKER";

#[test]
fn what_the_clients_of_other_tests_do() {
    let Ok(words) = std::env::var(CLIENT) else { return };
    let (address, n_runs) = words.split_once(' ').unwrap();
    on_abort(|message| {
        let line = remote::lost().unwrap_or_else(|| message.to_owned());
        std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
        signal_hook::low_level::exit(1);
    });
    let key = Key::from_bytes(KEY.as_bytes(), "a test".to_owned()).unwrap();
    let devices = remote::connect(&[address.to_owned()], &key).unwrap();
    assert_eq!(gust::ggml::devices().last(), devices.last());
    let device = devices[0];
    assert!(device.description().starts_with(&format!("{address} CPU (")));

    // 24 matrices of 4 MiB, multiplied one after the other.
    let (n, n_matrices) = (1024, 24);
    let mut builder = StoreBuilder::new(n_matrices);
    let matrices: Vec<_> =
        (0..n_matrices).map(|i| builder.declare(&format!("m{i}"), DType::F32, &[n, n])).collect();
    builder.allocate(device.buffer_type(), device, "a test", &matrices).unwrap();
    for (i, matrix) in matrices.iter().enumerate() {
        let value = |k: i64| ((k * 31 + i as i64 * 7) % 61 - 30) as f32 / 1000.0;
        let bytes: Vec<u8> = (0..n * n).flat_map(|k| value(k).to_ne_bytes()).collect();
        builder.fill(*matrix, 0, &bytes);
    }
    let store = builder.finish();
    let backends =
        vec![Backend::new(device, 1).unwrap(), Backend::new(Device::cpu().unwrap(), 1).unwrap()];
    let mut scheduler = Scheduler::new(backends, 256);
    let (mut graph, (input, output)) = Graph::build(128, |g| {
        let (input, mut x) = g.input::<f32>("x", &[n, 64]);
        for matrix in &matrices {
            x = g.mul_mat(g.stored(&store, *matrix), x);
        }
        (input, g.output(x))
    });
    let values: Vec<f32> = (0..n * 64).map(|i| (i as f32).sin()).collect();
    let mut out = Vec::new();
    for run in 0..n_runs.parse::<u64>().unwrap() {
        out.clear();
        let mut ready = scheduler.ready(&mut graph).unwrap();
        ready.set(input, &values);
        ready.compute().unwrap().read(output, &mut out);
        if run == 0 {
            let line = format!("first {:?}\n", &out[..4]);
            std::io::stdout().write_all(line.as_bytes()).unwrap();
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn first_result(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let line = stdout.lines().find(|line| line.contains("first [")).expect("a result");
    line[line.find("first").unwrap()..].to_owned()
}

#[test]
fn the_second_start_sends_next_to_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let mut results = Vec::new();
    let mut sent = Vec::new();
    for _ in 0..2 {
        let mut worker = Worker::start(cache.path());
        let proxy = Proxy::start(worker.address);
        results.push(first_result(&client(proxy.address, 1).output().unwrap()));
        let line = worker.line("left;");
        assert!(line.contains("100.7 MB"), "{line}");
        sent.push(proxy.n_bytes.load(Ordering::SeqCst));
        assert_eq!(worker.stop(), Some(0));
    }
    assert_eq!(results[0], results[1]);
    assert!(sent[0] > 24 << 22 && sent[1] < sent[0] / 100, "{sent:?}");
}

/// Starts a client that computes for long, does `harm` meanwhile, and checks what it says.
fn harmed(harm: impl FnOnce(&mut Worker, &Proxy), cause: &str) -> Worker {
    let cache = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(cache.path());
    let proxy = Proxy::start(worker.address);
    let mut client = client(proxy.address, u64::MAX).spawn().unwrap();
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("first [") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "the client ended early");
    }
    harm(&mut worker, &proxy);
    let start = Instant::now();
    let output = client.wait_with_output().unwrap();
    let said = text(&output.stderr);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.trim_end(), format!("worker {}: connection lost: {cause}", proxy.address));
    worker
}

#[test]
fn a_killed_worker_ends_the_client_with_a_line() {
    harmed(|worker, _| worker.process.kill().unwrap(), "the other side closed the connection");
}

#[test]
fn a_stopped_worker_ends_well_and_its_client_with_a_line() {
    let pid = |worker: &Worker| rustix::process::Pid::from_child(&worker.process);
    let stop = |worker: &mut Worker, _: &Proxy| {
        rustix::process::kill_process(pid(worker), Signal::TERM).unwrap();
    };
    let mut worker = harmed(stop, "the worker was stopped");
    assert_eq!(worker.process.wait().unwrap().code(), Some(0));
}

#[test]
fn a_cut_link_ends_the_client_with_a_line_and_frees_the_worker() {
    let cut = |_: &mut Worker, proxy: &Proxy| proxy.is_cut.store(true, Ordering::SeqCst);
    let mut worker = harmed(cut, "nothing was heard for 6 s");
    worker.line("dropped: nothing was heard for 6 s");
}

/// Sends a signal to the process that computes for a worker's client.
fn signal_server(worker: &Worker, signal: Signal) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if fields.split_whitespace().nth(1) == Some(&worker.process.id().to_string()) {
            let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, signal).unwrap();
        }
    }
}

#[test]
fn a_killed_server_is_told_to_the_client() {
    let kill = |worker: &mut Worker, _: &Proxy| signal_server(worker, Signal::KILL);
    let mut worker = harmed(kill, "the computing process died of signal 9");
    worker.line("dropped: the computing process died of signal 9");
    // The worker itself goes on.
    first_result(&client(worker.address, 1).output().unwrap());
}

#[cfg(target_os = "linux")]
#[test]
fn a_suspended_server_is_told_to_the_client() {
    let suspend = |worker: &mut Worker, _: &Proxy| signal_server(worker, Signal::STOP);
    let cause = "the computing process was suspended, by SIGSTOP or a debugger";
    let mut worker = harmed(suspend, cause);
    worker.line(&format!("dropped: {cause}"));
    first_result(&client(worker.address, 1).output().unwrap());
}

/// What ggml's server ends with when it is told nonsense, as by no client of ours.
fn told_nonsense(command: u8, payload: &[u8]) -> Output {
    let (mut near, far) = std::os::unix::net::UnixStream::pair().unwrap();
    let mut server = gust(&["worker", "--serve-one", "--device=CPU", "--threads=1"]);
    server.stdin(std::os::fd::OwnedFd::from(far)).stderr(Stdio::piped());
    let server = server.spawn().unwrap();
    let request = |command: u8, payload: &[u8]| {
        [&[command][..], &(payload.len() as u64).to_ne_bytes(), payload].concat()
    };
    near.write_all(&request(14, &[0; 24])).unwrap();
    near.read_exact(&mut [0; 8 + 28]).unwrap();
    near.write_all(&request(command, payload)).unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    server.wait_with_output().unwrap()
}

#[test]
fn a_server_says_why_it_refuses_and_why_it_dies() {
    // To free a buffer that there is not.
    let refused = told_nonsense(4, &77u64.to_ne_bytes());
    assert_eq!(refused.status.code(), Some(0));
    assert_eq!(text(&refused.stderr), "[free_buffer] buffer not found\n");
    // A graph of one tensor: its id and shape are 1, it is to be computed by an operation that there is not.
    let mut tensor = [0; 296];
    for (at, byte) in [(0, 1), (20, 1), (24, 1), (28, 1), (32, 1), (52, 200), (120, 16)] {
        tensor[at] = byte;
    }
    let one = 1u32.to_ne_bytes();
    let died = told_nonsense(10, &[&[0; 12], &one[..], &one, &[0; 4], &one, &tensor].concat());
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&died.status), Some(6));
    let said = text(&died.stderr);
    assert!(said.lines().count() == 2 && said.contains("op not implemented: 200"), "{said}");
    assert!(said.trim_end().ends_with(": fatal error"), "{said}");
}

#[test]
fn a_worker_computes_for_the_program() {
    let cache = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(cache.path());
    let address = worker.address.to_string();
    let run = ["run", "-p", "The wind", "--temp=0", "-n=12", "--ctx=512", "--threads=1"];
    let here = gust(&run).output().unwrap();
    let there = gust(&[&run[..], &["--worker", &address]].concat()).output().unwrap();
    let said = text(&there.stderr);
    assert!(there.status.success(), "{said}");
    assert!(said.contains(&format!("{address} CPU (")), "{said}");
    assert_eq!(text(&there.stdout), text(&here.stdout), "{said}");
    worker.line("connected");
    worker.line("left;");
    assert_eq!(worker.stop(), Some(0));
}

#[test]
fn what_cannot_be_used_is_named_before_anything_is_loaded() {
    let cache = tempfile::tempdir().unwrap();
    let mut worker = Worker::start(cache.path());
    let address = worker.address.to_string();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = |address: &str, key: Option<&str>| {
        let start = Instant::now();
        let mut command = gust(&["run", "-p", "x", "--worker", address]);
        match key {
            Some(key) => command.env("GUST_WORKER_KEY", key),
            None => command.env_remove("GUST_WORKER_KEY"),
        };
        let output = command.output().unwrap();
        assert!(start.elapsed() < LIMIT);
        (output.status.code(), text(&output.stderr))
    };
    let (code, stderr) = said(&address, Some("another key for these tests"));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("error: worker {address}: wrong key")), "{stderr}");
    worker.line("refused: wrong key");
    let (code, stderr) = said(&closed, Some(KEY));
    assert_eq!(code, Some(1));
    assert!(stderr.contains(&format!("error: worker {closed}: cannot connect")), "{stderr}");
    for wrong in ["there:99999", "http://there", ":7", ""] {
        let (code, stderr) = said(wrong, Some(KEY));
        assert_eq!((code, stderr.contains("expected HOST or HOST:PORT")), (Some(2), true));
    }
    let (code, stderr) = said(&address, None);
    assert_eq!((code, stderr.contains("no worker key: give --worker-key")), (Some(2), true));
    let (code, stderr) = said(&address, Some("short"));
    assert_eq!((code, stderr.contains("has 5 characters")), (Some(2), true));

    // ggml's own client is refused, and told nothing.
    let mut plain = TcpStream::connect(worker.address).unwrap();
    plain.write_all(&[&[14][..], &24u64.to_ne_bytes(), &[0; 24]].concat()).unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(answer.is_empty());
    worker.line("refused: it speaks plain ggml RPC, not gust");
}

#[test]
fn a_worker_that_cannot_listen_there_says_so() {
    let output = gust(&["worker", "--no-cache", "--listen", "there:7"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("expected an IP address and a port"));
}

#[test]
fn a_worker_without_a_key_does_not_start() {
    let mut command = gust(&["worker", "--no-cache"]);
    let output = command.env_remove("GUST_WORKER_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("gust worker --new-key"));
    let key = gust(&["worker", "--new-key"]).output().unwrap();
    assert_eq!((key.status.code(), key.stdout.len()), (Some(0), 65));
}
