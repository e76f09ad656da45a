//! Both ends over loopback, with a server that echoes what it is told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::handshake::{Refusal, Version};
use super::link::Link;
use super::{Cache, Key, ServerCommand, Worker, open};
use crate::ggml::rpc::{Loading, Stream};

fn key(text: &str) -> Key {
    Key::from_bytes(text.as_bytes(), "a test".to_owned()).unwrap()
}

const KEY: &str = "a key for the tests";

/// A worker and what it logs.
struct Site {
    address: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Site {
    /// A worker whose server is a shell that runs `script`, with its stream as stdin and stdout.
    fn new(script: &str, cache: Option<Cache>) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = log.clone();
        let server = ServerCommand {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), format!("{script} >&0").into()],
        };
        let names = vec!["one".to_owned(), "two".to_owned()];
        let note = move |line: &str| lines.lock().unwrap().push(line.to_owned());
        let worker = Worker::new(key(KEY), names, server, cache, note);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || worker.listen(&listener));
        Site { address, log }
    }

    fn open(&self) -> Result<(Link, Vec<String>), Refusal> {
        open(&self.address.to_string(), &key(KEY), &Version::ours())
    }

    /// Waits for a line that holds all of `words`.
    #[track_caller]
    fn logged(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let lines = self.log.lock().unwrap().clone();
            if let Some(line) =
                lines.iter().find(|line| words.iter().all(|word| line.contains(word)))
            {
                return line.clone();
            }
            assert!(Instant::now() < deadline, "{words:?} not in {lines:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn request(command: u8, payload: &[u8]) -> Vec<u8> {
    [&[command][..], &(payload.len() as u64).to_ne_bytes(), payload].concat()
}

/// A request that sets a tensor to `n` bytes.
fn weights(seed: u8, n: usize) -> Vec<u8> {
    let data = (0..n).map(|i| (i as u32).wrapping_mul(2654435761).to_be_bytes()[0] ^ seed);
    request(6, &[vec![seed; 305], data.collect()].concat())
}

/// Sends requests and takes their echo.
#[track_caller]
fn echoed(link: &mut Link, requests: &[Vec<u8>]) {
    for request in requests {
        link.send(&request[..1]).unwrap();
        link.send(&request[1..9]).unwrap();
        link.send(&request[9..]).unwrap();
        link.flush().unwrap();
    }
    // Something that is not offered, so that all is settled.
    link.send(&request(15, &[])).unwrap();
    link.flush().unwrap();
    let sent = [requests.concat(), request(15, &[])].concat();
    let mut back = vec![0; sent.len()];
    link.receive(&mut back).unwrap();
    assert!(back == sent, "{} bytes came back altered", sent.len());
}

#[test]
fn bytes_come_through_and_the_client_is_named_when_it_leaves() {
    let site = Site::new("cat", None);
    let (mut link, names) = site.open().unwrap();
    assert_eq!(names, ["one", "two"]);
    echoed(&mut link, &[request(14, &[1; 24]), request(10, &vec![7; 3_000_000]), request(3, &[])]);
    // A second one is told with whom the worker is busy.
    let Err(Refusal::Busy(with)) = site.open() else { panic!("a second client is served") };
    site.logged(&["refused: busy with", &with]);
    drop(link);
    let line = site.logged(&[&with, "left"]);
    assert!(line.contains("3.0 MB received"), "{line}");
    // And then there is room again.
    echoed(&mut site.open().unwrap().0, &[request(9, &[5; 5000])]);
}

#[test]
fn weights_are_sent_once() {
    let folder = tempfile::tempdir().unwrap();
    let requests: Vec<_> = (0..40).map(|i| weights(i, 5000 + 123_457 * usize::from(i))).collect();
    let total: usize = requests.iter().map(Vec::len).sum();
    let mut lines = Vec::new();
    for _ in 0..2 {
        let site = Site::new("cat", Some(Cache::open(folder.path(), None).unwrap()));
        let (mut link, _) = site.open().unwrap();
        let loading = Loading::begin();
        echoed(&mut link, &requests);
        // The same within one start: the second of them may be asked for before the first is kept.
        echoed(&mut link, &[requests[7].clone(), request(9, &[1; 999]), requests[7].clone()]);
        drop((loading, link));
        lines.push(site.logged(&["left"]));
    }
    let received = |line: &str| -> f64 {
        let word = line.split(" MB received").next().unwrap().rsplit(' ').next().unwrap();
        word.parse::<f64>().unwrap() * 1e6
    };
    assert!(received(&lines[0]) > total as f64 * 0.99, "{lines:?}");
    assert!(received(&lines[1]) < total as f64 * 0.01, "{lines:?}");
    assert!(
        lines[1].contains("weights: 98.") && lines[1].ends_with(" 0.0 MB received"),
        "{lines:?}"
    );

    // A file that was altered is asked for again.
    let piece = walk(folder.path()).into_iter().max_by_key(|path| path.metadata().unwrap().len());
    std::fs::write(piece.unwrap(), b"altered").unwrap();
    let site = Site::new("cat", Some(Cache::open(folder.path(), None).unwrap()));
    let (mut link, _) = site.open().unwrap();
    let loading = Loading::begin();
    echoed(&mut link, &requests);
    drop((loading, link));
    let line = site.logged(&["left"]);
    assert!(line.ends_with(" 4.8 MB received"), "{line}");
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn strangers_are_told_apart_and_told_nothing() {
    let site = Site::new("cat", None);
    let said = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(site.address).unwrap();
        socket.write_all(bytes).unwrap();
        let _ = socket.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        answer
    };
    assert!(said(&request(14, &[0; 24])).is_empty());
    site.logged(&["refused", "plain ggml RPC"]);
    assert!(said(b"GET / HTTP/1.1\r\n\r\n").is_empty());
    site.logged(&["refused", "HTTP"]);
    assert!(said(&[0x16, 3, 1, 0, 5]).is_empty());
    site.logged(&["refused", "TLS"]);
    assert!(said(b"").is_empty());
    // One that knows the magic word learns the version, and nothing else.
    let answer = said(&[&b"gust-rpc"[..], &[0, 12, 0, 9, 6], b"9.99.9", b"7.7"].concat());
    assert_eq!(answer, Version::ours().to_bytes());
    site.logged(&["refused: version mismatch", "gust 7.7 with ggml 9.99.9, protocol 9"]);
    // A right hello and a wrong first message.
    let answer = said(&[&Version::ours().to_bytes()[..], &[0, 0, 48], &[9; 48]].concat());
    assert_eq!(answer, [&Version::ours().to_bytes()[..], &[1, 0, 1, 1]].concat());
    site.logged(&["refused: wrong key"]);
}

#[test]
fn a_wrong_key_and_a_wrong_version_are_errors_on_both_sides() {
    let site = Site::new("cat", None);
    let address = site.address.to_string();
    let start = Instant::now();
    let wrong = open(&address, &key("another key for tests"), &Version::ours());
    assert!(matches!(wrong, Err(Refusal::WrongKey)));
    site.logged(&["wrong key"]);
    let wrong = super::connect(std::slice::from_ref(&address), &key("another key for tests"));
    let text = wrong.unwrap_err().to_string();
    assert!(text.starts_with(&format!("worker {address}: wrong key")), "{text}");
    let twice = super::connect(&[address.clone(), address.clone()], &key("another key for tests"));
    assert!(twice.is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn whoever_waits_is_bounded_in_number_and_time() {
    let site = Site::new("cat", None);
    let held: Vec<_> = (0..16).map(|_| TcpStream::connect(site.address).unwrap()).collect();
    thread::sleep(Duration::from_millis(300));
    assert!(matches!(site.open(), Err(Refusal::TooMany | Refusal::Closed)));
    let start = Instant::now();
    site.logged(&["refused: no answer in time"]);
    assert!(start.elapsed() < Duration::from_secs(7));
    thread::sleep(Duration::from_millis(300));
    site.open().unwrap();
    drop(held);
}

#[test]
fn a_worker_that_never_gets_to_its_answer_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // As slow as may be in the handshake, and silent after it.
    let worker = thread::spawn(move || {
        let socket = listener.accept().unwrap().0;
        thread::sleep(Duration::from_secs(4));
        let deadline = Instant::now() + Duration::from_secs(5);
        let channel = super::handshake::respond(socket, &key(KEY), &Version::ours(), deadline);
        thread::sleep(Duration::from_secs(8));
        channel.map(drop)
    });
    let start = Instant::now();
    assert!(matches!(
        open(&address.to_string(), &key(KEY), &Version::ours()),
        Err(Refusal::Silent)
    ));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    worker.join().unwrap().unwrap();
}

#[test]
fn a_name_without_an_address_is_told_as_such() {
    let wrong = open("no-such-host.invalid:50052", &key(KEY), &Version::ours());
    assert!(matches!(wrong, Err(Refusal::Resolve(_))));
}

/// The error of the next answer, and how long it took.
fn failure(mut link: Link) -> (String, Duration) {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(link.receive(&mut [0; 8]).unwrap_err().to_string()));
    let start = Instant::now();
    (receiver.recv_timeout(Duration::from_secs(10)).unwrap(), start.elapsed())
}

#[test]
fn a_server_that_dies_is_an_error_that_says_how() {
    let site = Site::new("sleep 0.3; kill -SEGV $$", None);
    let (error, _) = failure(site.open().unwrap().0);
    assert_eq!(error, "the computing process died of signal 11");
    site.logged(&["dropped: the computing process died of signal 11"]);
    let site = Site::new("exit 0", None);
    let (error, _) = failure(site.open().unwrap().0);
    assert_eq!(error, "the computing process refused a request");
}

#[test]
fn the_last_words_of_a_server_reach_the_client_in_one_line() {
    let site = Site::new("echo chatter >&2; echo no such buffer >&2; exit 0", None);
    let (error, _) = failure(site.open().unwrap().0);
    assert_eq!(error, "the computing process refused a request: chatter; no such buffer");
    site.logged(&["dropped: the computing process refused a request: chatter; no such buffer; "]);

    // As CUDA dies: several lines. Control characters and what goes on for ever go no further.
    let script = "for i in 1 2 3 4; do echo $i >&2; done; printf '\\033[31mx.cu:7: CUDA error\\r\\n' >&2; kill -ABRT $$";
    let (error, _) = failure(Site::new(script, None).open().unwrap().0);
    assert_eq!(error, "the computing process died of signal 6: 2; 3; 4; [31mx.cu:7: CUDA error");
    let script = "head -c 1000000 /dev/zero | tr '\\0' 'x' >&2; exit 3";
    let (error, _) = failure(Site::new(script, None).open().unwrap().0);
    assert!(error.starts_with("the computing process ended with status 3: xxx"), "{error}");
    assert!(error.len() <= 600, "{} bytes", error.len());

    // Whatever the server leaves running holds nobody up.
    let (error, time) = failure(Site::new("sleep 30 & exit 5", None).open().unwrap().0);
    assert_eq!(error, "the computing process ended with status 5");
    assert!(time < Duration::from_secs(5), "{time:?}");
}

/// Passes bytes on until told to stop; then holds both connections without a word.
fn proxy(to: SocketAddr) -> (SocketAddr, Arc<std::sync::atomic::AtomicBool>) {
    use std::sync::atomic::{AtomicBool, Ordering};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let is_cut = Arc::new(AtomicBool::new(false));
    let cut = is_cut.clone();
    thread::spawn(move || {
        let near = listener.accept().unwrap().0;
        let far = TcpStream::connect(to).unwrap();
        let pass = |mut from: TcpStream, mut to: TcpStream, cut: Arc<AtomicBool>| {
            thread::spawn(move || {
                let mut buffer = [0; 65536];
                while let Ok(n @ 1..) = from.read(&mut buffer) {
                    while cut.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(50));
                    }
                    let _ = to.write_all(&buffer[..n]);
                }
            })
        };
        let _ = pass(near.try_clone().unwrap(), far.try_clone().unwrap(), cut.clone());
        let _ = pass(far, near, cut);
    });
    (address, is_cut)
}

#[test]
fn a_slow_server_is_waited_for_and_a_cut_link_is_not() {
    let site = Site::new("sleep 8; cat", None);
    let (near, is_cut) = proxy(site.address);
    let (mut link, _) = open(&near.to_string(), &key(KEY), &Version::ours()).unwrap();
    // More than all buffers on the way hold, so that this side's writes stall as well.
    echoed(&mut link, &[request(9, &vec![3; 30 << 20])]);
    is_cut.store(true, std::sync::atomic::Ordering::SeqCst);
    let (error, time) = failure(link);
    assert_eq!(error, "nothing was heard for 6 s");
    assert!(time < Duration::from_secs(8), "{time:?}");
    site.logged(&["dropped: nothing was heard for 6 s"]);
}
